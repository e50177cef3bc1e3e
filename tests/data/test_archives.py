"""Images in .zip and .tar archives."""

import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data.folder import folder
from twostage.data.stored import StoredImages
from twostage.errors import TwoStageError


def save(path: Path, size: int = 12) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return path


def build(split: str, archive: Path) -> StoredImages:
    return folder(split, root=str(archive), image_size=8)


def refused(archive: Path, why: str) -> None:
    with pytest.raises(TwoStageError, match=re.escape(why)):
        build("train", archive)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a/train/cat/1.png"], (["cat"], 1)),
        (["train/cat/1.png"], (["cat"], 1)),
        (["a/b/cat/1.png", "a/b/dog/1.png", "a/LICENSE"], (["cat", "dog"], 2)),
        (["cat/1.png"], (["cat"], 1)),
        (["1.png"], ([], 1)),
        (["a/cat/1.png", "__MACOSX/a/cat/._1.png", "a/.DS_Store"], (["cat"], 1)),
    ],
)
def test_folders_around_what_is_in_an_archive(
    tmp_path: Path, files: list[str], expected: tuple[list[str], int]
) -> None:
    image = save(tmp_path / "one.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in files:
            archive.writestr(name, image)
    dataset = build("train", tmp_path / "a.zip")
    assert (dataset.classes, len(dataset)) == expected
    assert dataset[0]["images"].shape == (3, 8, 8)


def test_an_archive_of_a_split_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(save(tmp_path / "one.png"), "val/cat/1.png")
    assert build("test", tmp_path / "a.zip").classes == ["cat"]


@pytest.mark.parametrize("name", ["tree.zip", "tree.tar", "tree.tar.gz", "tree.rar"])
def test_files_that_are_no_archives(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not an archive")
    refused(tmp_path / name, name)


def test_a_compressed_tar_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tree.tar", "w:gz"):
        pass
    refused(tmp_path / "tree.tar", "allowed: uncompressed tar archives")


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_an_archive_cut_short_while_it_is_read(tmp_path: Path, name: str) -> None:
    picture = save(tmp_path / "a.png", 64)
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.write(picture, "a.png")
    else:
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(picture, "a.png")
    dataset = build("train", tmp_path / name)
    with (tmp_path / name).open("r+b") as file:
        file.truncate(1500)
    with pytest.raises(TwoStageError, match=rf"{name}/a\.png: corrupt \(the archive ends \d+ bytes too early"):
        dataset[0]


def test_a_changed_byte_in_a_zip_archive(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.bmp", "a.bmp")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[5000] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(TwoStageError, match="its checksum in the archive is another"):
        build("train", tmp_path / "a.zip")[0]


def test_an_archive_written_anew_is_read_anew(tmp_path: Path) -> None:
    for value in (0, 255):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / "a.png")
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(tmp_path / "a.png", f"{value}.png")
        assert build("train", tmp_path / "a.zip")[0]["images"].mean() == value / 127.5 - 1


def test_encrypted_and_oddly_compressed_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", b"x" * 100)
    refused(tmp_path / "a.zip", "a.png is encrypted or compressed otherwise")
