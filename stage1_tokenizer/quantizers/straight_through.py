"""Straight-through estimators: the value of the code, and how the gradient at the decoder's input gets past it.

Each takes features [n, d], their codes' vectors [n, d] and M, the number of features in the whole batch, and returns
z_q [n, d] with the value of the vectors.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

StraightThrough = Literal["plain", "modified", "rotation"]
Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]

EPSILON = 1e-6


def plain(features: Tensor, vectors: Tensor, total: Tensor) -> Tensor:
    """q = z + sg(c - z): the whole gradient goes to the feature.

    "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation" (Bengio et al., 2013).
    """
    return _Plain.apply(features, vectors)


class _Plain(torch.autograd.Function):
    """Exactly the vectors, and no arithmetic either way."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, vectors: Tensor) -> Tensor:
        return vectors.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def modified(features: Tensor, vectors: Tensor, total: Tensor) -> Tensor:
    """q = z + a c + sg((1 - a) c - z): the code also moves along the gradient at the decoder's input.

    "Beyond Stationarity" (2026), Eq. 18. Its a = 2 / M belongs to losses summed over the d dimensions; here losses are
    means over features and dimensions, hence a = 2 / (M d).
    """
    a = 2 / (total.to(features) * features.shape[1])
    return features + a * vectors + ((1 - a) * vectors - features).detach()


def rotation(features: Tensor, vectors: Tensor, total: Tensor) -> Tensor:
    """q = sg(R |c| / |z|) z, R the rotation from z to c in their plane: angles of the gradient to z are kept.

    "Restructuring Vector Quantization with the Rotation Trick" (Fifty et al., 2024), Eq. 4, as two reflections.
    """
    target, length = vectors.detach(), features.detach().norm(dim=1, keepdim=True)
    e, q = F.normalize(features.detach(), dim=1, eps=EPSILON), F.normalize(target, dim=1, eps=EPSILON)
    r = F.normalize(e + q, dim=1, eps=EPSILON)
    scale = target.norm(dim=1, keepdim=True) / length.clamp(min=EPSILON)
    reflected = features - 2 * (features * r).sum(1, keepdim=True) * r
    return scale * (reflected + 2 * (features * e).sum(1, keepdim=True) * q)


ESTIMATORS: Mapping[StraightThrough, Estimator] = {"plain": plain, "modified": modified, "rotation": rotation}
