"""What samples are compared with: the features of a data set's images, or of a published file, kept in a cache.

An entry of the cache belongs to one listing of files (name, size and time of change of each: where they lie does not
matter), one configuration of the data set, one split and one feature network, weights included; when one of them
changes there is another entry. A file that keeps its size and time but not its content is not noticed, nor is a data
set that changes on the Hub; a copy that does not keep its times is computed again. Besides features an entry holds the
SHA-256 of the images as the network saw them, which is the same on every machine.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from twostage.data import DATASETS
from twostage.data.identity import listing, without_place
from twostage.data.images import ImageDataset, to_uint8
from twostage.errors import refuse
from twostage.files import atomic, read_json, write_json
from twostage.metrics.features import FeatureNetwork
from twostage.metrics.gaussian import Gaussian, fit_gaussian
from twostage.metrics.generation import FeatureSet
from twostage.metrics.manifold import NEIGHBOURS, neighbour_radii
from twostage.metrics.outputs import Features
from twostage.parts import Parts, claim, pixel_digest, sha256
from twostage.training.distributed import rank

PART = 256
"""Images to a file of features."""

KEPT = 50_000
"""KID, precision and recall see so many real images at most, evenly spread over the data set."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A set of real images, known by their features.

    Attributes:
        parts: tensors `features` float32 [n, d] and `labels` int64 [n] of every image, and notes `pixels`; None where
            a published file holds statistics only.
        source: for a table: what the images are.
        classes: names; empty for unlabelled images.
        published: statistics that a file brings along, which then stand for those of the images.
    """

    parts: Parts | None
    source: dict[str, Any]
    classes: list[str]
    published: Gaussian | None = None

    @cached_property
    def gaussian(self) -> Gaussian:
        """Of all images; kept on disk beside the features."""
        if self.published is not None or self.parts is None:
            assert self.published is not None
            return self.published
        path = self.parts.folder / "statistics.safetensors"
        if not path.exists():
            found = fit_gaussian(self.parts.stream("features"))
            with atomic(path) as temporary:
                save_file({"mean": found.mean, "covariance": found.covariance}, temporary)
        return Gaussian(**load_file(path), count=self.parts.count)

    def feature_set(self) -> FeatureSet:
        """What the metrics need of it."""
        if self.parts is None:
            return FeatureSet(gaussian=self.gaussian, features=None)
        kept = torch.linspace(0, self.parts.count - 1, min(KEPT, self.parts.count), dtype=torch.float64).round().long()
        features = self.parts.rows("features", kept)
        return FeatureSet(
            gaussian=self.gaussian, features=Features(features=features), radii=self._radii(kept, features)
        )

    def _radii(self, kept: Tensor, features: Tensor) -> Tensor:
        """Of the features in the rows `kept`, for precision and recall; also kept on disk."""
        assert self.parts is not None
        rows = sha256([NEIGHBOURS, *kept.tolist()])[:16]
        path = self.parts.folder / f"radii-{rows}.safetensors"
        if not path.exists():
            with atomic(path) as temporary:
                save_file({"radii": neighbour_radii(features)}, temporary)
        return load_file(path)["radii"]

    @cached_property
    def labels(self) -> Tensor:
        """int64 [n]."""
        assert self.parts is not None
        return torch.cat(list(self.parts.stream("labels")))

    def describe(self) -> dict[str, Any]:
        """What a row says of it."""
        pixels = {} if self.parts is None else {"pixels": self.parts.digest("pixels")}
        return {**self.source, **pixels}


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/twostage`, or `~/.cache/twostage`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twostage"


def data_reference(data: Mapping[str, Any], split: str, network: FeatureNetwork, cache: Path) -> Reference:
    """A split of a data set, through its own loader.

    Each process computes its share of what is missing in the cache; the reference may be used when all have.

    Args:
        data: the component that names the data set.

    Raises:
        TwoStageError: the data set refuses, or the network does.
    """
    source = {"split": split, "data": without_place(data)}
    identity = {**source, "files": listing(data), "network": network.fingerprint}
    summary = cache / "references" / sha256(identity)[:16] / "summary.json"
    if not (summary.exists() and _parts(summary).complete()):
        dataset = DATASETS.build(data, split=split)
        claim(cache / "references", identity)
        write_json(summary, {"count": len(dataset), "image_size": dataset.image_size, "classes": dataset.classes})
        fill(_parts(summary), lambda wanted: dataset_images(dataset, wanted), network)
    said = read_json(summary)
    source["image_size"] = said["image_size"]
    return Reference(parts=_parts(summary), source=source, classes=said["classes"])


def _parts(summary: Path) -> Parts:
    return Parts(folder=summary.parent, name="features", count=read_json(summary)["count"], size=PART)


Chunk = tuple[range, Tensor, Tensor]
"""Which images, the images uint8 [n, c, H, W], and their labels int64 [n]."""


def dataset_images(dataset: ImageDataset, wanted: list[range]) -> Iterator[Chunk]:
    """Some ranges of a data set."""
    batches = DataLoader(dataset, batch_sampler=[list(part) for part in wanted], generator=torch.Generator())
    for part, batch in zip(wanted, batches):
        yield part, to_uint8(batch["images"]), batch["class_label"]


def fill(parts: Parts, images_of: Callable[[list[range]], Iterator[Chunk]], network: FeatureNetwork) -> None:
    """Write the features of this process's images that are not there yet."""
    wanted = [part for part in parts.mine() if not parts.holds(part)]
    left, total = sum(map(len, wanted)), sum(map(len, parts.mine()))
    look = {"desc": "reference images", "unit": "image", "dynamic_ncols": True, "disable": rank() > 0}
    with tqdm(total=total, initial=total - left, **look) as bar:
        for part, images, labels in images_of(wanted):
            found = network.extract(images)
            parts.write(part, {"features": found.features, "labels": labels}, pixels=pixel_digest(images))
            bar.update(len(images))


def check_image_size(reference: Reference, image_size: int) -> None:
    """The images of a reference are as large as the samples.

    Raises:
        TwoStageError: they are not; a network would resize both, and compare what is not comparable.
    """
    size = reference.source.get("image_size")
    if size is not None and size != image_size:
        raise refuse("size of the reference images", size, f"{image_size}, the size of the samples")
