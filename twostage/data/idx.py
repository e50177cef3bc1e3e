"""The idx files of the MNIST family (MNIST, Fashion-MNIST, KMNIST, EMNIST), gzipped or plain."""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twostage.config import Count
from twostage.data.images import ArrayImages, LabelledArrays, MissingSplit, Split, resize
from twostage.errors import TwoStageError

PREFIXES: dict[Split, str] = {"train": "train", "test": "t10k"}
CONTENTS = ("images-idx3", "labels-idx1")
UBYTE = 8
"""The third byte of an idx file: its elements are unsigned bytes."""


def find_idx(root: str | Path, split: Split, content: str) -> Path | None:
    """The file of `content` ("images-idx3" or "labels-idx1") in the folder `root`, None when there is none."""
    plain = Path(root) / f"{PREFIXES[split]}-{content}-ubyte"
    return next((path for path in (plain, plain.with_name(f"{plain.name}.gz")) if path.is_file()), None)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file: two zero bytes, type, number of dimensions, big-endian sizes, elements.

    Raises:
        TwoStageError: the file cannot be read or unpacked, is of another kind, or has more or fewer bytes than it says.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise TwoStageError(f"{path}: truncated or corrupt ({error})") from None
    header = 4 + 4 * dimensions
    magic, expected = data[:4], bytes([0, 0, UBYTE, dimensions])
    if len(data) >= 4 and magic != expected:
        raise TwoStageError(f"{path}: its magic number is 0x{magic.hex()}; allowed: 0x{expected.hex()}")
    if len(data) < header:
        raise TwoStageError(f"{path}: truncated or corrupt ({len(data)} bytes; the header alone has {header})")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if len(data) != header + math.prod(shape):
        raise TwoStageError(
            f"{path}: truncated or corrupt ({len(data)} bytes; its header announces {header + math.prod(shape)})"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_split(root: str | Path, split: Split) -> LabelledArrays:
    """The images uint8 [n, 1, H, W] of one split in their own size, and their labels.

    Raises:
        TwoStageError: no such folder, a file missing or broken, no images, or as many labels as there are not images.
    """
    if not Path(root).is_dir():
        raise TwoStageError(f"{root}: no such folder; allowed: a folder with idx files")
    paths: list[Path] = []
    for content in CONTENTS:
        path = find_idx(root, split, content)
        if path is None:
            missing = MissingSplit if not any(find_idx(root, split, other) for other in CONTENTS) else TwoStageError
            raise missing(f"{root}: has no {PREFIXES[split]}-{content}-ubyte or {PREFIXES[split]}-{content}-ubyte.gz")
        paths.append(path)
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise TwoStageError(f"{paths[1]}: {len(labels)} labels for {len(images)} images in {paths[0].name}")
    if not images.size:
        raise TwoStageError(f"{paths[0]}: holds no images")
    return LabelledArrays(images[:, None].copy(), labels.astype(np.int64))


def class_names(root: str, labels: np.ndarray, classes: Sequence[str] | None) -> list[str]:
    """`classes`, or "0" to "9" when None; refused when a label has no name."""
    names = [str(digit) for digit in range(10)] if classes is None else list(classes)
    needed = int(labels.max()) + 1
    if len(names) < needed:
        raise TwoStageError(f"data.classes: {len(names)} names are not enough; the labels in {root} need {needed}")
    return names


class Idx(ArrayImages):
    """Gray images from a folder with the four files of an MNIST-like data set, as they are published.

    `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, each
    plain or with `.gz`; only the split's own two are read. Held in memory as uint8 [n, 1, image_size, image_size].

    Args:
        split: "train" or "test" (the t10k files).
        root: the folder.
        image_size: H = W; images of another size are resized, bicubic with antialiasing.
        classes: the names of labels 0, 1, ...; "0" to "9" when None.

    Raises:
        TwoStageError: see `read_split` and `class_names`; or the images are not square.
    """

    def __init__(self, split: Split, *, root: str, image_size: Count = 28, classes: list[str] | None = None) -> None:
        arrays = read_split(root, split)
        _, _, height, width = arrays.images.shape
        if height != width:
            raise TwoStageError(f"{root}: images of {width}x{height} pixels are not allowed; allowed: square images")
        names = class_names(root, arrays.labels, classes)
        super().__init__(LabelledArrays(resize(arrays.images, image_size), arrays.labels), names)
