"""ImageNet's tree (Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015), as it is published,
as Kaggle has it, or sorted into folders; also parts of it, such as Imagenette.

Class i is the i-th of the sorted WordNet ids, as everywhere. The devkit counts otherwise and says in `meta.mat` how.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable
from io import BytesIO

import numpy as np

from twostage.config import Count
from twostage.data.images import MissingSplit, Split
from twostage.data.sources.base import Source
from twostage.data.stored import OnCorrupt, Selection, StoredImages, unlabelled
from twostage.data.tree import all_images, class_folders, images_below, labelled, open_tree
from twostage.errors import TwoStageError

WNID = re.compile(rb"n\d{8}")
NUMBER = re.compile(rb"_(\d{8})\.")
"""Of a validation image, in `ILSVRC2012_val_00000001.JPEG`, counted from 1."""

KAGGLE = b"ILSVRC/Data/CLS-LOC/"
VALIDATION = (b"val", b"validation")
WORDS = (b"LOC_synset_mapping.txt", b"synset_words.txt", b"words.txt")
DEVKIT = (b"", b"ILSVRC2012_devkit_t12/data/", b"devkit/data/", b"data/")
TRUTH, META = b"ILSVRC2012_validation_ground_truth.txt", b"meta.mat"
MAPS = (b"LOC_val_solution.csv", b"val_map.txt", b"val.txt", b"imagenet_2012_validation_synset_labels.txt")


def imagenet(split: Split, *, root: str, image_size: Count = 256, on_corrupt: OnCorrupt = "refuse") -> StoredImages:
    """`root/train/<wnid>/*`, and for testing `root/val/<wnid>/*` or `root/val/*`; or Kaggle's `ILSVRC/Data/CLS-LOC`.

    The labels of flat validation images come from a file in `root` or among them: `LOC_val_solution.csv`, `val_map.txt`
    or `val.txt` (a name, then a wnid or a class number), `imagenet_2012_validation_synset_labels.txt` (a wnid a line),
    or the devkit's `ILSVRC2012_validation_ground_truth.txt` beside its `meta.mat`. Without any of these the test split
    has no labels, which a warning says. Classes are called by the first word of `LOC_synset_mapping.txt`,
    `synset_words.txt` or `words.txt` in `root`, otherwise by their wnids.

    Args:
        root: a folder, or a .zip or .tar archive.
        image_size, on_corrupt: see `StoredImages`.

    Raises:
        TwoStageError: see `open_tree`; the split is missing, a folder is not called by a wnid, or a file of labels says
            nothing of an image.
    """
    source = open_tree(root)
    all_images(source)
    base = KAGGLE if len(source.below(KAGGLE.rstrip(b"/"))) else b""
    place = next((p for p in places(base)[split] if len(images_below(source, p))), None)
    if place is None:
        raise MissingSplit(f"{root}: has no {split} images; allowed: a folder {'train' if split == 'train' else 'val'}")
    wnids = classes_in(source, base)
    if split == "train" or class_folders(source, place):
        selection = labelled(source, images_below(source, place), place, wnids)
    else:
        selection = flat_validation(source, images_below(source, place), place, wnids)
    if selection.classes:
        selection = Selection(selection.indices, selection.labels, readable(source, wnids))
    return StoredImages(source, selection, image_size=image_size, on_corrupt=on_corrupt)


def places(base: bytes) -> dict[Split, list[bytes]]:
    """Where the images of each split may lie."""
    return {"train": [base + b"train"], "test": [base + name for name in VALIDATION]}


def classes_in(source: Source, base: bytes = b"") -> list[bytes]:
    """The wnids of the training images, or without these of the validation images or of the list of words.

    Raises:
        TwoStageError: a folder is called otherwise.
    """
    for place in (*places(base)["train"], *places(base)["test"]):
        names = class_folders(source, place)
        if other := next((name for name in names if not WNID.fullmatch(name)), None):
            what = f"{source.place}/{(place + b'/' + other).decode(errors='replace')}"
            raise TwoStageError(
                f"{what}: is not called by a wnid; allowed: n01440764 or the like (or data.name: folder)"
            )
        if names:
            return names
    return sorted(words_of(source))


def flat_validation(source: Source, images: np.ndarray, place: bytes, wnids: list[bytes]) -> Selection:
    """Validation images that lie in no folders, with the labels that a file gives them, if there is one.

    Raises:
        TwoStageError: the file says nothing of an image.
    """
    truth = validation_labels(source, place, wnids)
    if truth is None:
        files = ", ".join(name.decode() for name in (*MAPS, TRUTH))
        where = f"{source.place}/{place.decode(errors='replace')}"
        warnings.warn(f"{where}: used without labels, which no file gives; understood: {files}", stacklevel=3)
        return unlabelled(images)
    numbers = {name: i for i, name in enumerate(wnids)}
    found = [truth(name.rsplit(b"/", 1)[-1]) for name in source.names[images].tolist()]
    labels = np.array([numbers.get(wnid, -1) if wnid is not None else -1 for wnid in found], dtype=np.int64)
    if len(bad := np.flatnonzero(labels < 0)):
        wnid = found[bad[0]]
        reason = "the file of labels does not name it" if wnid is None else f"its class {wnid.decode()} has no folder"
        raise TwoStageError(f"{source.where(images[bad[0]])}: has no label ({reason})")
    return Selection(images, labels, [wnid.decode() for wnid in wnids])


Truth = Callable[[bytes], bytes | None]
"""A validation image's file name -> its wnid."""


def validation_labels(source: Source, place: bytes, wnids: list[bytes]) -> Truth | None:
    """What the first of the known files says, None without one."""
    folders = (b"", place + b"/", *DEVKIT)
    for name in MAPS:
        if (text := _text(source, name, folders)) is not None:
            return _truth_of_map(text, wnids)
    truth, meta = _text(source, TRUTH, folders), _text(source, META, folders)
    if truth is None or meta is None:
        return None
    ids = _devkit_wnids(meta)
    lines = [ids.get(int(line)) for line in truth.split()]
    return lambda name: _numbered(lines, name)


def _truth_of_map(text: bytes, wnids: list[bytes]) -> Truth:
    rows = [row for row in (re.split(rb"[\s,]+", line.strip()) for line in text.splitlines()) if row != [b""]]
    if all(len(row) == 1 for row in rows):
        lines: list[bytes | None] = [row[0] for row in rows]
        return lambda name: _numbered(lines, name)
    by_name = {row[0].rsplit(b"/", 1)[-1].split(b".")[0]: _wnid(row[1], wnids) for row in rows if len(row) > 1}
    return lambda name: by_name.get(name.split(b".")[0])


def _numbered(lines: list[bytes | None], name: bytes) -> bytes | None:
    match = NUMBER.search(name)
    return lines[int(match[1]) - 1] if match and 0 < int(match[1]) <= len(lines) else None


def _wnid(text: bytes, wnids: list[bytes]) -> bytes | None:
    return wnids[int(text)] if text.isdigit() and int(text) < len(wnids) else text


def _devkit_wnids(meta: bytes) -> dict[int, bytes]:
    """The devkit's number of each class, 1 to 1000, -> its wnid."""
    from scipy.io import loadmat

    synsets = loadmat(BytesIO(meta), squeeze_me=True)["synsets"]
    return {int(row["ILSVRC2012_ID"]): str(row["WNID"]).encode() for row in np.atleast_1d(synsets)}


def readable(source: Source, wnids: list[bytes]) -> list[str]:
    """What each class is called: its first word, with its wnid where another class has the same, or only its wnid."""
    words = words_of(source)
    first = [words.get(wnid, wnid.decode()) for wnid in wnids]
    count = Counter(first)
    return [word if count[word] == 1 else f"{word} ({wnid.decode()})" for word, wnid in zip(first, wnids)]


def words_of(source: Source) -> dict[bytes, str]:
    """The first word of each wnid in a list of words in the root."""
    text = next((text for name in WORDS if (text := _text(source, name, (b"",))) is not None), b"")
    rows = (line.strip().split(maxsplit=1) for line in text.splitlines())
    return {row[0]: row[1].split(b",")[0].decode(errors="replace") for row in rows if len(row) == 2}


def _text(source: Source, name: bytes, folders: tuple[bytes, ...]) -> bytes | None:
    found = (source.find(folder + name) for folder in folders)
    return next((source.read(index) for index in found if index is not None), None)
