"""What holds for every data set, wherever its images lie."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from twostage.data import DATASETS
from twostage.data.images import from_uint8
from twostage.data.loader import ordered_batches
from twostage.errors import TwoStageError

SIZE, TRAIN, COUNT = 8, 4, 6
WNIDS = ["n00000001", "n00000002"]
LABELS = [0, 0, 1, 1, 0, 1]
"""Six pictures, four of them for training, in two classes."""


def pixels(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def png(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(i)).save(file, "PNG")
    return file.getvalue()


def npy(i: int) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels(i).transpose(2, 0, 1)[None])
    return file.getvalue()


def split_of(i: int) -> str:
    return "train" if i < TRAIN else "val"


TREE = {f"{split_of(i)}/{WNIDS[LABELS[i]]}/{i:05d}.png": png(i) for i in range(COUNT)}
FACES = {f"{i:05d}.png": png(i) for i in range(COUNT)}
SHARDS = {
    f"{split_of(i)}-0000.tar": {
        f"{j:03d}.{ending}": content
        for j in range(COUNT)
        if split_of(j) == split_of(i)
        for ending, content in (("png", png(j)), ("cls", str(LABELS[j]).encode()))
    }
    for i in (0, TRAIN)
}


def to_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def to_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i, (name, content) in enumerate(files.items()):
            archive.writestr(name, content, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[i % 2])
    return path


def to_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def to_lmdb(root: Path) -> Path:
    import lmdb

    for name, numbers in (("cat_train_lmdb", range(TRAIN)), ("cat_val_lmdb", range(TRAIN, COUNT))):
        (root / name).mkdir(parents=True)
        with lmdb.open(str(root / name), map_size=2**20) as environment, environment.begin(write=True) as transaction:
            for i in numbers:
                transaction.put(f"{i:040x}".encode(), png(i))
    return root


def to_parquet(root: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir()
    for name, numbers in (("train", range(TRAIN)), ("test", range(TRAIN, COUNT))):
        rows = [{"image": {"bytes": png(i), "path": None}, "label": LABELS[i]} for i in numbers]
        pq.write_table(pa.Table.from_pylist(rows), root / f"{name}-00000-of-00001.parquet")
    return root


def to_idx(root: Path) -> Path:
    root.mkdir()
    for prefix in ("train", "t10k"):
        images = struct.pack(">4B3I", 0, 0, 8, 3, 2, 28, 28) + bytes(2 * 28 * 28)
        (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (root / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([0, 9]))
    return root


def to_cifar10(root: Path) -> Path:
    root.mkdir()
    batch = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 9]}, protocol=2)
    return to_folder(root, dict.fromkeys((*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"), batch))


@pytest.fixture(scope="module")
def components(tmp_path_factory) -> Iterator[dict[str, dict[str, Any]]]:
    """The same pictures in everything that can hold them, and what can only hold its own."""
    datasets = pytest.importorskip("datasets")
    home, held_out = tmp_path_factory.mktemp("data"), COUNT - TRAIN
    arrays = {f"imgHQ{i:05d}.npy": npy(i) for i in range(COUNT)}
    roots = {
        "folder": ("folder", to_folder(home / "tree", TREE), {}),
        "zip": ("folder", to_zip(home / "tree.zip", TREE), {}),
        "zip of a folder": ("folder", to_zip(home / "around.zip", {f"a/b/{k}": v for k, v in TREE.items()}), {}),
        "tar": ("folder", to_tar(home / "tree.tar", {f"./{k}": v for k, v in TREE.items()}), {}),
        "imagenet": ("imagenet", home / "tree", {}),
        "imagenet in a zip": ("imagenet", home / "tree.zip", {}),
        "lsun": ("lsun", to_lmdb(home / "lsun"), {"category": "cat"}),
        "ffhq": ("ffhq", to_folder(home / "ffhq", FACES), {"held_out": held_out}),
        "celebahq": ("celebahq", to_folder(home / "celebahq", arrays), {"held_out": held_out}),
        "webdataset": ("webdataset", home / "shards", {}),
        "hf": ("hf", to_parquet(home / "parquet"), {}),
        "parquet": ("parquet", home / "parquet", {}),
        "idx": ("idx", to_idx(home / "idx"), {}),
        "cifar10": ("cifar10", to_cifar10(home / "cifar10"), {}),
    }
    for name, files in SHARDS.items():
        to_tar(home / "shards" / name, files)
    found = {
        case: DATASETS.resolve({"name": name, "root": str(root), "image_size": SIZE, **options}, "data")
        for case, (name, root, options) in roots.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(home / "cache"))
        patch.setenv("XDG_CACHE_HOME", str(home / "listings"))
        datasets.disable_progress_bars()
        yield {**found, "shapes": DATASETS.resolve({"name": "shapes", "image_size": SIZE, "count": 6}, "data")}


SAME = [
    "folder",
    "zip",
    "zip of a folder",
    "tar",
    "imagenet",
    "imagenet in a zip",
    "lsun",
    "ffhq",
    "celebahq",
    "webdataset",
    "hf",
    "parquet",
]
EVERY = [*SAME, "idx", "cifar10", "shapes"]
every = pytest.mark.parametrize("case", EVERY)
same = pytest.mark.parametrize("case", SAME)


def test_no_data_set_is_left_out(components):
    assert list(components) == EVERY
    assert {component["name"] for component in components.values()} == set(DATASETS)


@every
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_labels_and_sizes(components, case, split):
    dataset = DATASETS.build(components[case], split=split)
    assert dataset.image_size == SIZE and len(dataset) > 0
    for i in range(len(dataset)):
        example = dataset[i]
        assert example["images"].dtype == torch.float32
        assert example["images"].shape == (dataset.channels, SIZE, SIZE)
        assert example["images"].is_contiguous() and example["images"].abs().max() <= 1
        assert type(example["class_label"]) is int
        assert 0 <= example["class_label"] < max(1, len(dataset.classes))
    assert len(list(dataset)) == len(dataset)


@every
def test_a_second_construction_and_a_copy_are_the_same(components, case):
    first, second = (DATASETS.build(components[case], split="train") for _ in range(2))
    copy = pickle.loads(pickle.dumps(first))
    for other in (second, copy):
        assert (len(other), other.classes) == (len(first), first.classes)
        assert all(torch.equal(other[i]["images"], first[i]["images"]) for i in range(len(first)))
        assert [other[i]["class_label"] for i in range(len(other))] == [e["class_label"] for e in first]


@same
def test_the_same_picture_whatever_holds_it(components, case):
    train, test = (DATASETS.build(components[case], split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (TRAIN, COUNT - TRAIN)
    for i, example in enumerate([*train, *test]):
        middle = Image.fromarray(pixels(i)[1:11]).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        assert torch.equal(example["images"], from_uint8(torch.from_numpy(np.array(middle))).permute(2, 0, 1))
        assert example["class_label"] == (LABELS[i] if train.classes else 0)
    assert train.classes == test.classes
    assert len(train.classes) == (0 if case in ("lsun", "ffhq", "celebahq") else 2)


@pytest.mark.parametrize("case", ["folder", "zip", "tar", "lsun", "webdataset", "hf"])
def test_workers_read_what_this_process_has_opened_too(components, case):
    dataset = DATASETS.build(components[case], split="train")
    here = [dataset[i]["images"] for i in range(TRAIN)]
    there = torch.cat([batch["images"] for batch in ordered_batches(dataset, 2, workers=1)])
    assert torch.equal(torch.stack(here), there)
    assert torch.equal(dataset[0]["images"], here[0])


@pytest.mark.parametrize("case", [case for case in EVERY if case != "shapes"])
def test_nothing_there(components, case, tmp_path):
    with pytest.raises(TwoStageError, match=r"nowhere: no such folder; allowed: ") as error:
        DATASETS.build({**components[case], "root": str(tmp_path / "nowhere")}, split="train")
    assert "\n" not in str(error.value)


@every
@pytest.mark.parametrize("value", [0, -8, "8", None])
def test_sizes_that_cannot_be(components, case, value):
    with pytest.raises(TwoStageError, match=r"data\.image_size"):
        DATASETS.resolve({**components[case], "image_size": value}, "data")
