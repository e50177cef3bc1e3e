"""How far a reconstruction is from its image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.data.images import ImageDataset


def scaled_mse(images: Tensor, reconstructions: Tensor, variance: Tensor) -> Tensor:
    """Mean squared error over the variance of the data: the share of variance left unexplained, a scalar.

    "Neural Discrete Representation Learning" (2017) as its authors' code has it, with both in the range [-1, 1].

    Args:
        images, reconstructions: [b, c, H, W].
        variance: of the images' values, a scalar (`data_variance`).
    """
    return F.mse_loss(reconstructions, images) / variance


def data_variance(dataset: ImageDataset, sample: int = 2000) -> float:
    """The variance of all values of up to `sample` images in [-1, 1], evenly spaced through the data set."""
    chosen = torch.linspace(0, len(dataset) - 1, min(sample, len(dataset))).long().tolist()
    variance = torch.stack([dataset[i]["images"] for i in chosen]).double().var(correction=0).item()
    return max(variance, 1e-6)
