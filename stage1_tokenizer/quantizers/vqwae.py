"""VQ-WAE: "Vector Quantized Wasserstein Auto-Encoder" (Vuong et al., ICML 2023).

The features of a batch, 1/n each, are a distribution; so is the codebook with a learned weight p = softmax(theta) for
every code. The loss draws them together, on top of VQ's: the entropic optimal transport between them at the cost
C_ik = ||z_i - c_k||^2 / d, in its semi-dual form, and a divergence that keeps all codes in demand.

    W = max_g  sum_k p_k g_k - eps / n sum_i log sum_k p_k exp((g_k - C_ik) / eps)
    L = L_vq + lambda W + lambda_r KL(p || uniform)

The authors approximate g by a network; here Sinkhorn's iterations solve for it on every batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics, uniform_codebook, vq_terms
from stage1_tokenizer.quantizers.nearest import nearest, similarity
from stage1_tokenizer.quantizers.straight_through import ESTIMATORS, StraightThrough
from twostage.config import Count, NonNegative, Positive
from twostage.training.distributed import broadcast, gather_rows, rank, row_counts, world_size

TRANSPORT_WORK = 2**19
"""Code-feature pairs up to which the transport sees every feature; above, a random sample of them (256 at least)."""


class VQWAE(Quantizer):
    """VQ whose codebook is also pulled, as a whole, to where the features are.

    Transport is between the codebook and the features of all processes, in training only.

    Args:
        codebook_size: K; the codes start at U(-1/K, 1/K).
        dim: d.
        straight_through: how the gradient gets past the code.
        commitment_weight: beta of VQ's commitment loss.
        transport_weight: lambda. The authors' 1e-3, of a cost summed over 64 dimensions and over 64 positions of an
            image, is 4 at the mean cost of this file.
        uniformity_weight: lambda_r, of the divergence in nats.
        regularization: eps as a share of the mean cost in the batch, so that it does not depend on the scale of z.
        iterations: of Sinkhorn's algorithm. With the defaults, codes end up with a few hundredths of the mass off
            their weights at most.
    """

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        straight_through: StraightThrough = "plain",
        commitment_weight: NonNegative = 0.25,
        transport_weight: NonNegative = 1.0,
        uniformity_weight: NonNegative = 1.0,
        regularization: Positive = 0.05,
        iterations: Count = 10,
    ) -> None:
        super().__init__(codebook_size, dim)
        self.estimator = ESTIMATORS[straight_through]
        self.commitment_weight = commitment_weight
        self.transport_weight, self.uniformity_weight = transport_weight, uniformity_weight
        self.regularization, self.iterations = regularization, iterations
        self.codebook = nn.Parameter(uniform_codebook(codebook_size, dim))
        self.weight_logits = nn.Parameter(torch.zeros(codebook_size))

    def quantize(self, features: Tensor) -> QuantizerOutput:
        codes = nearest(features, self.codebook, self.distance)
        counts = self.count(codes)
        vectors = F.embedding(codes, self.codebook)
        commitment, codebook = vq_terms(features, vectors)
        loss = self.commitment_weight * commitment + codebook
        metrics = {"commitment": commitment.detach(), **codebook_metrics(counts)}
        if self.training:
            log_weights = self.weight_logits.log_softmax(0)
            cost = similarity(sample(all_rows(features), self.codebook_size), self.codebook, "l2") / -self.dim
            distance = transport(cost, log_weights, self.regularization, self.iterations)
            divergence = (log_weights.exp() * log_weights).sum() + math.log(self.codebook_size)
            loss = loss + self.transport_weight * distance + self.uniformity_weight * divergence
            metrics |= {"transport": distance.detach(), "divergence": divergence.detach()}
        z_q = self.estimator(features, vectors, counts.sum()) if self.training else vectors
        return QuantizerOutput(z_q=z_q, codes=codes, loss=loss, metrics=metrics)

    def initialize_codebook(self, centroids: Tensor) -> None:
        self.codebook.data.copy_(centroids)
        self.weight_logits.data.zero_()


def all_rows(features: Tensor) -> Tensor:
    """The features of all processes, [n_r, d] -> [M, d], with a gradient to this process's own.

    Every process computes the same loss of all rows, and then the gradients are averaged over processes: a row that
    has its gradient on one process only needs it as many times as there are processes.
    """
    first = sum(row_counts(features)[: rank()])
    own = features.detach() + world_size() * (features - features.detach())
    everyone = gather_rows(features.detach())
    return torch.cat([everyone[:first], own, everyone[first + len(own) :]])


def sample(features: Tensor, codebook_size: int) -> Tensor:
    """As many of the features, [M, d] -> [m, d], as `TRANSPORT_WORK` allows; the same on every process."""
    total, size = len(features), max(TRANSPORT_WORK // codebook_size, 256)
    if total <= size:
        return features
    return features[broadcast(torch.randperm(total, device=features.device)[:size])]


def transport(cost: Tensor, log_weights: Tensor, regularization: float, iterations: int) -> Tensor:
    """W of the module's formula, a scalar; its gradient takes the potentials as constants, as at the maximum.

    Args:
        cost: C, [n, K].
        log_weights: log p, [K].
        regularization: eps as a share of the mean of C.
        iterations: of Sinkhorn's algorithm.
    """
    epsilon = regularization * cost.detach().mean().clamp(min=torch.finfo(cost.dtype).tiny)
    potentials = sinkhorn(cost.detach() / epsilon, log_weights.detach(), iterations)
    free = (log_weights + potentials - cost / epsilon).logsumexp(1).mean()
    return epsilon * ((log_weights.exp() * potentials).sum() - free)


def sinkhorn(cost: Tensor, log_weights: Tensor, iterations: int) -> Tensor:
    """The codes' potentials g / eps, [K], after some iterations from 0, in the log domain.

    Each iteration makes the mass of the features right, then that of the codes.

    Args:
        cost: C / eps, [n, K].
        log_weights: log p, [K].
    """
    potentials = torch.zeros_like(log_weights)
    for _ in range(iterations):
        features = -(log_weights + potentials - cost).logsumexp(1, keepdim=True)
        potentials = math.log(len(cost)) - (features - cost).logsumexp(0)
    return potentials
