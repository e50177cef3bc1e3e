"""LSUN (Yu et al., "LSUN: Construction of a Large-scale Image Dataset using Deep Learning with Humans in the Loop",
2015): one LMDB database for each category and split, or what was exported from it."""

from pathlib import Path

import numpy as np

from twostage.config import Count
from twostage.data.images import MissingSplit, Split
from twostage.data.sources.base import Source
from twostage.data.sources.database import DATA, Database
from twostage.data.sources.directory import Directory
from twostage.data.stored import OnCorrupt, StoredImages, unlabelled
from twostage.data.tree import all_images
from twostage.errors import TwoStageError

SPLITS: dict[Split, str] = {"train": "train", "test": "val"}
PUBLISHED = "_lmdb"


def category_of(name: str) -> str:
    """The category in the name of a database: `bedroom` of `bedroom_train_lmdb` and of `bedroom_train`."""
    name = name.removesuffix(PUBLISHED)
    for ending in SPLITS.values():
        name = name.removesuffix(f"_{ending}")
    return name


def categories(root: Path) -> list[str]:
    """The categories of which databases lie in a folder."""
    return sorted({category_of(path.parent.name) for path in root.glob(f"*{PUBLISHED}/{DATA}")})


def lsun(
    split: Split, *, root: str, category: str, image_size: Count = 256, on_corrupt: OnCorrupt = "refuse"
) -> StoredImages:
    """The images of one category, without labels: `root/<category>_<split>_lmdb/data.mdb`, as published.

    Of folders `root/<category>_<split>` the image files below are taken, as LSUN's own export leaves them. The test
    split is LSUN's "val", 300 images a category; published FIDs compare with the training images.

    Args:
        root: the folder that holds the databases.
        category: such as "bedroom" or "church_outdoor"; "bedroom_train" names the same one.
        image_size, on_corrupt: see `StoredImages`.

    Raises:
        TwoStageError: no such folder or category, or lmdb is needed and not installed.
    """
    source, images = _source(Path(root), f"{category_of(category)}_{SPLITS[split]}")
    return StoredImages(source, unlabelled(images), image_size=image_size, on_corrupt=on_corrupt)


def _source(root: Path, name: str) -> tuple[Source, np.ndarray]:
    if not root.is_dir():
        raise TwoStageError(f"{root}: no such folder; allowed: the folder that holds {name}{PUBLISHED}")
    published, exported = root / f"{name}{PUBLISHED}", root / name
    if (published / DATA).is_file():
        database = Database(published)
        return database, np.arange(len(database))
    if exported.is_dir():
        directory = Directory(exported)
        return directory, all_images(directory)
    missing = MissingSplit if name.rpartition("_")[0] in categories(root) else TwoStageError
    found = ", ".join(categories(root)) or f"a folder with {name}{PUBLISHED}/{DATA}"
    raise missing(f"{published}: no such database; allowed for data.category: {found}")
