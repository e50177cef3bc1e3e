"""Shards as WebDataset has them: tar archives in which a sample's files share a name (`00017.jpg`, `00017.cls`)."""

import os
import re
from pathlib import Path

import numpy as np

from twostage.config import Count
from twostage.data.images import SPLIT_FOLDERS, MissingSplit, Split
from twostage.data.sources.archive import TarArchives
from twostage.data.sources.base import Source, is_image
from twostage.data.sources.listing import kept
from twostage.data.stored import Channels, OnCorrupt, Selection, StoredImages, unlabelled
from twostage.errors import TwoStageError, refuse

WORD = re.compile(r"[A-Za-z]+")


def webdataset(
    split: Split,
    *,
    root: str,
    image_size: Count,
    channels: Channels = 3,
    classes: list[str] | None = None,
    on_corrupt: OnCorrupt = "refuse",
) -> StoredImages:
    """The images in uncompressed tar shards, in the order of their paths; labels are the numbers in their .cls files.

    A shard's path tells its split: one with the word "test", "val" or "validation" in it holds test images. Samples
    without .cls files have no labels.

    Args:
        root: a folder of shards, nested or not, or one shard.
        classes: the names of labels 0, 1, ...; the numbers themselves when None.
        image_size, channels, on_corrupt: see `StoredImages`.

    Raises:
        TwoStageError: no such folder or split, a shard that cannot be read, only some samples with labels, or a label
            that is no number or has no name.
    """
    found = shards(Path(root))
    if split not in found:
        words = " or ".join(SPLIT_FOLDERS[split])
        raise MissingSplit(f"{root}: has no {split} images; allowed: shards with {words} in their paths")
    source, images, labels = _samples(Path(root), found[split])
    if labels is None:
        return StoredImages(source, unlabelled(images), image_size=image_size, channels=channels, on_corrupt=on_corrupt)
    training = labels if "train" not in found else _samples(Path(root), found["train"])[2]
    count = 1 + int(max(labels.max(), labels.max() if training is None else training.max()))
    names = [str(label) for label in range(count)] if classes is None else classes
    if len(names) < count:
        raise refuse("data.classes", f"{len(names)} names", f"{count}, for the labels in {root} need so many")
    selection = Selection(images, labels, names)
    return StoredImages(source, selection, image_size=image_size, channels=channels, on_corrupt=on_corrupt)


def shards(root: Path) -> dict[Split, list[Path]]:
    """The tar archives of each split that has some, sorted.

    Raises:
        TwoStageError: there is no such folder or no shard in it.
    """
    found: dict[Split, list[Path]] = {}
    paths = sorted(root.rglob("*.tar")) if root.is_dir() else [root] if root.suffix == ".tar" and root.is_file() else []
    if not paths:
        what = "holds no tar shards" if root.is_dir() else "no such folder"
        raise TwoStageError(f"{root}: {what}; allowed: a folder with .tar files, or one of them")
    for path in paths:
        words = WORD.findall(str(path.relative_to(root)) if path != root else path.name)
        split: Split = "test" if set(words) & set(SPLIT_FOLDERS["test"]) else "train"
        found.setdefault(split, []).append(path)
    return found


def _samples(root: Path, archives: list[Path]) -> tuple[Source, np.ndarray, np.ndarray | None]:
    """The shards, the indices of their images, and the labels of these."""
    source = TarArchives(root, archives)
    images = np.flatnonzero([is_image(name) for name in source.names.tolist()])
    if not len(images):
        raise TwoStageError(f"{root}: the shards hold no images")
    stored = kept(f"labels of {len(images)}", archives, lambda: {"labels": _labels(source, images)})["labels"]
    return source, images, stored if len(stored) else None


def _labels(source: Source, images: np.ndarray) -> np.ndarray:
    """The labels int64 [n] of all images; empty when none has one."""
    names = [_sample(name) + b".cls" for name in source.names[images].tolist()]
    files = [source.find(name) for name in names]
    if all(file is None for file in files):
        return np.zeros(0, dtype=np.int64)
    return np.array([_label(source, file, name) for file, name in zip(files, names)], dtype=np.int64)


def _label(source: Source, file: int | None, name: bytes) -> int:
    text = b"" if file is None else source.read(file).strip()
    if not text.isdigit():
        reason = "is missing" if file is None else f"holds {text[:20]!r}; allowed: a number"
        raise TwoStageError(f"{source.place}/{os.fsdecode(name)}: {reason}")
    return int(text)


def _sample(path: bytes) -> bytes:
    """What the files of one sample have in common: the path up to the first dot of the name."""
    folder, slash, name = path.rpartition(b"/")
    return folder + slash + name.split(b".", 1)[0]
