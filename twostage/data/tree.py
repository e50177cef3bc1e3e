"""Image files in folders, or in an archive of folders: which belong to a split, and what their classes are."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from twostage.data.images import SPLIT_FOLDERS, MissingSplit, Split
from twostage.data.sources.archive import TarArchives, ZipArchive
from twostage.data.sources.base import SUFFIXES, Source, is_image
from twostage.data.sources.directory import Directory
from twostage.data.stored import Selection, unlabelled
from twostage.errors import TwoStageError, refuse


def open_tree(root: str | Path) -> Source:
    """The files below a folder, or in a zip or tar archive.

    Raises:
        TwoStageError: there is no such thing, or it cannot be read.
    """
    place = Path(root)
    if place.is_dir():
        return Directory(place)
    if place.is_file() and place.suffix.lower() == ".zip":
        return ZipArchive(place)
    if place.is_file() and place.suffix.lower() == ".tar":
        return TarArchives(place, [place])
    raise TwoStageError(f"{root}: no such folder; allowed: a folder with images, or a .zip or .tar archive of one")


def images_below(source: Source, folder: bytes = b"") -> np.ndarray:
    """Indices of the image files below a folder of a source, in the order of their names."""
    indices = source.below(folder)
    return indices[np.array([is_image(name) for name in source.names[indices].tolist()], dtype=bool)]


def all_images(source: Source) -> np.ndarray:
    """Indices of all image files.

    Raises:
        TwoStageError: there are none.
    """
    images = images_below(source)
    if not len(images):
        raise TwoStageError(f"{source.place}: holds no images; allowed: {', '.join(SUFFIXES)}")
    return images


def split_folders(source: Source, images: np.ndarray) -> dict[Split, bytes]:
    """The folder of each split that has one with images in it."""
    heads = {head for head in (_head(name) for name in source.names[images].tolist()) if head is not None}
    found = {
        split: next((name.encode() for name in names if name.encode() in heads), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    return {split: folder for split, folder in found.items() if folder is not None}


def _head(path: bytes) -> bytes | None:
    """The folder that a path begins with, None for a file in none."""
    head, slash, _ = path.partition(b"/")
    return head if slash else None


HoldOut = Callable[[np.ndarray, int], np.ndarray]
"""Sorted names [n] and how many to hold out -> which these are, bool [n]."""


def evenly(names: np.ndarray, count: int) -> np.ndarray:
    """Held out evenly over the sorted names, and so of each class its share."""
    steps = np.arange(len(names) + 1) * count // len(names)
    return steps[1:] > steps[:-1]


def split_images(
    source: Source, split: Split, lists: Mapping[Split, str | None], held_out: int, hold_out: HoldOut
) -> tuple[np.ndarray, bytes]:
    """The images of a split, and the folder in which those of its source lie.

    In this order: what a list names; what lies in the split's folder; what is held out of the rest.

    Args:
        lists: of each split a text file of paths below the root, one a line; None without one.
        held_out: so many images that lie in no folder of another split are for testing.

    Raises:
        MissingSplit: the source holds no images of this split.
        TwoStageError: it holds no images; a list names what is not there.
    """
    images = all_images(source)
    if any(lists.values()):
        if (path := lists[split]) is None:
            raise refuse(f"data.{split}_list", None, "a list, as the other split has one")
        return listed(source, images, Path(path)), b""
    folders = split_folders(source, images)
    if held_out and "test" in folders:
        where = f"{source.place}/{os.fsdecode(folders['test'])}"
        raise refuse("data.held_out", held_out, f"0, for {where} holds the test images")
    if split in folders and not held_out:
        return images_below(source, folders[split]), folders[split]
    if "test" in folders or (split == "test" and not held_out):
        other = ", held_out, or test_list" if split == "test" else ""
        allowed = f"a folder {' or '.join(SPLIT_FOLDERS[split])}{other}"
        raise MissingSplit(f"{source.place}: has no {split} images; allowed: {allowed}")
    rest = images_below(source, folders.get("train", b""))
    if held_out >= len(rest):
        raise refuse("data.held_out", held_out, f"fewer than the {len(rest)} images in {source.place}")
    chosen = hold_out(source.names[rest], held_out)
    return rest[chosen if split == "test" else ~chosen], folders.get("train", b"")


def listed(source: Source, images: np.ndarray, path: Path) -> np.ndarray:
    """The images that a text file names, in its order: by their paths, or by their names without folder and suffix.

    Raises:
        TwoStageError: the list cannot be read or is empty, or a line names no image, or several.
    """
    try:
        lines = [line.strip() for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise TwoStageError(f"{path}: list of images could not be read ({error.strerror})") from None
    by_path = dict(zip(source.names[images].tolist(), images.tolist()))
    by_stem: dict[bytes, list[int]] = {}
    if not all(line in by_path for line in lines):
        for name, index in by_path.items():
            by_stem.setdefault(_stem(name), []).append(index)
    chosen: list[int] = []
    for number, line in enumerate(lines, start=1):
        found = [by_path[line]] if line in by_path else by_stem.get(_stem(line), []) if line else None
        if found is None:
            continue
        if len(found) != 1:
            what = "several images are called" if found else "there is no image"
            raise TwoStageError(f"{path}: line {number}: {what} {os.fsdecode(line)} below {source.place}")
        chosen += found
    if not chosen:
        raise TwoStageError(f"{path}: list of images is empty")
    return np.array(chosen)


def _stem(path: bytes) -> bytes:
    return path.rsplit(b"/", 1)[-1].rsplit(b".", 1)[0]


def class_folders(source: Source, folder: bytes) -> list[bytes]:
    """The folders in `folder` that hold images."""
    return sorted({head for head in _heads(source, images_below(source, folder), folder) if head is not None})


def labelled(source: Source, images: np.ndarray, folder: bytes, classes: list[bytes]) -> Selection:
    """The images with their classes; unlabelled when there are no classes.

    Raises:
        TwoStageError: an image lies in the folder of no class.
    """
    if not classes:
        return unlabelled(images)
    numbers = {name: i for i, name in enumerate(classes)}
    labels = [numbers.get(head, -1) if head is not None else -1 for head in _heads(source, images, folder)]
    names = [os.fsdecode(name) for name in classes]
    if -1 in labels:
        few = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise TwoStageError(f"{source.where(images[labels.index(-1)])}: is in no folder of a class; allowed: {few}")
    return Selection(images, np.array(labels, dtype=np.int64), names)


def _heads(source: Source, images: np.ndarray, folder: bytes) -> list[bytes | None]:
    start = len(folder) + 1 if folder else 0
    return [_head(name[start:]) for name in source.names[images].tolist()]
