"""The network whose features decide how alike two sets of images are: the standard Inception, or one of your own.

FID, KID and IS are names of numbers taken with one network, the Inception of 2015 (torch-fidelity's
"inception-v3-compat"). With any other network the same formulas give other numbers, so their rows carry its name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from twostage.data.images import ImageDataset, to_uint8
from twostage.errors import TwoStageError, refuse
from twostage.metrics.custom_network import build_network, network_name
from twostage.metrics.weights import Missing, hub_weights

INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"

Images = Tensor | ImageDataset
"""A set of images: uint8 [n, c, H, W] in 0..255, c = 1 or 3, or a data set (its floats are rounded to uint8)."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a feature network says about n images; all on the CPU.

    Attributes:
        features: float32 [n, d].
        logits: float32 [n, classes] without bias, for networks that classify.
    """

    features: Tensor
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


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
    """

    name: str
    module: nn.Module
    rows: RowNames
    device: torch.device | str = "cpu"

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


def load_network(spec: str | None = None, device: torch.device | str = "cpu") -> FeatureNetwork | Missing:
    """The standard Inception, or the network that `spec` names.

    Args:
        spec: None, or "path/to/file.py:factory", where `factory()` returns an nn.Module (`FeatureNetwork.module`). The
            network is called by the module's attribute `name`, if it is a string, or else by the factory's name.

    Returns:
        `Missing` when `spec` is None and the published Inception weights are not in torch.hub's folder.

    Raises:
        TwoStageError: no such file or function, a file that fails, or one that does not give an nn.Module.
    """
    if spec is not None:
        module = build_network(spec)
        name = network_name(spec, module)
        return FeatureNetwork(name=name, module=_frozen(module, device), rows=RowNames.of(name), device=device)
    weights = hub_weights(INCEPTION_WEIGHTS, needed_by="FID, KID, IS, precision and recall")
    if isinstance(weights, Missing):
        return weights
    module = _frozen(_Inception(weights), device)
    return FeatureNetwork(name="Inception", module=module, rows=STANDARD_ROWS, device=device)


class _Inception(nn.Module):
    """torch-fidelity's Inception: 2048 pooled features and the logits without bias that IS is defined on."""

    def __init__(self, weights: Path) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        super().__init__()
        self.extractor = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
        )

    def forward(self, images: Tensor) -> Features:
        features, logits = self.extractor(images)
        return Features(features=features, logits=logits)


def _frozen(module: nn.Module, device: torch.device | str) -> nn.Module:
    return module.eval().requires_grad_(False).to(device)
