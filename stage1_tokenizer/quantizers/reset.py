"""Codebook reset: VQ, whose codes that win next to nothing are moved to where the features are.

With n_k the features that code k wins among the M of a batch, of all processes, and U_k its running usage:

    U_k <- gamma U_k + (1 - gamma) n_k / M,   U_k = 1 / K at first
    where U_k < t / K:   c_k <- destination_k + s sigma noise,   U_k <- 1 / K

The noise is standard Gaussian and sigma [d] the standard deviation of the features. The destinations and s are a
subclass's. A new or moved code counts as one in regular use, so that it has time to win features: at gamma = 0.99
and t = 0.1 a code that wins none is moved after 230 steps, and again after as many.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics, uniform_codebook, vq_terms
from stage1_tokenizer.quantizers.nearest import Distance, nearest
from stage1_tokenizer.quantizers.straight_through import ESTIMATORS, StraightThrough
from twostage.config import Count, Fraction, NonNegative
from twostage.training.distributed import broadcast, sum_over_processes


class ResetCodebook(Quantizer):
    """A codebook moved by VQ's gradient, and by resets.

    Args:
        codebook_size: K; the codes start at U(-1/K, 1/K).
        dim: d.
        distance: what "nearest" means. The vectors themselves are used as they are, of any norm.
        straight_through: how the gradient gets past the code.
        decay: gamma.
        threshold: t, the usage below which a code is moved, as a share of the usage of an average code.
        commitment_weight: beta of VQ's loss.

    Attributes:
        average_usage: U_k, float32 [K].
        noise: s.
    """

    noise: ClassVar[float]
    average_usage: Tensor

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        distance: Distance = "l2",
        straight_through: StraightThrough = "plain",
        decay: Fraction = 0.99,
        threshold: Fraction = 0.1,
        commitment_weight: NonNegative = 0.25,
    ) -> None:
        super().__init__(codebook_size, dim)
        self.distance = distance
        self.estimator = ESTIMATORS[straight_through]
        self.decay, self.threshold, self.commitment_weight = decay, threshold, commitment_weight
        self.codebook = nn.Parameter(uniform_codebook(codebook_size, dim))
        self.register_buffer("average_usage", torch.full((codebook_size,), 1 / codebook_size))

    def destinations(self, starved: Tensor, features: Tensor) -> Tensor:
        """Where codes go, before the noise; the same on every process.

        Args:
            starved: which codes, int64 [n].
            features: this process's, [n_r, d].

        Returns:
            [n, d].
        """
        raise NotImplementedError

    def quantize(self, features: Tensor) -> QuantizerOutput:
        codes = nearest(features, self.codebook, self.distance)
        counts = self.count(codes)
        vectors = F.embedding(codes, self.codebook)
        commitment, codebook = vq_terms(features, vectors)
        if self.training:
            self.reset_starved(features.detach(), counts)
        return QuantizerOutput(
            z_q=self.estimator(features, vectors, counts.sum()) if self.training else vectors,
            codes=codes,
            loss=self.commitment_weight * commitment + codebook,
            metrics={"commitment": commitment.detach(), **codebook_metrics(counts)},
        )

    @torch.no_grad()
    def reset_starved(self, features: Tensor, counts: Tensor) -> None:
        """Count one batch and move the codes that are used too little.

        What a moved code won in this batch still gives it a gradient, which belongs to where it stood: one small step
        astray, as such a code wins next to nothing and its optimiser has long forgotten what it won before.

        Args:
            features: this process's, [n_r, d].
            counts: how many features of all processes each code won, int64 [K].
        """
        total = counts.sum()
        self.average_usage.lerp_(counts.to(self.average_usage) / total, 1 - self.decay)
        starved = torch.nonzero(self.average_usage < self.threshold / self.codebook_size).squeeze(1)
        if len(starved):
            noise = broadcast(torch.randn(len(starved), self.dim, device=features.device, dtype=features.dtype))
            moved = self.destinations(starved, features) + self.noise * deviation(features, total) * noise
            self.codebook[starved] = moved.to(self.codebook)
            self.average_usage[starved] = 1 / self.codebook_size

    def initialize_codebook(self, centroids: Tensor) -> None:
        self.codebook.data.copy_(centroids)
        self.average_usage.fill_(1 / self.codebook_size)


def deviation(features: Tensor, total: Tensor) -> Tensor:
    """The standard deviation of the `total` features of all processes in each dimension: [n_r, d] -> [d]."""
    mean = sum_over_processes(features.sum(0)) / total
    return (sum_over_processes((features - mean).square().sum(0)) / total).sqrt()
