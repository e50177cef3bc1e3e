"""The exponential moving average of a model's weights, with a warm-up so that early weights are soon forgotten."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` that follows it.

    The first update copies the weights; after n updates the decay is min(decay, (1 + n) / (10 + n)).
    `update_parameters(model)` moves it, `.module` is the averaged model, and its state_dict holds all of it.
    """
    averaged = AveragedModel(model, multi_avg_fn=_warm(decay))
    return averaged.requires_grad_(False).eval()


Tensors = tuple[Tensor, ...] | list[Tensor]


def _warm(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    def update(averages: Tensors, weights: Tensors, updates: Tensor | int) -> None:
        n = int(updates)
        torch._foreach_lerp_(averages, [w.detach() for w in weights], 1 - min(decay, (1 + n) / (10 + n)))

    return update
