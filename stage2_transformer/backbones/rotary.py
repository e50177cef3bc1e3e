"""Rotary positions in two dimensions: "RoFormer: Enhanced Transformer with Rotary Position Embedding" (Su et al.,
2021), on images as in "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation" (Sun et al., 2024).

A query or a key at row r and column s has its i-th pair of channels, of d / 2 pairs, turned by an angle:

    r base^(-4 i / d)  for the first d / 4 pairs,   s base^(-4 (i - d / 4) / d)  for the others,

so that a score depends on the difference of rows and that of columns. Rows and columns count from 1. The class stands
at (0, 0), where no code is, so that attention to it can tell one place in the image from another. (The published code
makes queries and keys of the class zero.) The q codes of one position share its place; which of the q maps a code is
of is told by its embedding, as every map has tokens of its own.
"""

import torch
from torch import Tensor, nn

BASE = 10_000.0


class Rotary2D(nn.Module):
    """Takes the place of a LLaMA's `rotary_emb`.

    It holds no tensor, so that nothing is lost when a model changes its dtype.

    Args:
        grid: (q, h, w) of the codes.
        head_dim: channels of a head, d, a multiple of 4.
    """

    def __init__(self, grid: tuple[int, int, int], head_dim: int) -> None:
        super().__init__()
        self.maps, _, self.columns = grid
        self.head_dim = head_dim

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The cosines and sines of every channel's angle.

        Args:
            x: of whatever shape; says dtype and device.
            position_ids: int64 [b, n], places in the sequence, the class at 0.

        Returns:
            Two tensors [b, n, d] in x's dtype. Channel i turns with channel i + d / 2, as transformers pairs them.
        """
        place = (position_ids - 1) // self.maps
        row = place // self.columns + 1
        column = (place % self.columns + 1) * (position_ids > 0)
        exponents = torch.arange(0, self.head_dim, 4, device=x.device, dtype=torch.float32) / self.head_dim
        angles = torch.cat([coordinate[..., None] * BASE**-exponents for coordinate in (row, column)], dim=-1)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)
