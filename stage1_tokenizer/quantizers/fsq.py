"""FSQ: "Finite Scalar Quantization: VQ-VAE Made Simple" (Mentzer et al., 2023).

    z_i -> round(floor(L_i / 2) tanh(z_i)),   K = prod_i L_i                                            (Sec. 3.1)

No codebook is learned: the codes are the points of a grid. A reference from outside the k-means family; the grid
is vector-quantize-pytorch's (`pip install twostage[references]`).
"""

import itertools
import math

import torch
from torch import Tensor

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics
from twostage.config import Count
from twostage.errors import refuse
from twostage.lazy import optional


class FSQ(Quantizer):
    """A grid of levels, behind linear maps from and to `dim` channels where there are not as many as levels.

    Args:
        codebook_size: K, the product of the levels.
        dim: d.
        levels: L_i, each at least 3; None takes as few between 3 and 8 as have the product K, as even as can be.

    Raises:
        TwoStageError: the levels' product is not K, or K is no product of such levels.
    """

    learns_codebook = False

    def __init__(self, codebook_size: Count, dim: Count, *, levels: list[int] | None = None) -> None:
        super().__init__(codebook_size, dim)
        if levels is None:
            levels = factorize(codebook_size)
        elif min(levels, default=0) < 3 or math.prod(levels) != codebook_size:
            raise refuse("levels", levels, f"integers of at least 3 whose product is codebook_size ({codebook_size})")
        with torch.device("cpu"):  # the library reads values while it builds, which the meta device has none of
            self.grid = optional("vector_quantize_pytorch", extra="references").FSQ(levels, dim)

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """[K, d]: every point of the grid, mapped to d channels."""
        return self.grid.project_out(self.grid.implicit_codebook)

    def quantize(self, features: Tensor) -> QuantizerOutput:
        z_q, codes = self.grid(features[None])
        codes = codes[0].long()
        return QuantizerOutput(
            z_q=z_q[0] if self.training else self.lookup(codes),
            codes=codes,
            loss=features.new_zeros(()),
            metrics=codebook_metrics(self.count(codes)),
        )


def factorize(codebook_size: int) -> list[int]:
    """The fewest levels in 3..8 with this product, of those the most even; largest first."""
    for count in range(1, 12):
        candidates = itertools.combinations_with_replacement(range(8, 2, -1), count)
        found = [list(levels) for levels in candidates if math.prod(levels) == codebook_size]
        if found:
            return min(found, key=lambda levels: max(levels) - min(levels))
    raise refuse("codebook_size", codebook_size, "a product of integers from 3 to 8, or set levels")
