"""EMA: "Generating Diverse High-Fidelity Images with VQ-VAE-2" (Razavi et al., 2019).

The update is the one of the appendix of "Neural Discrete Representation Learning" (van den Oord et al., 2017): every
code is a running mean of the features it wins. With n_k of them in this batch, of all processes:

    N_k <- gamma N_k + (1 - gamma) n_k                              running counts
    m_k <- gamma m_k + (1 - gamma) (their sum)                      running sums
    c_k <- m_k / N'_k,   N'_k = N (N_k + eps) / (N + K eps),   N = sum_k N_k

The loss is the commitment alone, beta ||z - sg(c)||^2: no gradient reaches the codes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics
from stage1_tokenizer.quantizers.nearest import Distance, nearest
from stage1_tokenizer.quantizers.straight_through import ESTIMATORS
from twostage.config import Count, Fraction, NonNegative, Positive
from twostage.training.distributed import sum_over_processes


class EMA(Quantizer):
    """Running means for a codebook. A batch is looked up before it moves the codes.

    The codes start as in the authors' implementation, at U(-a, a) with a = sqrt(3 / d), of expected squared length 1.
    There the running averages start at nothing, which puts every code that wins nothing in the first step on the
    origin; here a code, or the centroid of a warm start, counts as the first feature that was won: N_k = 1, m_k = c_k.
    A code that wins nothing thus stays where it is until N_k comes near eps, after about 1,000 steps at the defaults,
    and then shrinks towards the origin, as the formula has it, until it wins a feature on its way.

    Args:
        codebook_size: K.
        dim: d.
        distance: what "nearest" means. The means are those of the features as they are, of any norm.
        straight_through: how the gradient gets past the code; `modified` would move the code by it, and is not offered.
        decay: gamma.
        epsilon: eps of the Laplace smoothing, in features.
        commitment_weight: beta.

    Attributes:
        running_counts: N_k, float32 [K].
        running_sums: m_k, float32 [K, d].
    """

    running_counts: Tensor
    running_sums: Tensor

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        distance: Distance = "l2",
        straight_through: Literal["plain", "rotation"] = "plain",
        decay: Fraction = 0.99,
        epsilon: Positive = 1e-5,
        commitment_weight: NonNegative = 0.25,
    ) -> None:
        super().__init__(codebook_size, dim)
        self.distance = distance
        self.estimator = ESTIMATORS[straight_through]
        self.decay, self.epsilon, self.commitment_weight = decay, epsilon, commitment_weight
        bound = (3 / dim) ** 0.5
        self.register_buffer("codebook", torch.empty(codebook_size, dim).uniform_(-bound, bound))
        self.register_buffer("running_counts", torch.ones(codebook_size))
        self.register_buffer("running_sums", self.codebook.clone())

    def quantize(self, features: Tensor) -> QuantizerOutput:
        codes = nearest(features, self.codebook, self.distance)
        counts = self.count(codes)
        vectors = F.embedding(codes, self.codebook)
        commitment = F.mse_loss(features, vectors)
        if self.training:
            self.follow(features, codes, counts)
        return QuantizerOutput(
            z_q=self.estimator(features, vectors, counts.sum()) if self.training else vectors,
            codes=codes,
            loss=self.commitment_weight * commitment,
            metrics={"commitment": commitment.detach(), **codebook_metrics(counts)},
        )

    @torch.no_grad()
    def follow(self, features: Tensor, codes: Tensor, counts: Tensor) -> None:
        """One step of the running means.

        Args:
            features: this process's, [n, d].
            codes: which code each of them went to, int64 [n].
            counts: how many went to each code, of all processes, int64 [K].
        """
        sums = torch.zeros_like(self.running_sums).index_add_(0, codes, features.to(self.running_sums))
        self.running_sums.lerp_(sum_over_processes(sums), 1 - self.decay)
        self.running_counts.lerp_(counts.to(self.running_counts), 1 - self.decay)
        total = self.running_counts.sum()
        smoothed = (self.running_counts + self.epsilon) * (total / (total + self.codebook_size * self.epsilon))
        torch.div(self.running_sums, smoothed[:, None], out=self.codebook)

    def initialize_codebook(self, centroids: Tensor) -> None:
        self.codebook.copy_(centroids)
        self.running_sums.copy_(centroids)
        self.running_counts.fill_(1)
