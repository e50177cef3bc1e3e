"""Linear layers of one input, as one:

    x [W_1; W_2; ...]^T + [b_1; b_2; ...] = [x W_1^T + b_1, x W_2^T + b_2, ...]

Where x has few rows, a layer takes as long as its weights take to be read. On a CPU, oneDNN with weights in an order of
its own reads them several times faster than the product that torch would choose.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 16
"""For which oneDNN orders weights: the order for 16 rows is good for 1 and for 64, that for 1 is not."""


class Linear(nn.Module):
    """x [..., n] -> [..., m].

    Args:
        weight: [m, n].
        bias: [m], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.bias = nn.Buffer(weight), None if bias is None else nn.Buffer(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    @classmethod
    def of(cls, *layers: Any) -> "Linear":
        """Linear layers (torch's, or transformers' Conv1D), side by side."""
        weights = [layer.weight.detach() for layer in layers]
        weights = [w if isinstance(layer, nn.Linear) else w.T for layer, w in zip(layers, weights)]
        biases = [layer.bias for layer in layers]
        if len(layers) == 1:
            return cls(weights[0], biases[0])
        return cls(torch.cat(weights), None if biases[0] is None else torch.cat(biases))


class Packed(Linear):
    """The same by oneDNN, with weights in its order."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS), bias)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return product


def fastest(weight: Tensor) -> type[Linear]:
    """The kind of layer for weights like this one, on a machine like this one."""
    packs = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    return Packed if packs and torch.backends.mkldnn.is_available() else Linear
