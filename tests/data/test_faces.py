import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data import DATASETS
from twostage.data.faces import celebahq, ffhq
from twostage.errors import TwoStageError


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


def names(dataset) -> list[str]:
    return [Path(dataset.where(i)).name for i in range(len(dataset))]


def test_the_published_splits_are_the_defaults() -> None:
    defaults = {name: DATASETS.resolve({"name": name, "root": "x"}, "data") for name in ("ffhq", "celebahq")}
    assert {name: options["held_out"] for name, options in defaults.items()} == {"ffhq": 10_000, "celebahq": 5_000}
    assert {options["image_size"] for options in defaults.values()} == {256}


@pytest.mark.parametrize("form", ["{:05d}.png", "{folder:05d}/{:05d}.png", "{}.jpg", "imgHQ{:05d}.png"])
def test_the_highest_numbers_are_held_out(tmp_path: Path, form: str) -> None:
    for i in range(12):
        save(tmp_path / form.format(i, folder=i // 3 * 1000))
    train, test = (ffhq(split, root=str(tmp_path), image_size=4, held_out=3) for split in ("train", "test"))
    assert sorted(names(test)) == sorted(Path(form.format(i, folder=0)).name for i in (9, 10, 11))
    assert len(train) == 9 and not set(names(train)) & set(names(test))
    assert train.classes == test.classes == []


def test_lists_of_another_kind_of_file(tmp_path: Path) -> None:
    """The lists of taming-transformers name imgHQ00000.npy and 00000.png, whatever one's own files are."""
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for i in range(4):
            save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"celeba/00000/imgHQ{i:05d}.png")
    (tmp_path / "train.txt").write_text("imgHQ00003.npy\nimgHQ00000.npy\n")
    (tmp_path / "test.txt").write_text("imgHQ00002.npy\n")
    lists = {"train_list": str(tmp_path / "train.txt"), "test_list": str(tmp_path / "test.txt")}
    train, test = (celebahq(split, root=str(tmp_path / "faces.zip"), **lists) for split in ("train", "test"))
    assert (names(train), names(test)) == (["imgHQ00003.png", "imgHQ00000.png"], ["imgHQ00002.png"])


def test_folders_of_splits_count_where_there_are_any(tmp_path: Path) -> None:
    for name in ("train/0.png", "train/9.png", "val/1.png"):
        save(tmp_path / name)
    train, test = (celebahq(split, root=str(tmp_path), image_size=4) for split in ("train", "test"))
    assert (names(train), names(test)) == (["0.png", "9.png"], ["1.png"])


def test_nothing_held_out(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png")
    assert len(ffhq("train", root=str(tmp_path), held_out=0)) == 3
    with pytest.raises(TwoStageError, match="has no test images"):
        ffhq("test", root=str(tmp_path), held_out=0)


def test_fewer_images_than_are_held_out(tmp_path: Path) -> None:
    save(tmp_path / "0.png")
    with pytest.raises(TwoStageError, match="held_out: 10000 is not allowed; allowed: fewer than the 1 images"):
        ffhq("train", root=str(tmp_path))
