"""Images in a folder: found in a fixed order, all decoded once before training, decoded again when asked for."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from twostage.config import Count
from twostage.data.images import ImageDataset, ImageExample, Split, from_uint8
from twostage.errors import TwoStageError

Channels = Literal[1, 3]
OnCorrupt = Literal["refuse", "skip"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation")}


@dataclass(frozen=True)
class FoundImages:
    """Paths in a fixed order; `labels[i]` indexes `classes`, and is 0 when there are no classes."""

    paths: list[Path]
    labels: list[int]
    classes: list[str]


@dataclass(frozen=True)
class DecodedImage:
    """What decoding one file showed: (width, height) and number of channels (1 or 3), or why it failed."""

    size: tuple[int, int] = (0, 0)
    channels: int = 0
    failure: str = ""


@dataclass(frozen=True)
class FolderReport:
    """Every image file of one split, decoded once: the good ones, and the corrupt ones each with the reason.

    Counts are of good images, per class name and per (width, height); `channels` is 1 when all are gray, otherwise 3.
    """

    good: FoundImages
    class_counts: dict[str, int]
    sizes: dict[tuple[int, int], int]
    channels: int
    corrupt: dict[Path, str]


def split_folders(root: str | Path) -> dict[Split, Path]:
    """The folder of each split there is; a root without split folders is "train" itself. No folder: TwoStageError."""
    root, folders = Path(root), dict[Split, Path]()
    if not root.is_dir():
        raise TwoStageError(f"{root}: no such folder; allowed: a folder with images")
    for split, names in SPLIT_FOLDERS.items():
        if found := next((root / name for name in names if (root / name).is_dir()), None):
            folders[split] = found
    return folders or {"train": root}


def find_images(root: str | Path, split: Split) -> FoundImages:
    """The image files of one split, sorted. The classes are the subfolders of "train" where there is one.

    Raises:
        TwoStageError: the folder or the split is missing, holds no images, or mixes images and class folders.
    """
    folders = split_folders(root)
    if split not in folders:
        raise TwoStageError(f"{root}: has no {split} images; allowed: a folder {' or '.join(SPLIT_FOLDERS[split])}")
    folder = folders[split]
    classes = [path.name for path in _class_folders(folders.get("train", folder))]
    paths = [] if classes else list(_images_below(folder))
    found = _labelled(folder, classes) if classes else FoundImages(paths, [0] * len(paths), [])
    if not found.paths:
        raise TwoStageError(f"{folder}: holds no images; allowed: {', '.join(sorted(SUFFIXES))}")
    return found


def _labelled(folder: Path, classes: list[str]) -> FoundImages:
    if loose := [path for path in sorted(folder.iterdir()) if path.is_file() and _is_image(path.name)]:
        raise TwoStageError(f"{loose[0]}: is in no class folder; allowed: {', '.join(classes)}")
    found = FoundImages([], [], classes)
    for subfolder in _class_folders(folder):
        if subfolder.name not in classes:
            raise TwoStageError(f"{subfolder}: is not a class of the training images; allowed: {', '.join(classes)}")
        found.paths.extend(_images_below(subfolder))
        found.labels.extend([classes.index(subfolder.name)] * (len(found.paths) - len(found.labels)))
    return found


def _class_folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _images_below(folder: Path) -> Iterator[Path]:
    for parent, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if _is_image(name))


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def decode(path: Path) -> DecodedImage:
    """Decode the whole file; a JPEG at an eighth of its size, which still reads every byte."""
    try:
        with Image.open(path) as image:
            size, mode = image.size, image.mode
            image.draft("RGB", (1, 1))
            image.load()
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        return DecodedImage(failure=str(error) or type(error).__name__)
    if mode.startswith(("I", "F")):
        return DecodedImage(failure=f"mode {mode}: more than 8 bits a channel")
    return DecodedImage(size, 1 if mode in ("1", "L", "LA") else 3)


def check_folder(root: str | Path, split: Split) -> FolderReport:
    """Find and decode every image of one split, on several threads, with a progress bar on a terminal.

    Raises:
        TwoStageError: see `find_images`. Corrupt files are reported, not raised.
    """
    found = find_images(root, split)
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        decoded = list(tqdm(pool.imap(decode, found.paths, 16), f"checking {split}", len(found.paths), disable=None))
    kept = [i for i, image in enumerate(decoded) if not image.failure]
    labels = [found.labels[i] for i in kept]
    counts = Counter(labels)
    return FolderReport(
        good=FoundImages([found.paths[i] for i in kept], labels, found.classes),
        class_counts={name: counts[label] for label, name in enumerate(found.classes)},
        sizes=dict(Counter(decoded[i].size for i in kept).most_common()),
        channels=max((decoded[i].channels for i in kept), default=3),
        corrupt={path: image.failure for path, image in zip(found.paths, decoded) if image.failure},
    )


class Folder(ImageDataset):
    """Image files below a folder: `root/train/<class>/*` and `root/test/<class>/*` (else `val`, else `validation`).

    Without class folders the set has no labels: `classes` is empty and every `class_label` is 0. Without split folders
    every image below `root` is for training. Hidden files are passed over. Each image is cropped to its centre square
    and resized to H = W = `image_size`, bicubic with antialiasing. The constructor decodes every file once.

    Args:
        channels: 3 converts to RGB, 1 to gray.
        on_corrupt: "refuse" stops at corrupt files, "skip" warns and leaves them out.

    Raises:
        TwoStageError: see `find_images`; corrupt files under "refuse"; no image left under "skip".
    """

    def __init__(
        self, split: Split, *, root: str, image_size: Count, channels: Channels = 3, on_corrupt: OnCorrupt = "refuse"
    ) -> None:
        report = check_folder(root, split)
        if report.corrupt:
            first = ", ".join(f"{path} ({reason})" for path, reason in list(report.corrupt.items())[:3])
            line = f"{root}: {len(report.corrupt)} of the {split} images corrupt: {first}"
            if on_corrupt == "refuse":
                raise TwoStageError(f"{line}; remove them, or leave them out with on_corrupt: skip")
            if not report.good.paths:
                raise TwoStageError(f"{line}; no image is left")
            warnings.warn(f"{line}; left out", stacklevel=2)
        self.paths, self.labels, self.classes = report.good.paths, report.good.labels, report.good.classes
        self.image_size, self.channels = image_size, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> ImageExample:
        try:
            with Image.open(self.paths[index]) as image:
                pixels = square(image.convert("RGB" if self.channels == 3 else "L"), self.image_size)
        except OSError as error:
            raise TwoStageError(f"{self.paths[index]}: can no longer be read ({error})") from None
        array = torch.from_numpy(np.array(pixels)).view(self.image_size, self.image_size, self.channels)
        return {"images": from_uint8(array.permute(2, 0, 1).contiguous()), "class_label": self.labels[index]}


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square of an image, resized to size x size: the usual preprocessing of LSUN and ImageNet."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
