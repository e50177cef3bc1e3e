import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twostage.data.hf import hf
from twostage.errors import TwoStageError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def table(columns: dict[str, list[Any]], **features: Any) -> Any:
    rows = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        rows = rows.cast_column(name, feature)
    return rows


def images(*values: int) -> list[dict[str, Any]]:
    return [{"bytes": png(value), "path": None} for value in values]


def seen(dataset) -> list[tuple[int, int]]:
    return [
        (round((example["images"].mean().item() + 1) * 127.5), example["class_label"])
        for example in (dataset[i] for i in range(len(dataset)))
    ]


def test_a_saved_data_set_with_named_classes_and_withheld_labels(tmp_path: Path) -> None:
    kinds = datasets.ClassLabel(names=["cat", "dog"])
    splits = {
        "train": table({"picture": images(1, 2), "kind": [1, 0]}, picture=datasets.Image(), kind=kinds),
        "validation": table({"picture": images(3), "kind": [1]}, picture=datasets.Image(), kind=kinds),
        "test": table({"picture": images(4), "kind": [-1]}, picture=datasets.Image(), kind=kinds),
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    train, test = (hf(split, root=str(tmp_path / "saved"), image_size=4) for split in ("train", "test"))
    assert (seen(train), seen(test)) == ([(1, 1), (2, 0)], [(3, 1)])
    assert train.classes == test.classes == ["cat", "dog"]
    assert test.where(0) == f"{tmp_path / 'saved'}, row 0"


def test_one_file_with_texts_as_labels_in_columns_that_are_named(tmp_path: Path) -> None:
    rows = table({"a": images(1, 2, 3), "b": images(4, 5, 6), "what": ["dog", "cat", "dog"]})
    rows.to_parquet(str(tmp_path / "x.parquet"))
    options = {"root": str(tmp_path / "x.parquet"), "image_size": 4}
    dataset = hf("train", image_column="b", label_column="what", **options)
    assert (seen(dataset), dataset.classes) == ([(4, 1), (5, 0), (6, 1)], ["cat", "dog"])
    with pytest.raises(TwoStageError, match=r"x\.parquet: train: has no column of images; name one of a, b, what"):
        hf("train", **options)
    with pytest.raises(TwoStageError, match="label_column: has no column 'c'; allowed: a, b, what"):
        hf("train", image_column="b", label_column="c", **options)
    with pytest.raises(TwoStageError, match="has no test images among train; allowed: test, validation"):
        hf("test", image_column="b", **options)


def test_no_labels(tmp_path: Path) -> None:
    table({"image": images(1, 2)}).to_parquet(str(tmp_path / "train.parquet"))
    dataset = hf("train", root=str(tmp_path), image_size=4)
    assert (seen(dataset), dataset.classes) == ([(1, 0), (2, 0)], [])


@pytest.mark.parametrize("values", [[0.5, 1.5], [[0], [1]], [-1, 0]])
def test_labels_that_are_no_classes(tmp_path: Path, values: list[Any]) -> None:
    table({"image": images(1, 2), "label": values}).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(TwoStageError, match="label_column label: its values are no classes"):
        hf("train", root=str(tmp_path), image_size=4)


def test_an_image_folder_and_a_corrupt_file_in_it(tmp_path: Path) -> None:
    for i, name in enumerate(("train/cat/0.png", "train/dog/1.png")):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(png(i))
    dataset = hf("train", root=str(tmp_path / "tree"), image_size=4)
    assert (seen(dataset), dataset.classes) == ([(0, 0), (1, 1)], ["cat", "dog"])
    (tmp_path / "tree" / "train" / "dog" / "1.png").write_bytes(b"nonsense")
    with pytest.raises(TwoStageError, match=r"tree, row 1: corrupt"):
        dataset[1]


def test_what_the_library_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nonsense")
    with pytest.raises(TwoStageError, match=r"x\.parquet: could not be read by the library datasets \("):
        hf("train", root=str(tmp_path / "x.parquet"), image_size=4)
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(TwoStageError, match=r"data\.root: .*x\.txt' is not allowed; allowed: a folder, or a file"):
        hf("train", root=str(tmp_path / "x.txt"), image_size=4)
