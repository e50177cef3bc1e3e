"""SimVQ: "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer" (Zhu et al., 2024).

One linear layer lies between a codebook C that never changes and the codes that are looked up, C' = C W: the gradient
of one code moves W, and with it every code.
"""

import torch
from torch import Tensor, nn

from stage1_tokenizer.quantizers.mapped import MappedCodebook
from stage1_tokenizer.quantizers.straight_through import StraightThrough
from twostage.config import Count, NonNegative


class SimVQ(MappedCodebook):
    """A frozen Gaussian codebook behind one learned linear layer without a bias.

    Args:
        codebook_size: K; the base codebook is drawn from N(0, 1/d).
        dim: d.
        straight_through: how the gradient gets past the code.
        commitment_weight: beta of the commitment loss.
    """

    mapping: nn.Linear

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        straight_through: StraightThrough = "plain",
        commitment_weight: NonNegative = 0.25,
    ) -> None:
        super().__init__(
            torch.randn(codebook_size, dim) * dim**-0.5,
            nn.Linear(dim, dim, bias=False),
            straight_through=straight_through,
            commitment_weight=commitment_weight,
        )

    def initialize_codebook(self, centroids: Tensor) -> None:
        """The centroids become C and W the identity."""
        self.base.copy_(centroids)
        nn.init.eye_(self.mapping.weight)
