"""How far a reconstruction is from its image."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config import LossConfig, Reconstruction
from twostage.data.images import ImageDataset
from twostage.errors import TwoStageError
from twostage.metrics.reconstruction import LPIPS_TRUNKS, lpips_network
from twostage.metrics.weights import Missing
from twostage.training.task import StepOutput


def scaled_mse(images: Tensor, reconstructions: Tensor, variance: Tensor) -> Tensor:
    """Mean squared error over the variance of the data: the share of variance left unexplained, a scalar.

    "Neural Discrete Representation Learning" (2017) as its authors' code has it, with both in the range [-1, 1].

    Args:
        images, reconstructions: [b, c, H, W].
        variance: of the images' values, a scalar (`data_variance`).
    """
    return F.mse_loss(reconstructions, images) / variance


RECONSTRUCTIONS: Mapping[Reconstruction, Callable[[Tensor, Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "scaled_mse": scaled_mse,
        "mse": lambda images, reconstructions, variance: F.mse_loss(reconstructions, images),
        "l1": lambda images, reconstructions, variance: F.l1_loss(reconstructions, images),
    }
)
"""(images, reconstructions, variance of the data) -> a scalar; all means over every value, on [-1, 1]."""


def data_variance(dataset: ImageDataset, sample: int = 2000) -> float:
    """The variance of all values of up to `sample` images in [-1, 1], spread over the data set."""
    variance = torch.stack([dataset[i]["images"] for i in dataset.spread(sample)]).double().var(correction=0).item()
    return max(variance, 1e-6)


class Perceptual:
    """LPIPS as a loss: "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (Zhang et al., 2018).

    Not a module, so that no checkpoint holds the network; it moves to where the images are.

    Args:
        network: frozen, (images, images), each [b, 3, H, W] in [-1, 1] -> b distances.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def published(cls) -> "Perceptual":
        """LPIPS v0.1 over VGG-16, as VQGAN and its successors train with.

        Raises:
            TwoStageError: the weights are not here.
        """
        network = lpips_network("vgg")
        if isinstance(network, Missing):
            source = f"https://download.pytorch.org/models/{LPIPS_TRUNKS['vgg']}"
            raise TwoStageError(f"loss.perceptual_weight: {network.reason}; it is published at {source}")
        return cls(network)

    def __call__(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        """The mean distance, a scalar, of images and reconstructions [b, 1 or 3, H, W] in [-1, 1]; gray is repeated."""
        self.network.to(images.device)
        return self.network(images.expand(-1, 3, -1, -1), reconstructions.expand(-1, 3, -1, -1)).float().mean()


class Likeness(nn.Module):
    """L_rec: the distance of values, and with a weight that of LPIPS.

    Args:
        options: which distance, and the weight of LPIPS.
        variance: of the data, in [-1, 1].
        perceptual: LPIPS; by default the published one, if its weight is above zero.

    Raises:
        TwoStageError: LPIPS is wanted and its weights are not here.
    """

    variance: Tensor

    def __init__(self, options: LossConfig, variance: float, perceptual: Perceptual | None = None) -> None:
        super().__init__()
        self.distance, self.perceptual_weight = RECONSTRUCTIONS[options.reconstruction], options.perceptual_weight
        self.perceptual = perceptual or Perceptual.published() if options.perceptual_weight else None
        self.register_buffer("variance", torch.tensor(variance))

    def forward(self, images: Tensor, reconstructions: Tensor) -> StepOutput:
        """Of images and reconstructions, [b, c, H, W] in [-1, 1]."""
        distance = self.distance(images, reconstructions, self.variance)
        if self.perceptual is None:
            return StepOutput(loss=distance, metrics={"reconstruction": distance.detach()})
        perceptual = self.perceptual(images, reconstructions)
        return StepOutput(
            loss=distance + self.perceptual_weight * perceptual,
            metrics={"reconstruction": distance.detach(), "perceptual": perceptual.detach()},
        )
