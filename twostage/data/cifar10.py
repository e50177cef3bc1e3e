"""CIFAR-10 as it is published: the "python version", five training batches and a test batch of pickled arrays."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from twostage.config import Count
from twostage.data.images import ArrayImages, LabelledArrays, Split, resize
from twostage.errors import TwoStageError

FOLDER = "cifar-10-batches-py"
BATCHES: dict[Split, list[str]] = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PUBLISHED_SIZE = 32

ADMITTED = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
    for name in ("_reconstruct", "ndarray", "dtype")
} | {("_codecs", "encode")}


class _ArraysOnly(pickle.Unpickler):
    """A pickle may name any function to call; this reader admits what numpy arrays are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs")
        return super().find_class(module, name)


def read_batch(path: Path) -> LabelledArrays:
    """One batch: images uint8 [n, 3, 32, 32], labels in 0..9.

    Raises:
        TwoStageError: the file is missing, broken, or no CIFAR-10 batch.
    """
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        images = np.asarray(batch[b"data"]).reshape(-1, 3, PUBLISHED_SIZE, PUBLISHED_SIZE)
        labels = np.asarray(batch[b"labels"], dtype=np.int64)
    except OSError as error:
        raise TwoStageError(f"{path}: could not be read ({error.strerror})") from None
    except Exception as error:  # a broken pickle raises whatever it stumbles over
        raise TwoStageError(f"{path}: not a batch of CIFAR-10's python version ({error})") from None
    if images.dtype != np.uint8 or len(images) != len(labels) or not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise TwoStageError(f"{path}: not a batch of CIFAR-10's python version (its images and labels do not fit)")
    return LabelledArrays(images, labels)


class CIFAR10(ArrayImages):
    """Colour images in ten classes, in memory as uint8 [n, 3, image_size, image_size].

    Args:
        split: "train" (50,000 images) or "test" (10,000).
        root: the folder `cifar-10-batches-py`, or the one that holds it.
        image_size: H = W; the published images have 32, others are resized, bicubic with antialiasing.

    Raises:
        TwoStageError: a batch is missing or broken.
    """

    def __init__(self, split: Split, *, root: str, image_size: Count = PUBLISHED_SIZE) -> None:
        inner = Path(root) / FOLDER
        folder = inner if inner.is_dir() else Path(root)
        if not folder.is_dir():
            raise TwoStageError(f"{root}: no such folder; allowed: the folder {FOLDER}, or the one that holds it")
        batches = [read_batch(folder / name) for name in BATCHES[split]]
        images, labels = (np.concatenate([getattr(b, part) for b in batches]) for part in ("images", "labels"))
        super().__init__(LabelledArrays(resize(images, image_size), labels), CLASSES)
