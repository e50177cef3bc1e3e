"""TransVQ: "Beyond Stationarity" (2026), Eq. 21-26.

    C' = P(C),   C frozen, P a transformer whose tokens are the codes                              (Eq. 21)
    L = ||sg(z) - C'_k||^2 + beta ||z - sg(C'_k)||^2,   C'_k the mapped code nearest to z          (Eq. 25)

The gradient of one code moves P, and with it every code by its own amount (Eq. 22, 23). P's attention is linear,

    y_i = phi(q_i) sum_j phi(k_j) v_j^T / (phi(q_i) sum_j phi(k_j)),   phi = elu + 1,

"Transformers are RNNs" (Katharopoulos et al., 2020), Eq. 5: time and memory grow with K, not with its square. The
official code's map of every code by itself (its "tokens" variant, imported there and never used) is left out: no code
hears of another in it.
"""

from collections import OrderedDict
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.mapped import MappedCodebook
from stage1_tokenizer.quantizers.straight_through import StraightThrough
from twostage.config import Count, NonNegative
from twostage.errors import refuse

EPSILON = 1e-6


class LinearAttention(nn.Module):
    """One head of attention of every token to every token, none masked: [n, width] -> [n, width].

    Args:
        width: of tokens, queries, keys and values.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key = F.elu(self.query(x)) + 1, F.elu(self.key(x)) + 1
        total = query @ key.sum(0)
        return self.out(query @ (key.T @ self.value(x)) / (total + EPSILON)[:, None])


class Block(nn.Module):
    """x + attention(norm x), then x + MLP(norm x) of twice the width: [n, width] -> [n, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), LinearAttention(width))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Positions(nn.Module):
    """Adds to every token a vector of its own, [n, width], from N(0, 1)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(count, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


def transformer(dim: int, width: int, positions: nn.Module) -> nn.Sequential:
    """[K, dim] -> [K, dim] with the codes as tokens."""
    return nn.Sequential(
        OrderedDict(
            inward=nn.Linear(dim, width, bias=False),
            positions=positions,
            block=Block(width),
            norm=nn.LayerNorm(width),
            outward=nn.Linear(width, dim, bias=False),
        )
    )


def mlp(dim: int, width: int) -> nn.Sequential:
    """[K, dim] -> [K, dim], every code by itself: faster than the transformer and, in the paper, slightly worse."""
    return nn.Sequential(OrderedDict(inward=nn.Linear(dim, width), relu=nn.ReLU(), outward=nn.Linear(width, dim)))


class TransVQ(MappedCodebook):
    """A frozen Gaussian codebook behind a learned map of all codes at once.

    As published the map is everything, C' = P(C). A warm start makes it a correction, C' = C + P(C), whose last layer
    starts at zero, so that the codes start at the centroids; `residual` keeps which of the two it is.

    Args:
        codebook_size: K; the base codebook is drawn from N(0, 1/d).
        dim: d.
        mapping: the transformer, or a perceptron of two layers that maps every code by itself.
        width: of the transformer's tokens, or of the perceptron's hidden layer.
        positions: `learned` adds to every token a vector of its own, so that codes can also move by themselves.
        straight_through: how the gradient gets past the code.
        commitment_weight: beta of the commitment loss.

    Raises:
        TwoStageError: positions with the perceptron, which has no tokens.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"official": {"positions": "learned"}}

    mapping: nn.Sequential
    residual: Tensor

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        mapping: Literal["transformer", "mlp"] = "transformer",
        width: Count = 256,
        positions: Literal["none", "learned"] = "none",
        straight_through: StraightThrough = "plain",
        commitment_weight: NonNegative = 0.25,
    ) -> None:
        if mapping == "mlp" and positions != "none":
            raise refuse("positions", positions, "none, with mapping: mlp")
        table = nn.Identity() if positions == "none" else Positions(codebook_size, width)
        super().__init__(
            torch.randn(codebook_size, dim) * dim**-0.5,
            transformer(dim, width, table) if mapping == "transformer" else mlp(dim, width),
            straight_through=straight_through,
            commitment_weight=commitment_weight,
        )
        self.register_buffer("residual", torch.tensor(False))

    def mapped(self) -> Tensor:
        """P(C), or C + P(C) after a warm start; [K, d]."""
        return super().mapped() + self.residual * self.base

    def initialize_codebook(self, centroids: Tensor) -> None:
        """The centroids become C, and P a correction of zero."""
        self.base.copy_(centroids)
        self.residual.fill_(True)
        for parameter in self.mapping[-1].parameters():
            nn.init.zeros_(parameter)
