"""A published file of reference images or of their statistics, `.npz`, as guided-diffusion's evaluator reads it.

`arr_0` uint8 [n, H, W, c] are images; `mu` [d] and `sigma` [d, d] are the mean and covariance of Inception's features,
there of more images than `arr_0` has, and then FID is a distance to them.
"""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from twostage.errors import TwoStageError, refuse
from twostage.metrics.features import STANDARD_ROWS, FeatureNetwork
from twostage.metrics.gaussian import Gaussian
from twostage.metrics.reference import PART, Chunk, Reference, fill
from twostage.metrics.weights import digest
from twostage.parts import Parts, claim

IMAGES, MEAN, COVARIANCE = "arr_0", "mu", "sigma"


@dataclass(frozen=True)
class ImageArray:
    """The images of an .npz file, read front to back: [n, H, W, c] never lie in memory together.

    Raises:
        TwoStageError: the array is not uint8 [n, H, H, 1 or 3] in rows.
    """

    path: Path

    def __post_init__(self) -> None:
        shape, by_columns, dtype = self._header
        if dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] not in (1, 3) or by_columns:
            raise refuse(f"{self.path}: {IMAGES}", f"{dtype} {shape}", "uint8 [n, H, H, 1 or 3]")

    @property
    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype]:
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{IMAGES}.npy") as file:
            return _read_header(file)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._header[0]

    def chunks(self, wanted: list[range]) -> Iterator[Chunk]:
        """The images uint8 [n, c, H, W] of ascending ranges, with labels of zero."""
        shape, position = self.shape, 0
        image = math.prod(shape[1:])
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{IMAGES}.npy") as file:
            _read_header(file)
            for part in wanted:
                _skip(file, (part.start - position) * image)
                rows = np.frombuffer(file.read(len(part) * image), np.uint8).reshape(len(part), *shape[1:])
                position = part.stop
                yield part, _channels_first(rows), torch.zeros(len(part), dtype=torch.int64)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _skip(file: IO[bytes], size: int, at_once: int = 2**24) -> None:
    while size > 0:
        size -= len(file.read(min(size, at_once)))


def _channels_first(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(rows.transpose(0, 3, 1, 2).copy())


def file_reference(path: Path, network: FeatureNetwork, cache: Path) -> Reference:
    """The reference in a published file; each process computes its share of what is missing in the cache.

    Raises:
        TwoStageError: no such file, not one of these, or statistics only, for a network that is not Inception.
    """
    names = _arrays(path)
    source: dict[str, Any] = {"file": path.name, "sha256": digest(path)}
    standard = network.rows == STANDARD_ROWS
    published = _statistics(path) if standard and {MEAN, COVARIANCE} <= names else None
    if IMAGES not in names:
        if published is None:
            allowed = f"the standard Inception, whose statistics {path} holds" if standard else "no --network"
            raise refuse("feature network", network.name, f"{allowed}; the file holds no images ({IMAGES})")
        return Reference(parts=None, source=source, classes=[], published=published)
    images = ImageArray(path)
    folder = claim(cache / "references", {**source, "network": network.fingerprint})
    parts = Parts(folder=folder, name="features", count=images.shape[0], size=PART)
    fill(parts, partial(images.chunks), network)
    source["image_size"] = images.shape[1]
    return Reference(parts=parts, source=source, classes=[], published=published)


def _arrays(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except OSError as error:
        raise TwoStageError(f"{path}: could not be read ({error.strerror})") from None
    except zipfile.BadZipFile as error:
        raise TwoStageError(f"{path}: not an .npz file ({error})") from None
    if IMAGES not in names and not {MEAN, COVARIANCE} <= names:
        raise refuse(f"{path}: arrays", sorted(names), f"{IMAGES}, or {MEAN} and {COVARIANCE}")
    return names


def _statistics(path: Path) -> Gaussian:
    with np.load(path, allow_pickle=False) as arrays:
        mean, covariance = (torch.from_numpy(arrays[name].astype(np.float64)) for name in (MEAN, COVARIANCE))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise refuse(f"{path}: {MEAN} and {COVARIANCE}", shapes, "[d] and [d, d]")
    return Gaussian(mean=mean, covariance=covariance, count=None)
