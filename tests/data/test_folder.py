import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data import DATASETS
from twostage.data.check import check_dataset
from twostage.data.folder import Folder, check_folder
from twostage.errors import TwoStageError


def save(path: Path, width: int = 12, height: int = 10, mode: str = "RGB", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes in train (three and two images), one of them in test."""
    for seed, name in enumerate(("cat/b.png", "cat/a.jpg", "cat/deep/c.PNG", "dog/a.webp", "dog/b.bmp")):
        save(tmp_path / "train" / name, seed=seed)
    save(tmp_path / "test" / "dog" / "x.jpeg")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("not an image either")
    return tmp_path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def refused(root: Path, *parts: str, split: str = "train", **options: object) -> None:
    with pytest.raises(TwoStageError) as error:
        Folder(split, root=str(root), image_size=8, **options)  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_classes_and_order(root: Path) -> None:
    dataset = Folder("train", root=str(root), image_size=8)
    assert (dataset.classes, dataset.image_size, dataset.channels) == (["cat", "dog"], 8, 3)
    assert [path.name for path in dataset.paths] == ["a.jpg", "b.png", "c.PNG", "a.webp", "b.bmp"]
    assert [dataset[i]["class_label"] for i in range(len(dataset))] == [0, 0, 0, 1, 1]


def test_test_labels_are_those_of_train(root: Path) -> None:
    dataset = Folder("test", root=str(root), image_size=8)
    assert dataset.classes == ["cat", "dog"]
    assert [dataset[i]["class_label"] for i in range(len(dataset))] == [1]


@pytest.mark.parametrize("name", ["val", "validation"])
def test_other_names_of_test(root: Path, name: str) -> None:
    (root / "test").rename(root / name)
    assert len(Folder("test", root=str(root), image_size=8)) == 1


def test_no_class_folders(tmp_path: Path) -> None:
    save(tmp_path / "train" / "b.png")
    save(tmp_path / "train" / "a.png")
    dataset = Folder("train", root=str(tmp_path), image_size=8)
    assert (dataset.classes, [path.name for path in dataset.paths]) == ([], ["a.png", "b.png"])
    assert dataset[1]["class_label"] == 0


def test_no_split_folders(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "dog" / "a.png")
    assert Folder("train", root=str(tmp_path), image_size=8).classes == ["cat", "dog"]
    refused(tmp_path, str(tmp_path), "has no test images", "validation", split="test")


def test_pixels_are_the_centre_square(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 13, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = Folder("train", root=str(tmp_path), image_size=8)[0]["images"].numpy()
    np.testing.assert_allclose(image, pixels[:, 2:10].transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    image = Folder("train", root=str(tmp_path), image_size=8, channels=1)[0]["images"]
    assert image.shape == (1, 8, 8)
    assert image.abs().max() < 0.1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_same_shape(tmp_path: Path, mode: str, channels: int) -> None:
    save(tmp_path / "a.png", mode=mode)
    component = DATASETS.resolve(
        {"name": "folder", "root": str(tmp_path), "image_size": 8, "channels": channels}, "data"
    )
    image = DATASETS.build(component, split="train")[0]["images"]
    assert image.shape == (channels, 8, 8)
    assert image.min() >= -1 and image.max() <= 1


def test_a_corrupt_image_is_named_and_refused(root: Path) -> None:
    bad = [truncate(root / "train" / "cat" / "a.jpg"), truncate(root / "train" / "dog" / "a.webp")]
    refused(root, "2 of the train images corrupt", *map(str, bad), "on_corrupt")


def test_a_corrupt_image_is_named_and_skipped(root: Path) -> None:
    bad = truncate(root / "train" / "cat" / "b.png")
    with pytest.warns(UserWarning, match=r"1 of the train images corrupt: .*b\.png") as caught:
        dataset = Folder("train", root=str(root), image_size=8, on_corrupt="skip")
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert len(dataset) == 4 and bad not in dataset.paths
    assert [dataset[i]["class_label"] for i in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_every_kind_of_damage_is_found(tmp_path: Path, suffix: str, damage: str) -> None:
    path = save(tmp_path / f"a.{suffix}", 64, 64)
    contents = {"empty": b"", "text": b"<html>404</html>", "truncated": path.read_bytes()[: path.stat().st_size // 2]}
    path.write_bytes(contents[damage])
    refused(tmp_path, f"a.{suffix}")


def test_sixteen_bit_images_are_not_clipped_in_silence(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    refused(tmp_path, "a.png", "8 bits")


def test_good_images_give_no_warning(root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Folder("train", root=str(root), image_size=8, on_corrupt="skip")


def test_only_corrupt_images(tmp_path: Path) -> None:
    truncate(save(tmp_path / "a.png"))
    refused(tmp_path, "a.png", "no image is left", on_corrupt="skip")


def test_an_image_that_vanishes_later(root: Path) -> None:
    dataset = Folder("train", root=str(root), image_size=8)
    dataset.paths[0].unlink()
    with pytest.raises(TwoStageError, match=r"a\.jpg: can no longer be read"):
        dataset[0]


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "no such folder")


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), "holds no images", ".png")


def test_no_images_in_the_split(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    refused(tmp_path, str(tmp_path / "train"), "holds no images")


def test_missing_split(root: Path) -> None:
    (root / "train").rename(root / "training")
    refused(root, "has no train images", "a folder train")


def test_images_beside_class_folders(root: Path) -> None:
    save(root / "train" / "stray.png")
    refused(root, "stray.png", "cat, dog")


def test_a_class_that_only_test_has(root: Path) -> None:
    save(root / "test" / "emu" / "a.png")
    refused(root, "emu", "cat, dog", split="test")


def test_report(root: Path) -> None:
    bad = truncate(save(root / "train" / "dog" / "large.png", 40, 30))
    save(root / "train" / "dog" / "small.png", 5, 5, mode="L")
    report = check_folder(root, "train")
    assert report.class_counts == {"cat": 3, "dog": 3}
    assert report.sizes == {(12, 10): 5, (5, 5): 1}
    assert list(report.corrupt) == [bad] and "truncated" in report.corrupt[bad]
    assert report.channels == 3


def test_check(root: Path) -> None:
    bad = truncate(root / "train" / "dog" / "a.webp")
    report = check_dataset(root)
    assert (report.kind, report.corrupt) == ("folder", 1)
    assert report.splits["train"].classes == {"cat": 3, "dog": 1}
    assert report.splits["test"].classes == {"cat": 0, "dog": 1}
    assert f"  {bad}: " in report.describe()


def test_check_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(TwoStageError, match="nowhere: no such folder"):
        check_dataset(tmp_path / "nowhere")


def test_check_knows_gray(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", mode="L")
    assert check_dataset(tmp_path).splits["train"].channels == 1
