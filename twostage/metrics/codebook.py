"""How much of a codebook is used: the share of codes met at least once, and the perplexity of their distribution.

perplexity = exp(-sum_k p_k log p_k), p_k = counts_k / sum counts: K when all codes are equally frequent, 1 when one
code is all there is.
"""

import torch
from torch import Tensor

from twostage.errors import TwoStageError, refuse


def usage(counts: Tensor) -> Tensor:
    """The share of codes with a count above zero; counts [..., K] -> float32 [...], in 0..1."""
    return (counts > 0).float().mean(dim=-1)


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of counts [..., K] -> float [...], at least fp32, in 1..K; 1 when all counts are zero."""
    share = counts.to(torch.promote_types(counts.dtype, torch.float32)) / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.exp(-torch.xlogy(share, share).sum(dim=-1))


class CodebookMetrics:
    """Counts of codes over a data set.

    Args:
        codebook_size: K.

    Attributes:
        counts: int64 [K] on the CPU; sum it over processes before `compute` when there are several.
    """

    def __init__(self, codebook_size: int) -> None:
        if codebook_size < 1:
            raise refuse("codebook_size", codebook_size, "an integer of at least 1")
        self.codebook_size = codebook_size
        self.counts = torch.zeros(codebook_size, dtype=torch.int64)

    def update(self, codes: Tensor) -> None:
        """Count codes int64 [b, h, w] (several code maps, [b, q, h, w], are counted together).

        Raises:
            TwoStageError: a code is not in 0..K-1.
        """
        if codes.numel() == 0:
            return
        for code in (int(codes.min()), int(codes.max())):
            if not 0 <= code < self.codebook_size:
                raise refuse("codes", code, f"0 to {self.codebook_size - 1}, as codebook_size is {self.codebook_size}")
        self.counts += torch.bincount(codes.flatten(), minlength=self.codebook_size).cpu()

    def compute(self) -> dict[str, float]:
        """`usage` in 0..1 and `perplexity` in 1..K, over all codes so far.

        Raises:
            TwoStageError: there were none.
        """
        if not self.counts.any():
            raise TwoStageError("codebook metrics: 0 codes were given; allowed: at least 1")
        counts = self.counts.double()
        return {"usage": usage(counts).item(), "perplexity": perplexity(counts).item()}
