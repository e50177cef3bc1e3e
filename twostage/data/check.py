"""What lies in a folder of images: kind, splits, classes, sizes, corrupt files. `twostage data check PATH`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from twostage.data.folder import check_folder, split_folders
from twostage.data.idx import PREFIXES, find_idx, read_split
from twostage.data.images import Split
from twostage.errors import TwoStageError


@dataclass(frozen=True)
class SplitReport:
    """One split: good images, per class (empty without classes), per (width, height), and the corrupt files."""

    images: int
    channels: int
    classes: dict[str, int]
    sizes: dict[tuple[int, int], int]
    corrupt: dict[Path, str] = field(default_factory=dict)

    def describe(self) -> list[str]:
        """Lines of text."""
        sizes = [f"{width}x{height} ({count})" for (width, height), count in list(self.sizes.items())[:5]]
        more = [f"{len(self.sizes) - 5} other sizes"] if len(self.sizes) > 5 else []
        classes = [f"{name} ({count})" for name, count in self.classes.items()]
        lines = [f"{self.images} images, channels {self.channels}", f"sizes: {', '.join(sizes + more) or 'none'}"]
        lines.append(f"{len(classes)} classes: {', '.join(classes)}" if classes else "no classes")
        if self.corrupt:
            lines.append(f"{len(self.corrupt)} corrupt:")
            lines += [f"  {path}: {reason}" for path, reason in self.corrupt.items()]
        return lines


@dataclass(frozen=True)
class DataReport:
    """A folder of images; `kind` is the name of the data set class that reads it."""

    path: Path
    kind: Literal["idx", "folder"]
    splits: dict[Split, SplitReport]

    @property
    def corrupt(self) -> int:
        """Number of corrupt files in all splits."""
        return sum(len(split.corrupt) for split in self.splits.values())

    def describe(self) -> str:
        """The report as text, a few lines a split."""
        lines = [f"{self.path}: {self.kind}"]
        for name, split in self.splits.items():
            first, *rest = split.describe()
            lines += [f"{name}: {first}", *(f"  {line}" for line in rest)]
        return "\n".join(lines)


def check_dataset(path: str | Path) -> DataReport:
    """Read every image below `path`: idx files when it holds any, otherwise image files.

    Raises:
        TwoStageError: no such folder, no images, or a broken idx file.
    """
    path = Path(path)
    if not path.is_dir():
        raise TwoStageError(f"{path}: no such folder; allowed: a folder with idx files or images")
    idx: list[Split] = [
        split for split in PREFIXES if find_idx(path, split, "images-idx3") or find_idx(path, split, "labels-idx1")
    ]
    if idx:
        return DataReport(path, "idx", {split: _check_idx(path, split) for split in idx})
    return DataReport(path, "folder", {split: _check_images(path, split) for split in split_folders(path)})


def _check_idx(path: Path, split: Split) -> SplitReport:
    arrays = read_split(path, split)
    count, channels, height, width = arrays.images.shape
    labels, counts = np.unique(arrays.labels, return_counts=True)
    classes = {str(label): int(images) for label, images in zip(labels, counts)}
    return SplitReport(count, channels, classes, {(width, height): count})


def _check_images(path: Path, split: Split) -> SplitReport:
    report = check_folder(path, split)
    return SplitReport(len(report.good.paths), report.channels, report.class_counts, report.sizes, report.corrupt)
