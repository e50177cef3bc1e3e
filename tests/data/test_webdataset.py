import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data.sources import listing
from twostage.data.webdataset import webdataset
from twostage.errors import TwoStageError


def write(path: Path, samples: dict[str, str | None], ending: str = "png") -> Path:
    """A shard with an image, its label if there is one, and a file of no interest for each sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(image, "PNG")
    with tarfile.open(path, "w") as tar:
        for key, label in samples.items():
            files = {ending: image.getvalue(), "json": b"{}"} | ({} if label is None else {"cls": label.encode()})
            for name, content in files.items():
                member = tarfile.TarInfo(f"{key}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def labels(dataset) -> list[int]:
    return [dataset[i]["class_label"] for i in range(len(dataset))]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("set-train-0.tar", "set-validation-0.tar"),
        ("train/0.tar", "val/0.tar"),
        ("0.tar", "test_0.tar"),
        ("latest.tar", "my.val.0.tar"),
    ],
)
def test_splits_by_the_names_of_shards(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path / train, {"a": "0", "b": "11"})
    write(tmp_path / test, {"a": "3"})
    found = [webdataset(split, root=str(tmp_path), image_size=4) for split in ("train", "test")]
    assert [labels(dataset) for dataset in found] == [[0, 11], [3]]
    assert [dataset.classes for dataset in found] == [[str(i) for i in range(12)]] * 2


def test_keys_with_folders_and_dots_in_them(tmp_path: Path) -> None:
    write(tmp_path / "1.tar", {"n01/x_1": "1", "n.02/x_2": "2"})
    write(tmp_path / "0.tar", {"n01/x_1": "3\n"})
    dataset = webdataset("train", root=str(tmp_path), image_size=4, classes=["a", "b", "c", "d"])
    assert (labels(dataset), dataset.classes) == ([3, 2, 1], ["a", "b", "c", "d"])


def test_one_shard_and_no_labels(tmp_path: Path) -> None:
    dataset = webdataset("train", root=str(write(tmp_path / "a.tar", {"x": None, "y": None})), image_size=4)
    assert (labels(dataset), dataset.classes) == ([0, 0], [])


def test_a_sample_is_called_by_what_is_before_the_first_dot(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"sample_1": "1"}, ending="left.png")
    assert labels(webdataset("train", root=str(tmp_path), image_size=4)) == [1]


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        ({"x": "1", "y": None}, r"a\.tar/y\.cls: is missing"),
        ({"x": "cat"}, r"a\.tar/x\.cls: holds b'cat'; allowed: a number"),
        ({"x": "-1"}, r"a\.tar/x\.cls: holds b'-1'; allowed: a number"),
        ({}, "the shards hold no images"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, samples: dict[str, str | None], complaint: str) -> None:
    write(tmp_path / "a.tar", samples)
    with pytest.raises(TwoStageError, match=complaint):
        webdataset("train", root=str(tmp_path), image_size=4)


def test_too_few_names(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"x": "2"})
    with pytest.raises(TwoStageError, match=r"data\.classes: '2 names' is not allowed; allowed: 3"):
        webdataset("train", root=str(tmp_path), image_size=4, classes=["a", "b"])


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TwoStageError, match="holds no tar shards"):
        webdataset("train", root=str(tmp_path), image_size=4)
    write(tmp_path / "a.tar", {"x": "2"})
    with pytest.raises(TwoStageError, match="has no test images; allowed: shards with test or val or validation"):
        webdataset("test", root=str(tmp_path), image_size=4)


def test_a_listing_that_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(listing, "WORTH_KEEPING", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "a.tar", {"x": "2", "y": "1"})
    first = webdataset("train", root=str(tmp_path), image_size=4)
    assert len(list((tmp_path / "cache" / "twostage" / "listings").iterdir())) == 2
    monkeypatch.setattr(tarfile, "open", None)
    second = webdataset("train", root=str(tmp_path), image_size=4)
    assert labels(first) == labels(second) == [2, 1]
    shard = webdataset("train", root=str(tmp_path / "a.tar"), image_size=4)
    assert (first.where(0), shard.where(0)) == (f"{tmp_path}/a.tar/x.png",) * 2
