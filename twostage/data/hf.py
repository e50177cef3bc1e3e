"""Data sets that the library `datasets` reads: of the Hugging Face Hub, Parquet and Arrow files, saved data sets."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from twostage.config import Count
from twostage.data.images import MissingSplit, Split
from twostage.data.sources.table import Table
from twostage.data.stored import Channels, OnCorrupt, Selection, StoredImages, unlabelled
from twostage.errors import TwoStageError, refuse

HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
SAVED = ("dataset_dict.json", "state.json")
SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation", "val", "valid")}
IMAGES = ("image", "images", "img", "png", "jpg", "jpeg", "webp")
LABELS = ("label", "labels", "class", "cls", "fine_label")
BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}


def hf(
    split: Split,
    *,
    root: str,
    image_size: Count,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    channels: Channels = 3,
    on_corrupt: OnCorrupt = "refuse",
) -> StoredImages:
    """A column of images and, where there is one, a column of labels; rows in their own order.

    Parquet files are written once as Arrow files into the cache of `datasets` (`HF_HOME`), which any row can be read
    from; `parquet` streams them instead. The test split is "test", or where its labels are withheld or it is missing
    "validation", "val" or "valid".

    Args:
        root: a folder or file (.parquet, .arrow), or the name of a data set on the Hub.
        config: which of several that the data set has.
        image_column, label_column: found by type and name when None.
        image_size, channels, on_corrupt: see `StoredImages`.

    Raises:
        TwoStageError: `datasets` cannot read it, or it has no such split or column.
    """
    splits = load(root, config)
    rows = splits[chosen := split_name(splits, split, lambda name: _withheld(splits[name], label_column), root)]
    images, labels = columns(rows, image_column, label_column, f"{root}: {chosen}")
    selection = unlabelled(np.arange(len(rows)))
    if labels is not None:
        training = splits["train"] if "train" in splits and labels in splits["train"].column_names else rows
        selection = labelled_rows(rows, training, labels, f"{root}: {chosen}")
    source = Table(Path(root), rows, images)
    return StoredImages(source, selection, image_size=image_size, channels=channels, on_corrupt=on_corrupt)


def load(root: str, config: str | None) -> Mapping[str, Any]:
    """All splits of a data set by name.

    Raises:
        TwoStageError: there is no such folder or name, or `datasets` cannot read it.
    """
    path = Path(root)
    check_place(root, tuple(BUILDERS))
    import datasets

    with read_by_datasets(root):
        if any((path / name).is_file() for name in SAVED):
            found = datasets.load_from_disk(root)
            return found if isinstance(found, Mapping) else {"train": found}
        if path.is_file():
            return datasets.load_dataset(BUILDERS[path.suffix], data_files=root)
        return datasets.load_dataset(root, config)


def check_place(root: str, suffixes: tuple[str, ...]) -> None:
    """Something may lie at `root`.

    Raises:
        TwoStageError: there is no such folder or name, or it is a file of another kind.
    """
    path, files = Path(root), " or ".join(suffixes)
    if not path.exists() and not HUB.fullmatch(root):
        allowed = f"a folder, a {files} file, or the name of a data set on the Hugging Face Hub"
        raise TwoStageError(f"{root}: no such folder; allowed: {allowed}")
    if path.is_file() and path.suffix not in suffixes:
        raise refuse("data.root", root, f"a folder, or a file {files}")


@contextmanager
def read_by_datasets(root: str) -> Iterator[None]:
    """What `datasets` says of what it cannot read becomes one line."""
    try:
        yield
    except Exception as error:  # whatever its builders and the network raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TwoStageError(f"{root}: could not be read by the library datasets ({reason})") from None


def split_name(splits: Mapping[str, Any], split: Split, withheld: Callable[[str], bool], root: str) -> str:
    """Which of the data set's splits is `split`; one whose labels are not withheld (-1) if there is any.

    Raises:
        TwoStageError: none is.
    """
    found = [name for name in SPLITS[split] if name in splits]
    if not found:
        raise MissingSplit(
            f"{root}: has no {split} images among {', '.join(splits)}; allowed: {', '.join(SPLITS[split])}"
        )
    return next((name for name in found if not withheld(name)), found[0])


def _withheld(rows: Any, column: str | None) -> bool:
    column = column or class_column(rows)
    return column in rows.column_names and len(rows) > 0 and rows.select_columns([column])[0][column] == -1


def columns(rows: Any, images: str | None, labels: str | None, where: str) -> tuple[str, str | None]:
    """The columns of images and of labels: those asked for, otherwise the first of a fitting type, then by name.

    Raises:
        TwoStageError: the table has no such column.
    """
    from datasets import Image

    for option, name in (("image_column", images), ("label_column", labels)):
        if name is not None and name not in rows.column_names:
            raise TwoStageError(f"{where}: {option}: has no column {name!r}; allowed: {', '.join(rows.column_names)}")
    images = images or _column(rows, Image, IMAGES)
    if images is None:
        raise TwoStageError(
            f"{where}: has no column of images; name one of {', '.join(rows.column_names)}: image_column"
        )
    return images, labels or class_column(rows)


def class_column(rows: Any) -> str | None:
    """The first column of classes, or the first that is called like one."""
    from datasets import ClassLabel

    return _column(rows, ClassLabel, LABELS)


def _column(rows: Any, kind: type, names: tuple[str, ...]) -> str | None:
    of_kind = [name for name, feature in rows.features.items() if isinstance(feature, kind)]
    return next(iter([*of_kind, *(name for name in names if name in rows.column_names)]), None)


def labelled_rows(rows: Any, training: Any, column: str, where: str) -> Selection:
    """All rows with their labels: class numbers, or text, whose classes are the sorted texts of the training rows.

    Raises:
        TwoStageError: a label is neither, or no class.
    """
    values, names = rows[column][:], getattr(rows.features[column], "names", None)
    if values and isinstance(values[0], str):
        names = sorted(set(training[column][:]))
        numbers = {name: i for i, name in enumerate(names)}
        values = [numbers.get(value, -1) for value in values]
    elif names is None and all(isinstance(value, int) for value in values):
        names = [str(number) for number in range(1 + max([*values, *training[column][:]], default=0))]
    labels = np.array(values) if names is not None else np.array([])
    if names is None or labels.dtype.kind != "i" or labels.min(initial=0) < 0 or labels.max(initial=0) >= len(names):
        raise TwoStageError(f"{where}: label_column {column}: its values are no classes; allowed: numbers or names")
    return Selection(np.arange(len(rows)), labels.astype(np.int64), names)
