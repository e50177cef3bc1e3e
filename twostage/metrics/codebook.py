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
    """Sums what a quantiser counts over a data set.

    Args:
        entries: how many vectors there are to choose from; of several codebooks, over all of them.

    Attributes:
        counts: int64 [entries] on the CPU; sum it over processes before `compute` when there are several.
    """

    def __init__(self, entries: int) -> None:
        if entries < 1:
            raise refuse("entries", entries, "an integer of at least 1")
        self.entries = entries
        self.counts = torch.zeros(entries, dtype=torch.int64)

    def update(self, counts: Tensor) -> None:
        """Add the counts of a batch, int64 [entries], as `Quantizer.count` gives them in eval mode.

        Raises:
            TwoStageError: there are not as many as entries (a code was not in 0..K-1), or one is negative.
        """
        if counts.shape != (self.entries,):
            raise refuse("counts", list(counts.shape), f"[{self.entries}], one for each entry of the codebook")
        if (least := int(counts.min())) < 0:
            raise refuse("counts", least, "integers of at least 0")
        self.counts += counts.cpu()

    def compute(self) -> dict[str, float]:
        """`usage` in 0..1 and `perplexity` in 1..entries, over all codes so far.

        Raises:
            TwoStageError: there were none.
        """
        if not self.counts.any():
            raise TwoStageError("codebook metrics: 0 codes were given; allowed: at least 1")
        counts = self.counts.double()
        return {"usage": usage(counts).item(), "perplexity": perplexity(counts).item()}
