"""Samples for an evaluation, chunk by chunk: their features on disk, the images only when asked for.

A chunk is one batch of the pipeline. Image i depends on (seed, i, its label) alone, and a chunk's images are always
drawn together, so that a drawing that was killed and goes on, or that several processes share, ends in the same bits
as one that was not. What a chunk was drawn from decides the folder it is in: other weights, options, another seed or
feature network have another.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pipelines.evaluation.provenance import pipeline_fingerprint, sampling_settings
from pipelines.sample import sample_some
from twostage.data.images import to_uint8
from twostage.errors import refuse
from twostage.files import atomic
from twostage.metrics.features import FeatureNetwork
from twostage.metrics.gaussian import fit_gaussian
from twostage.metrics.generation import FeatureSet
from twostage.metrics.outputs import Features
from twostage.parts import Parts, claim, pixel_digest
from twostage.pictures import save_image
from twostage.training.distributed import rank, world_size


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is to be drawn.

    Attributes:
        labels: of image i; None of a model without classes.
        classes: how they were chosen: the choice, and what it rests on.
        batch_size: images to a chunk.
        options: passed to the pipeline's call.
    """

    labels: list[int | None]
    classes: dict[str, Any]
    seed: int
    batch_size: int
    options: dict[str, Any] = field(default_factory=dict)

    def identity(self, pipeline: Any, network: FeatureNetwork | None) -> dict[str, Any]:
        """What decides the content of a chunk, but for the number of images."""
        return {
            "model": pipeline_fingerprint(pipeline),
            "sampling": sampling_settings(pipeline, self.options),
            "seed": self.seed,
            "classes": self.classes,
            "batch_size": self.batch_size,
            "device": pipeline.device.type,
            "network": None if network is None else network.fingerprint,
        }


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Finished samples.

    Attributes:
        features: tensors `features`, `logits` (of networks that classify) and `labels` (-1 without classes).
        images: tensor `images` uint8 [n, c, H, W].
    """

    features: Parts | None
    images: Parts | None

    def feature_set(self) -> FeatureSet:
        """All their features."""
        assert self.features is not None
        logits = torch.cat(list(self.features.stream("logits"))) if self.features.has("logits") else None
        known = Features(features=torch.cat(list(self.features.stream("features"))), logits=logits)
        return FeatureSet(gaussian=fit_gaussian(self.features.stream("features")), features=known)

    def digest(self) -> str | None:
        """SHA-256 of the images, as they were drawn."""
        return self.stores()[0].digest("pixels") if self.stores() else None

    def stores(self) -> list[Parts]:
        """What is kept."""
        return [store for store in (self.features, self.images) if store is not None]

    def keep(self, part: range, pixels: Tensor, labels: Sequence[int | None], network: FeatureNetwork | None) -> None:
        """Write a chunk, uint8 [n, c, H, W]."""
        digest = pixel_digest(pixels)
        if self.images is not None:
            self.images.write(part, {"images": pixels}, pixels=digest)
        if self.features is not None and network is not None:
            found = network.extract(pixels)
            ids = torch.tensor([-1 if label is None else label for label in labels])
            logits = {} if found.logits is None else {"logits": found.logits}
            self.features.write(part, {"features": found.features, "labels": ids, **logits}, pixels=digest)


def draw(pipeline: Any, drawing: Drawing, network: FeatureNetwork | None, folder: Path, *, keep_images: bool) -> Drawn:
    """Draw what is not yet in `folder`; each process its share, so that all is there when all are done.

    Raises:
        TwoStageError: the feature network refuses the images, or the file system a file.
    """
    stores = {"features": network is not None, "images": keep_images}
    if not any(stores.values()):
        return Drawn(features=None, images=None)
    place = claim(folder, drawing.identity(pipeline, network))
    rows: dict[str, Any] = {"folder": place, "count": len(drawing.labels), "size": drawing.batch_size}
    drawn = Drawn(**{name: Parts(name=name, **rows) if kept else None for name, kept in stores.items()})
    mine = drawn.stores()[0].mine()
    wanted = [part for part in mine if not all(store.holds(part) for store in drawn.stores())]
    left, total = sum(map(len, wanted)), sum(map(len, mine))
    few = total <= drawing.batch_size
    pipeline.set_progress_bar_config(desc="batch", leave=False, dynamic_ncols=True, disable=few or rank() > 0)
    share = f"sampling, share of 1 of {world_size()} processes" if world_size() > 1 else "sampling"
    look = {"desc": share, "unit": "image", "dynamic_ncols": True, "disable": rank() > 0}
    with tqdm(total=total, initial=total - left, **look) as bar:
        for part in wanted:
            images = sample_some(pipeline, part, drawing.labels, seed=drawing.seed, **drawing.options)
            drawn.keep(part, to_uint8(images), [drawing.labels[i] for i in part], network)
            bar.update(len(part))
    return drawn


def save_npz(images: Parts, path: Path) -> None:
    """All images as `arr_0`, uint8 [n, H, W, 3], for other evaluators; one part in memory at a time.

    Raises:
        TwoStageError: the file system refused.
    """
    height, width = images.read(images.ranges()[0], "images").shape[2:]
    header = {"descr": "|u1", "fortran_order": False, "shape": (images.count, height, width, 3)}
    with (
        atomic(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for part in images.stream("images"):
            file.write(part.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy().data)


def check_image_folder(folder: Path, count: int) -> None:
    """A folder for images holds no others: an evaluator would count them too.

    Raises:
        TwoStageError: it does, or is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise refuse("--save-images", str(folder), "a folder")
    ours = {_file_name(i) for i in range(count)}
    if folder.is_dir() and (others := sorted(path.name for path in folder.iterdir() if path.name not in ours)):
        raise refuse("--save-images", str(folder), f"a folder without other files; there is {others[0]}")


def save_pngs(images: Parts, folder: Path) -> None:
    """This process's share of the images as PNG files, named by index."""
    for part in images.mine():
        for i, pixels in zip(part, images.read(part, "images").permute(0, 2, 3, 1).numpy()):
            save_image(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), folder / _file_name(i))


def _file_name(index: int) -> str:
    return f"{index:06d}.png"
