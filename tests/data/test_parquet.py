"""Streamed Parquet files: the images and labels that `hf` finds there, in an order that reads every group once."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from twostage.data.hf import hf
from twostage.data.loader import Order, ordered_batches, training_batches
from twostage.data.parquet import parquet
from twostage.data.sources import row_groups
from twostage.data.sources.row_groups import ParquetFile, RowGroups
from twostage.errors import TwoStageError

datasets = pytest.importorskip("datasets")
COUNT, GROUP = 230, 10


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def table(values, **columns):
    rows = datasets.Dataset.from_dict({"image": [{"bytes": png(v), "path": None} for v in values], **columns})
    return rows.cast_column("image", datasets.Image())


def write(path: Path, rows, group: int = GROUP) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(str(path), batch_size=group)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two files of training images, image i of brightness i, and a file of test images; groups of ten rows."""
    kinds = datasets.ClassLabel(names=["even", "odd"])

    def part(*numbers):
        rows = list(range(*numbers))
        return table(rows, label=[i % 2 for i in rows]).cast_column("label", kinds)

    write(tmp_path / "set" / "train-0.parquet", part(125))
    write(tmp_path / "set" / "train-1.parquet", part(125, COUNT))
    write(tmp_path / "set" / "test-0.parquet", part(7, 12))
    return tmp_path / "set"


@pytest.fixture
def read(monkeypatch) -> Counter:
    """How often each row group was read, by file and number."""
    counts, group = Counter(), ParquetFile.group

    def counted(self, number, column):
        counts[self.url, number] += 1
        return group(self, number, column)

    monkeypatch.setattr(ParquetFile, "group", counted)
    return counts


def values(batch) -> list[int]:
    return ((batch["images"].mean((1, 2, 3)) + 1) * 127.5).round().int().tolist()


@pytest.mark.parametrize("split", ["train", "test"])
def test_it_is_what_hf_finds(root: Path, split) -> None:
    whole, streamed = (made(split, root=str(root), image_size=4) for made in (hf, parquet))
    assert (len(streamed), streamed.classes) == (len(whole), whole.classes)
    for i in (0, 3, len(whole) - 1, 4):
        assert torch.equal(streamed[i]["images"], whole[i]["images"])
        assert streamed[i]["class_label"] == whole[i]["class_label"]
    assert streamed.where(4) == whole.where(4) == f"{root}, row 4"


def test_one_file_with_texts_as_labels_or_none(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", table([1, 2, 3], what=["dog", "cat", "dog"]))
    dataset = parquet("train", root=str(tmp_path / "x.parquet"), image_size=4, label_column="what")
    assert ([dataset[i]["class_label"] for i in range(3)], dataset.classes) == ([1, 0, 1], ["cat", "dog"])
    assert parquet("train", root=str(tmp_path / "x.parquet"), image_size=4).classes == []


def test_the_test_split_is_one_with_labels(tmp_path: Path) -> None:
    for name, label in (("train", 0), ("validation", 1), ("test", -1)):
        kinds = datasets.ClassLabel(names=["a", "b"])
        write(tmp_path / "set" / f"{name}.parquet", table([9], label=[label]).cast_column("label", kinds))
    assert parquet("test", root=str(tmp_path / "set"), image_size=4)[0]["class_label"] == 1


def order(start: int = 0, **options) -> Order:
    return Order(**{"count": COUNT, "batch_size": 32, "steps": 15, "seed": 3, "start_step": start, **options})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_was_stopped_goes_on_to_the_same_batches(root: Path, workers: int) -> None:
    """Two epochs of it; stopped within windows and epochs."""
    made = lambda: parquet("train", root=str(root), image_size=4, buffer=64)  # noqa: E731
    whole = [values(batch) for batch in training_batches(made(), order(), 0)]
    for start in (5, 13):
        late = [values(batch) for batch in training_batches(made(), order(start), workers)]
        assert late == whole[start:]
    flat = [value for batch in whole for value in batch]
    assert sorted(flat[:COUNT]) == sorted(flat[COUNT : 2 * COUNT]) == list(range(COUNT))
    assert flat[:COUNT] != flat[COUNT : 2 * COUNT]
    assert flat[:COUNT] != list(range(COUNT))


def test_processes_take_slices_of_every_batch(root: Path) -> None:
    dataset = parquet("train", root=str(root), image_size=4, buffer=64)
    whole = [values(batch) for batch in training_batches(dataset, order(), 0)]
    shares = [[values(b) for b in training_batches(dataset, order(rank=rank, world=2), 0)] for rank in range(2)]
    assert [first + second for first, second in zip(*shares)] == whole


def test_an_epoch_reads_every_group_once_and_forgets_it(root: Path, read: Counter) -> None:
    dataset = parquet("train", root=str(root), image_size=4, buffer=COUNT)
    read.clear()
    for _ in training_batches(dataset, order(steps=1, batch_size=COUNT), 0):
        assert len(read) == 24
        assert set(read.values()) == {1}
    assert not dataset.source._held


def test_what_is_in_memory_is_bounded(root: Path, read: Counter) -> None:
    """Each group wanted once only: none is read to its end."""
    dataset = parquet("train", root=str(root), image_size=4, buffer=1)
    for i in range(0, COUNT, GROUP):
        dataset[i]
        assert len(dataset.source._held) <= dataset.source.held < 12


def test_one_pass_in_order_reads_every_group_once(root: Path, read: Counter) -> None:
    dataset = parquet("train", root=str(root), image_size=4)
    read.clear()
    assert [v for batch in ordered_batches(dataset, 32) for v in values(batch)] == list(range(COUNT))
    assert set(read.values()) == {1}


def test_images_that_stand_for_the_others_come_from_few_groups(root: Path, read: Counter) -> None:
    dataset = parquet("train", root=str(root), image_size=4)
    read.clear()
    chosen = dataset.spread(30)
    assert len(set(chosen)) == 30
    for i in chosen:
        dataset[i]
    assert len(read) <= 5
    assert max(chosen) - min(chosen) > COUNT // 2
    assert sorted(dataset.spread(1000)) == list(range(COUNT))


def test_files_behind_a_url(root: Path) -> None:
    """A file system that is none; a row group that is gone in the midst of it."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/streamed/a.parquet", (root / "train-0.parquet").read_bytes())
    rows = RowGroups(Path("set"), ["memory://streamed/a.parquet"])
    rows.image_column = "image"
    assert rows.read(17) == png(17)
    memory.rm("/streamed/a.parquet")
    with pytest.raises(TwoStageError, match=r"memory://streamed/a\.parquet: row group 3: could not be read \("):
        rows.read(35)


def test_corrupt_images(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"image": [png(1), b"nonsense", None, png(4)]})
    write(tmp_path / "x.parquet", rows)
    options = {"root": str(tmp_path / "x.parquet"), "image_size": 4}
    with pytest.raises(TwoStageError, match=r"x\.parquet, row 1: corrupt \(no image of a known format\)"):
        parquet("train", **options)[1]
    with pytest.raises(TwoStageError, match=r"x\.parquet, row 2: corrupt \(holds no bytes"):
        parquet("train", **options)[2]
    with pytest.warns(UserWarning, match="stands in"):
        assert values({"images": parquet("train", on_corrupt="skip", **options)[1]["images"][None]}) == [4]


def test_what_is_no_parquet(tmp_path: Path, monkeypatch, root: Path) -> None:
    def refused(match: str, where: Path, **options) -> None:
        with pytest.raises(TwoStageError, match=match):
            parquet("train", root=str(where), image_size=4, **options)

    (tmp_path / "x.parquet").write_bytes(b"nonsense")
    refused(r"x\.parquet: could not be read as a Parquet file \(", tmp_path / "x.parquet")
    (tmp_path / "x.arrow").write_bytes(b"")
    refused(r"data\.root: .*x\.arrow' is not allowed; allowed: a folder, or a file \.parquet", tmp_path / "x.arrow")
    refused("nowhere: no such folder", tmp_path / "nowhere")
    (tmp_path / "tree" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "tree" / "train" / "cat" / "0.png").write_bytes(png(0))
    refused(r"tree: data files: .*0\.png' is not allowed; allowed: Parquet; name: hf reads", tmp_path / "tree")
    refused("label_column: has no column 'c'; allowed: image, label", root, label_column="c")
    write(root / "train-2.parquet", table([1], other=[1]))
    refused(r"train-2\.parquet: columns: 'image, other' is not allowed; allowed: image, label", root)
    (root / "train-2.parquet").unlink()
    monkeypatch.setattr(row_groups, "LARGEST", 100)
    refused("size of row group 0: '0 MB' is not allowed; allowed: up to 0 MB; write the file anew", root)
