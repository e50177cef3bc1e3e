"""CVQ: "Online Clustered Codebook" (Zheng and Vedaldi, ICCV 2023).

Codes that win few features are moved towards anchors, features sampled from the batch. With n_k the features that
code k wins among the M of this batch:

    N_k  <- gamma N_k + (1 - gamma) n_k / M                                                        (Eq. 4)
    a_k   = exp(-N_k K 10 / (1 - gamma) - eps)                                                     (Eq. 5)
    c_k  <- (1 - a_k) c_k + a_k anchor_k                                                           (Eq. 6)

The loss is VQ's plus a contrastive term, in contrastive.py; the anchors are in anchors.py.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.anchors import RULES, Anchor
from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics, uniform_codebook, vq_terms
from stage1_tokenizer.quantizers.contrastive import contrastive_loss, search
from stage1_tokenizer.quantizers.nearest import Distance, nearest
from stage1_tokenizer.quantizers.straight_through import ESTIMATORS, StraightThrough
from twostage.config import Count, Fraction, NonNegative, Positive

EPSILON = 1e-3
"""eps of Eq. 5: even a code that was never used keeps a thousandth of itself."""

NEGLIGIBLE = 1e-12
"""A code whose a_k of Eq. 5 is below this would not change in float32; it is given no anchor."""


class CVQ(Quantizer):
    """The online clustered codebook. The defaults are the paper's main setting (Tab. 3, row E).

    Args:
        codebook_size: K; the codes start at U(-1/K, 1/K).
        dim: d.
        distance: decides the lookup, the anchors and the contrastive term; vectors and losses use raw features.
        anchor: how the feature is chosen that a little-used code moves to: `random` (drawn with replacement),
            `unique` (each feature once, as long as there are as many as codes), `closest` (the nearest to the code),
            `probability` (drawn with p_i proportional to exp(-D_ik), D the squared l2 or the cosine distance).
        update: `online` applies Eq. 6 at every training step, `offline` at the first only.
        contrastive_weight: 0 leaves the contrastive term out.
        temperature: of the contrastive term.
        decay: gamma of Eq. 4.
        moments: what becomes of the optimiser's moments of a code that Eq. 6 moves by more than eps: `kept`, as
            in the published code, or `reset` to zero. The latter helps from a cold start; see docs/cvq_moments.md.
        straight_through: how the gradient gets past the code.
        commitment_weight: beta of the commitment loss.
    """

    PRESETS: ClassVar = {"official": {"distance": "cosine", "anchor": "closest", "contrastive_weight": 0.0}}

    average_usage: Tensor
    updates: Tensor

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        distance: Distance = "cosine",
        anchor: Anchor = "probability",
        update: Literal["online", "offline"] = "online",
        contrastive_weight: NonNegative = 1.0,
        temperature: Positive = 0.07,
        decay: Fraction = 0.99,
        moments: Literal["kept", "reset"] = "kept",
        straight_through: StraightThrough = "plain",
        commitment_weight: NonNegative = 0.25,
    ) -> None:
        super().__init__(codebook_size, dim)
        self.distance = distance
        self.anchors = RULES[anchor]
        self.update = update
        self.contrastive_weight, self.temperature = contrastive_weight, temperature
        self.decay, self.moments, self.commitment_weight = decay, moments, commitment_weight
        self.estimator = ESTIMATORS[straight_through]
        self.codebook = nn.Parameter(uniform_codebook(codebook_size, dim))
        self.register_buffer("average_usage", torch.zeros(codebook_size))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def quantize(self, features: Tensor) -> QuantizerOutput:
        contrast = self.training and self.contrastive_weight > 0
        if contrast:
            codes, neighbours = search(features, self.codebook, self.distance)
        else:
            codes = nearest(features, self.codebook, self.distance)
        counts = self.count(codes)
        vectors = F.embedding(codes, self.codebook)
        commitment, codebook = vq_terms(features, vectors)
        loss = self.commitment_weight * commitment + codebook
        metrics = {"commitment": commitment.detach(), **codebook_metrics(counts)}
        if contrast:
            before = self.codebook.clone()  # what Eq. 6 will move, and the backward pass must see unmoved
            contrastive = contrastive_loss(before, features.detach(), neighbours, self.distance, self.temperature)
            loss = loss + self.contrastive_weight * contrastive
            metrics["contrastive"] = contrastive.detach()
        if self.training:
            self.cluster(features.detach(), counts)
        z_q = self.estimator(features, vectors, counts.sum()) if self.training else vectors
        return QuantizerOutput(z_q=z_q, codes=codes, loss=loss, metrics=metrics)

    @torch.no_grad()
    def cluster(self, features: Tensor, counts: Tensor) -> None:
        """Eq. 4-6 for one batch.

        Args:
            features: of this process, [n, d].
            counts: how many features each code won on all processes, [K].
        """
        share = counts.to(self.average_usage) / counts.sum()
        self.average_usage.mul_(self.decay).add_(share, alpha=1 - self.decay)
        if self.update == "online" or self.updates == 0:
            alpha = torch.exp(-self.average_usage * self.codebook_size * 10 / (1 - self.decay) - EPSILON)
            starved = torch.nonzero(alpha > NEGLIGIBLE).squeeze(1)
            if len(starved):
                codes, weight = self.codebook[starved], alpha[starved, None].to(self.codebook)
                self.codebook[starved] = (1 - weight) * codes + weight * self.anchors(codes, features, self.distance)
            if self.moments == "reset":
                stays = alpha <= EPSILON
                self.unmoved = stays if self.unmoved is None else stays & self.unmoved
        self.updates += 1

    def initialize_codebook(self, centroids: Tensor) -> None:
        self.codebook.data.copy_(centroids)
        self.average_usage.zero_()
        self.updates.zero_()
