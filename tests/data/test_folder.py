import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from twostage.data import DATASETS
from twostage.data.folder import folder
from twostage.data.images import to_uint8
from twostage.data.loader import ordered_batches
from twostage.data.stored import StoredImages
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


def build(split: str, root: Path, **options: object) -> StoredImages:
    return folder(split, root=str(root), **{"image_size": 8, **options})  # type: ignore[arg-type]


def names(dataset: StoredImages) -> list[str]:
    return [Path(dataset.where(i)).name for i in range(len(dataset))]


def refused(root: Path, *parts: str, split: str = "train", **options: object) -> None:
    with pytest.raises(TwoStageError) as error:
        build(split, root, **options)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_classes_and_order(root: Path) -> None:
    dataset = build("train", root)
    assert (dataset.classes, dataset.image_size, dataset.channels) == (["cat", "dog"], 8, 3)
    assert names(dataset) == ["a.jpg", "b.png", "c.PNG", "a.webp", "b.bmp"]
    assert [dataset[i]["class_label"] for i in range(len(dataset))] == [0, 0, 0, 1, 1]


def test_test_labels_are_those_of_train(root: Path) -> None:
    dataset = build("test", root)
    assert dataset.classes == ["cat", "dog"]
    assert [dataset[i]["class_label"] for i in range(len(dataset))] == [1]


@pytest.mark.parametrize("name", ["val", "validation"])
def test_other_names_of_test(root: Path, name: str) -> None:
    (root / "test").rename(root / name)
    assert len(build("test", root)) == 1


def test_folders_whose_names_only_begin_like_a_split(root: Path) -> None:
    for name in ("train-old", "train.d", "train0", "training", "trai"):
        save(root / name / "emu" / "a.png")
    dataset = build("train", root)
    assert (dataset.classes, len(dataset)) == (["cat", "dog"], 5)


def test_no_class_folders(tmp_path: Path) -> None:
    save(tmp_path / "train" / "b.png")
    save(tmp_path / "train" / "a.png")
    dataset = build("train", tmp_path)
    assert (dataset.classes, names(dataset)) == ([], ["a.png", "b.png"])
    assert dataset[1]["class_label"] == 0


def test_no_split_folders(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "dog" / "a.png")
    assert build("train", tmp_path).classes == ["cat", "dog"]
    refused(tmp_path, str(tmp_path), "has no test images", "validation", split="test")


def test_pixels_are_the_centre_square(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 13, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = build("train", tmp_path)[0]["images"].numpy()
    np.testing.assert_allclose(image, pixels[:, 2:10].transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    image = build("train", tmp_path, channels=1)[0]["images"]
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


def test_nothing_is_decoded_before_it_is_asked_for(root: Path) -> None:
    truncate(root / "train" / "cat" / "b.png")
    dataset = build("train", root)
    assert len(dataset) == 5
    assert dataset[0]["images"].shape == (3, 8, 8)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named_with_what_to_do(root: Path, workers: int) -> None:
    bad = truncate(root / "train" / "cat" / "b.png")
    with pytest.raises(TwoStageError) as error:
        list(ordered_batches(build("train", root), 4, workers))
    message = str(error.value)
    assert message.startswith(f"{bad}: corrupt (") and "\n" not in message
    assert "twostage data check" in message and "on_corrupt: skip" in message


def test_the_next_good_image_stands_in(root: Path) -> None:
    good = build("train", root)
    expected = [good[i] for i in (2, 2, 2, 3, 2)]
    for name in ("cat/a.jpg", "cat/b.png", "dog/b.bmp"):
        truncate(root / "train" / name)
    dataset = build("train", root, on_corrupt="skip")
    with pytest.warns(UserWarning, match="corrupt .*; the next image stands in for it") as said:
        found = [dataset[i] for i in (*range(5), *range(5))][5:]
    assert [str(warning.message).split(": ")[0][-5:] for warning in said] == ["a.jpg", "b.png", "b.bmp"]
    assert [one["class_label"] for one in found] == [0, 0, 0, 1, 0]
    assert all(torch.equal(one["images"], other["images"]) for one, other in zip(found, expected))


def test_only_corrupt_images(tmp_path: Path) -> None:
    truncate(save(tmp_path / "a.png"))
    dataset = build("train", tmp_path, on_corrupt="skip")
    with pytest.warns(UserWarning), pytest.raises(TwoStageError, match=r"a\.png: corrupt .*; and so are all"):
        dataset[0]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif", "ppm", "npy"])
@pytest.mark.parametrize("damage", ["none", "empty", "text", "truncated", "gone"])
def test_every_kind_of_damage_is_found(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, np.zeros((1, 3, 64, 64), np.uint8))
    else:
        save(path, 64, 64)
    dataset = build("train", tmp_path)
    contents = {"empty": b"", "text": b"<html>404</html>", "truncated": path.read_bytes()[: path.stat().st_size // 2]}
    if damage in contents:
        path.write_bytes(contents[damage])
    if damage == "gone":
        path.unlink()
    if damage == "none":
        assert dataset[0]["images"].shape == (3, 8, 8)
    else:
        with pytest.raises(TwoStageError, match=rf"a\.{suffix}: corrupt \("):
            dataset[0]


def test_sixteen_bit_images_are_not_clipped_in_silence(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(TwoStageError, match=r"a\.png.*more than 8 bits"):
        build("train", tmp_path)[0]


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("leading", [True, False])
@pytest.mark.parametrize("planes_first", [True, False])
def test_arrays_in_any_order_of_axes(tmp_path: Path, gray: bool, leading: bool, planes_first: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 1 if gray else 3), dtype=np.uint8)
    array = pixels.transpose(2, 0, 1) if planes_first else pixels
    np.save(tmp_path / "a.npy", array[None] if leading else array)
    image = build("train", tmp_path, image_size=6)[0]["images"]
    expected = torch.from_numpy(pixels[:, 1:7].transpose(2, 0, 1).copy()).expand(3, -1, -1)
    assert torch.equal(to_uint8(image), expected)


def test_an_array_without_channels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((6, 8), 255, np.uint8))
    assert torch.equal(build("train", tmp_path, channels=1)[0]["images"], torch.ones(1, 8, 8))


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.float32), np.zeros((2, 3, 4, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_arrays_that_are_no_image(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(TwoStageError, match=r"a\.npy: corrupt \(an array .*allowed: one image, uint8"):
        build("train", tmp_path)[0]


def test_an_index_beyond_the_end(root: Path) -> None:
    dataset = build("train", root)
    assert torch.equal(dataset[-1]["images"], dataset[4]["images"])
    with pytest.raises(IndexError):
        dataset[5]


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "no such folder")


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), "holds no images", ".png")


def test_no_images_in_the_split(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    refused(tmp_path, str(tmp_path), "holds no images")


def test_missing_split(root: Path) -> None:
    (root / "train").rename(root / "training")
    refused(root, "has no train images", "a folder train")


def test_images_beside_class_folders(root: Path) -> None:
    save(root / "train" / "stray.png")
    refused(root, "stray.png", "cat, dog")


def test_a_class_that_only_test_has(root: Path) -> None:
    save(root / "test" / "emu" / "a.png")
    refused(root, "emu", "cat, dog", split="test")


@pytest.mark.parametrize("count", [1, 3, 7])
def test_holding_out_takes_of_each_class_its_share(tmp_path: Path, count: int) -> None:
    for i in range(10):
        save(tmp_path / ("cat", "dog")[i >= 5] / f"{i}.png")
    train, test = (build(split, tmp_path, held_out=count) for split in ("train", "test"))
    assert sorted(names(train) + names(test)) == [f"{i}.png" for i in range(10)]
    assert len(test) == count and train.classes == test.classes == ["cat", "dog"]
    labels = [test[i]["class_label"] for i in range(count)]
    assert abs(labels.count(0) - labels.count(1)) <= 1


def test_holding_out_of_a_train_folder_alone(root: Path) -> None:
    for path in (root / "test").rglob("*"):
        if path.is_file():
            path.unlink()
    assert (len(build("train", root, held_out=2)), len(build("test", root, held_out=2))) == (3, 2)


@pytest.mark.parametrize("split", ["train", "test"])
def test_holding_out_beside_a_test_folder_or_everything(root: Path, tmp_path: Path, split: str) -> None:
    refused(root, "held_out: 2", "allowed: 0", str(root / "test"), split=split, held_out=2)
    save(root / "flat" / "a.png")
    refused(root / "flat", "held_out: 1", "fewer than the 1 images", split=split, held_out=1)


def test_lists_decide_what_and_in_which_order(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/3.png"):
        save(tmp_path / "images" / name)
    (tmp_path / "train.txt").write_text("b/3.png\n2.npy\n")
    (tmp_path / "test.txt").write_text("b/1.png\n")
    lists = {"train_list": str(tmp_path / "train.txt"), "test_list": str(tmp_path / "test.txt")}
    dataset = build("train", tmp_path / "images", **lists)
    assert names(dataset) == ["3.png", "2.png"]
    assert [dataset[i]["class_label"] for i in range(2)] == [1, 0]
    assert names(build("test", tmp_path / "images", **lists)) == ["1.png"]
    refused(tmp_path / "images", "data.test_list", "None", split="test", train_list=lists["train_list"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("b/9.png", "line 1: there is no image b/9.png"),
        ("a/1.png\n1.png", "line 2: several"),
        ("\n", "list of images is empty"),
    ],
)
def test_lists_of_what_is_not_there(tmp_path: Path, text: str, complaint: str) -> None:
    for name in ("a/1.png", "b/1.png"):
        save(tmp_path / "images" / name)
    (tmp_path / "list.txt").write_text(text)
    refused(tmp_path / "images", "list.txt", complaint, train_list=str(tmp_path / "list.txt"))
    refused(tmp_path / "images", "nowhere.txt", "could not be read", train_list=str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize("nested", [True, False])
def test_what_lsun_exports(tmp_path: Path, nested: bool) -> None:
    """Its keys are hexadecimal; unless it is told to keep all files together, six digits become six folders."""
    keys = ["0a1b2c3d", "0a1b2c4e", "f00ba4aa"]
    for key in keys:
        save(tmp_path / ("/".join(key[:6]) if nested else "") / f"{key}.webp")
    dataset = build("train", tmp_path, labels="none")
    assert (names(dataset), dataset.classes) == ([f"{key}.webp" for key in keys], [])


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = save(tmp_path / "elsewhere" / "x.png").parent
    images = save(tmp_path / "images" / "cat" / "a.png").parents[1]
    (images / "dog").symlink_to(elsewhere)
    (images / "cat" / "round").symlink_to(images)
    (elsewhere / "back").symlink_to(images / "cat")
    (images / "cat" / "lost.png").symlink_to(tmp_path / "lost.png")
    dataset = build("train", images)
    assert dataset.classes == ["cat", "dog"]
    assert names(dataset) == ["a.png", "lost.png", "a.png", "lost.png", "x.png"]
    with pytest.raises(TwoStageError, match=r"lost\.png: corrupt \(No such file"):
        dataset[1]


def test_links_into_one_another(tmp_path: Path) -> None:
    for name, other in ("ab", "ba"):
        save(tmp_path / name / f"{name}.png")
        (tmp_path / name / "to").symlink_to(tmp_path / other)
    assert names(build("train", tmp_path)) == ["a.png", "b.png", "b.png", "a.png"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    save(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xc3\xa9.png"))
    assert build("train", tmp_path)[0]["images"].shape == (3, 8, 8)
