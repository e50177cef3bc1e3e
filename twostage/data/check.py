"""What lies somewhere: which data set, its splits, classes, sizes and corrupt images. `twostage data check PATH`."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from twostage.config import to_yaml
from twostage.data import DATASETS
from twostage.data.idx import read_split
from twostage.data.images import ArrayImages, ImageDataset, MissingSplit, Split
from twostage.data.recognise import Component, recognise
from twostage.data.stored import CorruptImage, StoredImages
from twostage.errors import TwoStageError
from twostage.pictures import save_labelled_rows

LARGEST, COLUMNS, NAMED = 256, 12, 20
"""The largest image size that is proposed; images in a row of the picture; classes named in a report."""


@dataclass(frozen=True)
class SplitReport:
    """One split: good images, per class (empty without classes), per (width, height), and the corrupt ones' reasons.

    `channels` is 1 when all are gray, otherwise 3; `good` are their places in the data set, int64 [images].
    """

    images: int
    channels: int
    classes: dict[str, int]
    sizes: dict[tuple[int, int], int]
    corrupt: list[str] = field(default_factory=list)
    good: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def describe(self) -> list[str]:
        """Lines of text."""
        sizes = [f"{width}x{height} ({count})" for (width, height), count in list(self.sizes.items())[:5]]
        more = [f"{len(self.sizes) - 5} other sizes"] if len(self.sizes) > 5 else []
        lines = [f"{self.images} images, channels {self.channels}", f"sizes: {', '.join(sizes + more) or 'none'}"]
        lines.append(self._describe_classes())
        if self.corrupt:
            lines += [f"{len(self.corrupt)} corrupt:", *(f"  {reason}" for reason in self.corrupt)]
        return lines

    def _describe_classes(self) -> str:
        named = [f"{name} ({count})" for name, count in list(self.classes.items())[:NAMED]]
        if len(self.classes) > NAMED:
            fewest, most = min(self.classes.values()), max(self.classes.values())
            named.append(f"... of {fewest} to {most} images each")
        return f"{len(self.classes)} classes: {', '.join(named)}" if named else "no classes"


@dataclass(frozen=True)
class DataReport:
    """One data set: the component that reads it, what its splits hold, and why a split is missing."""

    component: Component
    splits: dict[Split, SplitReport]
    missing: dict[Split, str]

    @property
    def corrupt(self) -> int:
        """Number of corrupt images in all splits."""
        return sum(len(split.corrupt) for split in self.splits.values())

    def describe(self) -> str:
        """The report as text: a few lines a split, then what to write into a config."""
        lines = [f"{self.component['root']}: {self.component['name']}"]
        for name, split in self.splits.items():
            first, *rest = split.describe()
            lines += [f"{name}: {first}", *(f"  {line}" for line in rest)]
        lines += [f"{name}: none ({reason})" for name, reason in self.missing.items()]
        yaml = re.sub(r"\n +", " ", to_yaml({"data": self.component}).strip())  # where it was broken into lines
        return "\n".join([*lines, yaml])


def check_dataset(path: str | Path) -> list[DataReport]:
    """Find out which data sets lie at `path`, and read every image of every split, on several threads.

    Raises:
        TwoStageError: nothing that is known lies there, or a file that holds many images is broken.
    """
    return [_check(component) for component in recognise(Path(path))]


def _check(component: Component) -> DataReport:
    splits: dict[Split, SplitReport] = {}
    missing: dict[Split, str] = {}
    for split in ("train", "test"):
        try:
            splits[split] = _check_split(component, split)
        except MissingSplit as error:
            missing[split] = str(error)
    if not splits:
        raise TwoStageError("; ".join(missing.values()))
    proposed = {**component, "image_size": component.get("image_size", image_size(splits))}
    gray = all(split.channels == 1 for split in splits.values())
    if gray and "channels" in DATASETS.schema(component["name"]).model_fields:
        proposed["channels"] = 1
    return DataReport(proposed, splits, missing)


def image_size(splits: Mapping[Any, SplitReport]) -> int:
    """The shorter side that most images have, but at most 256."""
    sides = Counter[int]()
    for split in splits.values():
        for size, count in split.sizes.items():
            sides[min(size)] += count
    return min(LARGEST, max(sides, key=lambda side: sides[side], default=LARGEST))


def _check_split(component: Component, split: Split) -> SplitReport:
    if component["name"] == "idx":
        arrays = read_split(component["root"], split)
        component = {**component, "image_size": arrays.images.shape[-1]}
    dataset = DATASETS.build({"image_size": LARGEST, **component}, split=split)
    if isinstance(dataset, StoredImages):
        return _check_stored(dataset, split)
    return _check_arrays(dataset)


def _check_arrays(dataset: ArrayImages) -> SplitReport:
    count, channels, height, width = dataset.arrays.images.shape
    classes = _counts(dataset, dataset.arrays.labels)
    return SplitReport(count, channels, classes, {(width, height): count}, good=np.arange(count))


def _check_stored(dataset: StoredImages, split: Split) -> SplitReport:
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        decoding = pool.imap(lambda place: _decode(dataset, place), range(len(dataset)), 16)
        decoded = list(tqdm(decoding, f"checking {split}", len(dataset), disable=None))
    good = np.array([place for place, image in enumerate(decoded) if not isinstance(image, str)], dtype=np.int64)
    images = [image for image in decoded if not isinstance(image, str)]
    return SplitReport(
        images=len(images),
        channels=max((channels for _, channels in images), default=3),
        classes=_counts(dataset, dataset.selection.labels[good]),
        sizes=dict(Counter(size for size, _ in images).most_common()),
        corrupt=[image for image in decoded if isinstance(image, str)],
        good=good,
    )


def _decode(dataset: StoredImages, place: int) -> tuple[tuple[int, int], int] | str:
    """Size and channels (1 or 3) of an image that is decoded whole, or why it cannot be."""
    try:
        image = dataset.encoded(place)
        size, mode = image.size, image.mode
        image.draft("RGB", (1, 1))  # a JPEG at an eighth of its size, which still reads every byte
        image.load()
    except CorruptImage as error:
        return str(error)
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        return str(dataset.corrupt(place, error))
    return size, 1 if mode in ("1", "L", "LA") else 3


def _counts(dataset: ImageDataset, labels: np.ndarray) -> dict[str, int]:
    counts = np.bincount(labels, minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist()))


def save_examples(reports: Sequence[DataReport], path: Path) -> None:
    """A picture of good images taken evenly from each split, as training would see them; one row a split."""
    rows: dict[str, torch.Tensor] = {}
    for report in reports:
        for split, found in report.splits.items():
            dataset = DATASETS.build(report.component, split=split)
            if not found.images:
                continue
            chosen = found.good[np.linspace(0, found.images - 1, COLUMNS).round().astype(np.int64)]
            images = torch.stack([dataset[int(place)]["images"] for place in chosen])
            rows[f"{report.component.get('category', '')} {split}".strip()] = images.expand(-1, 3, -1, -1)
    save_labelled_rows(torch.cat(list(rows.values())), list(rows), path)
