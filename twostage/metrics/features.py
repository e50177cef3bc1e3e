"""The network whose features decide how alike two sets of images are: the standard Inception, or one of your own.

FID, KID and IS are names of numbers taken with one network, the Inception of 2015 (torch-fidelity's
"inception-v3-compat"). With any other network the same formulas give other numbers, so their rows carry its name; and
since they depend on the number of images, their rows carry that too: FID-50k, FID@10000, FD-<name>@50000.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from twostage.data.images import ImageDataset, ImageExample, to_uint8
from twostage.errors import TwoStageError, refuse
from twostage.metrics.custom_network import build_network, network_name
from twostage.metrics.inception import Inception, Resize
from twostage.metrics.outputs import Features
from twostage.metrics.weights import Missing, digest, hub_weights
from twostage.models import state_fingerprint

INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"

Images = Tensor | ImageDataset | Subset[ImageExample]
"""A set of images: uint8 [n, c, H, W] in 0..255, c = 1 or 3, or a data set (its floats are rounded to uint8)."""


@dataclass(frozen=True, kw_only=True)
class RowNames:
    """What the numbers taken with one network are called in tables."""

    frechet: str
    frechet_reconstruction: str
    kernel: str
    score: str
    precision: str
    recall: str

    @classmethod
    def of(cls, network: str) -> "RowNames":
        """The names for a network other than the standard Inception."""
        return cls(
            frechet=f"FD-{network}",
            frechet_reconstruction=f"rFD-{network}",
            kernel=f"KD-{network}",
            score=f"IS-{network}",
            precision=f"precision-{network}",
            recall=f"recall-{network}",
        )

    def of_number(self, n: int) -> "RowNames":
        """The names with the number of images: `-50k` for the standard network's at 50,000, otherwise `@n`."""
        tail = "-50k" if n == 50_000 and self == STANDARD_ROWS else f"@{n}"
        return RowNames(**{field: name + tail for field, name in asdict(self).items()})


STANDARD_ROWS = RowNames(
    frechet="FID", frechet_reconstruction="rFID", kernel="KID", score="IS", precision="precision", recall="recall"
)


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A frozen network in eval mode.

    Attributes:
        name: for messages.
        module: uint8 [b, 3, H, W] in 0..255 -> float [b, d], or `Features` when there are logits too. Resizing and
            normalising are its own business.
        rows: what its numbers are called.
        device: where `module` is.
        recipe: what decides its features besides the weights: how it resizes, or the file it was built by.
    """

    name: str
    module: nn.Module
    rows: RowNames
    device: torch.device | str = "cpu"
    recipe: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over recipe and weights. What else a file of one's own imports or reads is not covered."""
        return state_fingerprint(self.module, f"{self.name} {self.recipe}")

    @torch.no_grad()
    def extract(self, images: Images, batch_size: int = 64) -> Features:
        """The features of every image, in order; shows a progress bar when it takes more than a few seconds.

        Raises:
            TwoStageError: the images are not uint8 [n, 1 or 3, H, W], or the network's answer is not finite [b, d].
        """
        from tqdm import tqdm

        parts = []
        look = {"desc": f"{self.name} features", "unit": "image", "leave": False, "delay": 2, "mininterval": 1}
        with tqdm(total=len(images), **look) as progress:
            for batch in _batches(images, batch_size):
                parts.append(self._checked(self.module(batch.expand(-1, 3, -1, -1).to(self.device)), len(batch)))
                progress.update(len(batch))
        if not parts:
            raise refuse("number of images", 0, "at least 1")
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(
            features=torch.cat([part.features for part in parts]), logits=torch.cat(logits) if logits else None
        )

    def _checked(self, answer: Any, count: int) -> Features:
        found = answer if isinstance(answer, Features) else Features(features=answer)
        features, allowed = found.features, f"[{count}, d] with d of at least 2, for {count} images"
        if not isinstance(features, Tensor):
            raise refuse(f"feature network {self.name}: output", type(features).__name__, f"a float tensor {allowed}")
        if features.ndim != 2 or len(features) != count or features.shape[1] < 2:
            raise refuse(f"feature network {self.name}: output shape", tuple(features.shape), allowed)
        if not features.isfinite().all():
            raise TwoStageError(f"feature network {self.name}: a feature is NaN or infinite; allowed: finite numbers")
        logits = None if found.logits is None else found.logits.float().cpu()
        return Features(features=features.float().cpu(), logits=logits)


def _batches(images: Images, batch_size: int) -> Iterator[Tensor]:
    if not isinstance(images, Tensor):
        # a generator of its own: iterating must not move the global random state of a training run
        for batch in DataLoader(images, batch_size=batch_size, generator=torch.Generator()):
            yield to_uint8(batch["images"])
        return
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise refuse("images", f"{images.dtype} {tuple(images.shape)}", "torch.uint8 [n, 1 or 3, H, W]")
    if len(images):
        yield from images.split(batch_size)


def load_network(
    spec: str | None = None, device: torch.device | str = "cpu", resize: Resize = "tensorflow"
) -> FeatureNetwork | Missing:
    """The standard Inception, or the network that `spec` names.

    Args:
        spec: None, or "path/to/file.py:factory", where `factory()` returns an nn.Module (`FeatureNetwork.module`). The
            network is called by the module's attribute `name`, if it is a string, or else by the factory's name.
        resize: how images reach Inception's 299 pixels; a network of one's own resizes as it likes.

    Returns:
        `Missing` when `spec` is None and the published Inception weights are not in torch.hub's folder.

    Raises:
        TwoStageError: no such file or function, a file that fails, or one that does not give an nn.Module.
    """
    if spec is not None:
        module = build_network(spec)
        name, source = network_name(spec, module), digest(Path(spec.rpartition(":")[0]))
        rows = RowNames.of(name)
        return FeatureNetwork(name=name, module=_frozen(module, device), rows=rows, device=device, recipe=source)
    weights = hub_weights(INCEPTION_WEIGHTS, needed_by="FID, KID, IS, precision and recall")
    if isinstance(weights, Missing):
        return weights
    module = _frozen(Inception(weights, resize), device)
    recipe = f"resize {resize}"
    return FeatureNetwork(name="Inception", module=module, rows=STANDARD_ROWS, device=device, recipe=recipe)


def _frozen(module: nn.Module, device: torch.device | str) -> nn.Module:
    return module.eval().requires_grad_(False).to(device)
