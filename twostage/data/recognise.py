"""Which data set it is that lies somewhere: the component of a config that would read it."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.cifar10 import BATCHES, FOLDER, PUBLISHED_SIZE
from twostage.data.hf import BUILDERS, SAVED
from twostage.data.idx import CONTENTS, PREFIXES, find_idx
from twostage.data.imagenet import KAGGLE, WNID, places
from twostage.data.lsun import PUBLISHED, categories, category_of
from twostage.data.sources.base import SUFFIXES, Source
from twostage.data.sources.database import DATA
from twostage.data.tree import class_folders, images_below, open_tree, split_folders
from twostage.errors import TwoStageError

Component = dict[str, Any]
FACES = {70_000: "ffhq", 30_000: "celebahq"}
"""How many images these sets have, which nothing else tells."""

SHARD = re.compile(rb"\d{5,}|[0-9a-f]")
"""What folders are called that only keep the number of files in each small."""


def recognise(path: Path) -> list[Component]:
    """The data sets at `path`, each as `{name: ..., root: ...}`; `image_size` is left out where any would do.

    Raises:
        TwoStageError: there is nothing, or nothing that is known.
    """
    if path.suffix in BUILDERS and path.is_file():
        return [{"name": "hf", "root": str(path)}]
    if not path.is_dir():
        return [of_files(open_tree(path))]
    if any(find_idx(path, split, content) for split in PREFIXES for content in CONTENTS):
        return [{"name": "idx", "root": str(path)}]
    if (path / FOLDER).is_dir() or (path / BATCHES["train"][0]).is_file():
        return [{"name": "cifar10", "root": str(path), "image_size": PUBLISHED_SIZE}]
    if (path / DATA).is_file() and path.name.endswith(PUBLISHED):
        return [{"name": "lsun", "root": str(path.resolve().parent), "category": category_of(path.name)}]
    if found := categories(path):
        return [{"name": "lsun", "root": str(path), "category": category} for category in found]
    if any((path / name).is_file() for name in SAVED):
        return [{"name": "hf", "root": str(path)}]
    return [of_files(open_tree(path))]


def of_files(source: Source) -> Component:
    """The data set of which these are the files.

    Raises:
        TwoStageError: of none.
    """
    images, root = images_below(source), {"root": str(source.place)}
    endings = {name.rpartition(b".")[2].lower() for name in source.names.tolist()}
    if source.place.suffix == ".tar" and b"cls" in endings:
        return {"name": "webdataset", **root}
    if len(images):
        return {**of_images(source, images), **root}
    if b"tar" in endings:
        return {"name": "webdataset", **root}
    if endings & {ending[1:].encode() for ending in BUILDERS}:
        return {"name": "hf", **root}
    zips = [source.where(i) for i, name in enumerate(source.names.tolist()) if name.lower().endswith(b".zip")]
    advice = f"; look into {zips[0]}" if zips else ""
    known = "a folder with idx files, CIFAR-10's batches, LMDB databases, tar shards, Parquet files, or images"
    raise TwoStageError(f"{source.place}: holds no images; allowed: {known} ({', '.join(SUFFIXES)}){advice}")


def of_images(source: Source, images: np.ndarray) -> Component:
    """ImageNet by the names of its folders, the faces by their number, otherwise a folder with or without classes."""
    base = KAGGLE if len(source.below(KAGGLE.rstrip(b"/"))) else b""
    classes = [name for split in places(base).values() for place in split for name in class_folders(source, place)]
    if classes and all(WNID.fullmatch(name) for name in classes):
        return {"name": "imagenet"}
    folders = split_folders(source, images)
    if len(images) in FACES and not folders:
        return {"name": FACES[len(images)]}
    names = class_folders(source, folders.get("train", next(iter(folders.values()), b"")))
    sharded = bool(names) and all(SHARD.fullmatch(name) for name in names)
    return {"name": "folder", "labels": "none"} if sharded else {"name": "folder"}
