"""NS-VQ: "Beyond Stationarity: Rethinking Codebook Collapse in Vector Quantization" (Lu et al., 2026).

The encoder drifts while it learns, and codes that win nothing stay behind. NS-VQ lets every code follow the features
around it, by a kernel of their distance that narrows from epoch to epoch. With k(i) the code nearest to z_i:

    L_emb = 1/(M d) sum_i sum_k W_ik ||sg(z_i) - c_k||^2                                           (Eq. 16, 17)
    W_i,k(i) = 1,   W_ik = exp(-||z_i - c_k||^2 / tau) elsewhere,   tau = 2 sigma^2                (Eq. 13-15)

and the modified straight-through estimator, Eq. 18. The loss is a mean over features and dimensions.

Two options are those of the same authors' "NSVQ: Mitigating Codebook Collapse by Stabilizing Encoder Drift in Vector
Quantization" (2026): codes that win nothing for long restart at recent features, and the encoder is frozen for the
last part of the training.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics, uniform_codebook, vq_terms
from stage1_tokenizer.quantizers.nearest import argmax, nearest, similarity_chunks
from stage1_tokenizer.quantizers.straight_through import ESTIMATORS, StraightThrough
from twostage.config import Count, NonNegative, NonNegativeInt, Positive
from twostage.training.distributed import broadcast, rows_at

Kernel = Literal["rbf", "softmax"]
Propagation = Literal["loss", "straight_through"]

NARROWEST = 1e-8
"""tau decays no further."""

GAIN = 0.01
"""Of the softmax kernel, for every code of the codebook."""


def rbf(distances: Tensor, tau: Tensor) -> Tensor:
    """exp(-D / tau), Eq. 13, of squared distances [n, K], which are overwritten; at least e^-80."""
    return distances.div_(-tau).clamp_(-80, 0).exp_()  # where exp underflows it takes ten times as long


def softmax(distances: Tensor, tau: Tensor) -> Tensor:
    """min(1, 0.01 K softmax(-D / tau)) of squared distances [n, K], which are overwritten; Eq. A15.

    However many codes are near, the weights of one feature add up to no more than 0.01 K.
    """
    return distances.div_(-tau).softmax(1).mul_(GAIN * distances.shape[1]).clamp_(max=1)


KERNELS: Mapping[Kernel, Callable[[Tensor, Tensor], Tensor]] = {"rbf": rbf, "softmax": softmax}


class Neighborhood:
    """The weights W_ik of the codes that features did not select; 0 for the one that each did.

    They are computed by chunks of features whenever they are needed, and never kept.

    Args:
        features: z, [n, d].
        codebook: c, [K, d].
        kernel: squared distances and tau -> weights.
        tau: scalar.
    """

    def __init__(self, features: Tensor, codebook: Tensor, kernel: Kernel, tau: Tensor) -> None:
        self.features, self.codebook = features.detach(), codebook.detach()
        self.kernel, self.tau = KERNELS[kernel], tau

    @torch.no_grad()
    def gather(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The code that each feature selects, and for every code the weighted sum W^T v of the features' values.

        Args:
            values: v, [n, m].

        Returns:
            int64 [n], as `nearest` gives it, and [K, m].
        """
        z, sums = self.features, values.new_zeros(values.shape[1], len(self.codebook))
        codes = torch.empty(len(z), dtype=torch.int64, device=z.device)
        for where, near in similarity_chunks(z, self.codebook, "l2"):
            codes[where] = argmax(near)
            distances = near.neg_().add_(z[where].square().sum(1, keepdim=True))
            weights = self.kernel(distances, self.tau).scatter_(1, codes[where, None], 0)
            sums.addmm_(values[where].T, weights)
        return codes, sums.T

    def embedding_loss(self, codebook: Tensor) -> tuple[Tensor, Tensor]:
        """The selected codes, int64 [n], and the part of L_emb that they are not in, a scalar.

        It is differentiable in the codebook, [K, d]. As W is detached, the weighted sums of 1, z and ||z||^2 for each
        code are all that value and gradient need.
        """
        z, c = self.features, self.codebook
        codes, sums = self.gather(torch.cat([z, torch.ones_like(z[:, :1]), z.square().sum(1, keepdim=True)], dim=1))
        first, mass, second = sums[:, :-2], sums[:, -2:-1], sums[:, -1:]
        value = (mass * c.square() - 2 * c * first).sum() + second.sum()
        slope = (codebook * (2 * (mass * c - first))).sum()
        return codes, (value + slope - slope.detach()) / z.numel()


class Injection(torch.autograd.Function):
    """z_q itself; its gradient also goes, by their weights, to the codes that were not selected (Eq. A14)."""

    @staticmethod
    def forward(ctx: Any, z_q: Tensor, codebook: Tensor, neighborhood: Neighborhood) -> Tensor:
        ctx.neighborhood = neighborhood
        return z_q.view_as(z_q)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], ctx.neighborhood.gather(gradients[0])[1], None


class Replacement(nn.Module):
    """Codes that win nothing for `patience` steps restart at features drawn from a reservoir of recent ones.

    The reservoir holds K features, the same on every process: a random sample of about the last `patience` batches,
    or of more where those have fewer than K.

    Args:
        codebook_size: K.
        dim: d.
        patience: in steps.
    """

    idle_since: Tensor
    reservoir: Tensor
    seen: Tensor

    def __init__(self, codebook_size: int, dim: int, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("idle_since", torch.zeros(codebook_size, dtype=torch.int64))
        self.register_buffer("reservoir", torch.zeros(codebook_size, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def replace(self, codebook: Tensor, step: Tensor) -> None:
        """Move the idle codes of codebook [K, d], in place, to features of their own, as far as there are enough."""
        idle = torch.nonzero(step - self.idle_since >= self.patience).squeeze(1)
        known = min(int(self.seen), len(self.reservoir))
        idle = idle[:known]
        if len(idle):
            drawn = broadcast(torch.randperm(known, device=idle.device)[: len(idle)])
            codebook[idle] = self.reservoir[drawn].to(codebook)
            self.idle_since[idle] = step

    @torch.no_grad()
    def observe(self, features: Tensor, counts: Tensor, step: Tensor) -> None:
        """Take note of a batch: this process's features [n, d], and every code's wins on all processes, [K]."""
        self.idle_since[counts > 0] = step + 1
        size = len(self.reservoir)
        share = -(-size // self.patience)
        drawn = broadcast(torch.randperm(int(counts.sum()), device=features.device)[:share])
        places = (self.seen + torch.arange(len(drawn), device=features.device)) % size
        self.reservoir[places] = rows_at(features, drawn).to(self.reservoir)
        self.seen += len(drawn)

    def restart(self, step: Tensor) -> None:
        """An empty reservoir, and no code idle yet."""
        self.idle_since.fill_(step)
        self.seen.zero_()


class NSVQ(Quantizer):
    """Non-stationary vector quantisation; the defaults are the paper's.

    The kernel acts in training only: in eval the loss is VQ's. The paper starts from k-means: that is the warm start
    of a run.

    Neither kernel knows the scale of the features: on Gaussian ones of variance 0.2, with K = 1024, Adam at 1e-3 and
    L_emb alone, k-means codes at tau = 1 lost half of their spread and about a third of their usage in 400 steps at
    d = 3 under both, while at d = 64 `rbf` did what VQ does and `softmax` shrank them to a third; from U(-1/K, 1/K),
    with tau decaying, `softmax` brought 78 to 100 % of the codes into use and `rbf` 2 to 26 %.

    Args:
        codebook_size: K; the codes start at U(-1/K, 1/K).
        dim: d.
        kernel: `rbf` is the paper's; `softmax` (the published code's) is normalised over the codes.
        temperature: tau in the first epoch, in units of squared distance.
        temperature_decay: what tau is multiplied by after every epoch; 1 keeps it.
        propagation: how the codes that were not selected move: `loss`, by L_emb above; `straight_through`, by the
            gradient at the decoder's input (Eq. A14), L_emb being VQ's.
        straight_through: how the gradient gets past the code.
        commitment_weight: beta of the commitment loss.
        replacement: codes that win nothing for so many steps restart at recent features; null leaves them.
        freeze_encoder_at: the step from which the encoder gets no gradient any more, neither through z_q nor by the
            commitment. As it no longer drifts, L_emb is VQ's from then on, and the estimator moves no code.
    """

    PRESETS: ClassVar = {"official": {"kernel": "softmax", "temperature_decay": 0.5}}

    step: Tensor
    epoch: Tensor

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        kernel: Kernel = "rbf",
        temperature: Positive = 1.0,
        temperature_decay: Positive = 0.9,
        propagation: Propagation = "loss",
        straight_through: StraightThrough = "modified",
        commitment_weight: NonNegative = 0.25,
        replacement: Count | None = None,
        freeze_encoder_at: NonNegativeInt | None = None,
    ) -> None:
        super().__init__(codebook_size, dim)
        self.kernel: Kernel = kernel
        self.temperature, self.temperature_decay = temperature, temperature_decay
        self.propagation = propagation
        self.estimator = ESTIMATORS[straight_through]
        self.commitment_weight = commitment_weight
        self.replacement = Replacement(codebook_size, dim, replacement) if replacement is not None else None
        self.freeze_encoder_at = freeze_encoder_at
        self.codebook = nn.Parameter(uniform_codebook(codebook_size, dim))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def set_progress(self, step: int, epoch: int) -> None:
        self.step.fill_(step)
        self.epoch.fill_(epoch)

    @property
    def tau(self) -> Tensor:
        """The kernel's width in this epoch, a float64 scalar."""
        return (self.temperature * self.temperature_decay ** self.epoch.double()).clamp(min=NARROWEST)

    @property
    def frozen(self) -> bool:
        """Whether the encoder has stopped learning."""
        return self.training and self.freeze_encoder_at is not None and int(self.step) >= self.freeze_encoder_at

    @property
    def drifting(self) -> bool:
        """Whether there is a movement of the encoder for the codes to follow."""
        return self.training and not self.frozen

    def quantize(self, features: Tensor) -> QuantizerOutput:
        if self.training and self.replacement is not None:
            self.replacement.replace(self.codebook, self.step)
        if self.frozen:
            features = features.detach()
        codes, neighbors = self.search(features)
        counts = self.count(codes)
        if self.training and self.replacement is not None:
            self.replacement.observe(features, counts, self.step)
        vectors = F.embedding(codes, self.codebook)
        commitment, embedding = vq_terms(features, vectors)
        return QuantizerOutput(
            z_q=self.estimate(features, vectors, counts.sum()),
            codes=codes,
            loss=self.commitment_weight * commitment + embedding + neighbors,
            metrics={"commitment": commitment.detach(), "temperature": self.tau, **codebook_metrics(counts)},
        )

    def search(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest codes, int64 [n], and what the others add to L_emb, a scalar."""
        if self.drifting and self.propagation == "loss":
            return self.neighborhood(features).embedding_loss(self.codebook)
        return nearest(features, self.codebook, self.distance), features.new_zeros(())

    def estimate(self, features: Tensor, vectors: Tensor, total: Tensor) -> Tensor:
        """z_q [n, d] of features and their codes' vectors, both [n, d]; total is M."""
        if not self.drifting:
            return vectors.detach()
        z_q = self.estimator(features, vectors, total)
        if self.propagation == "straight_through":
            return Injection.apply(z_q, self.codebook, self.neighborhood(features))
        return z_q

    def neighborhood(self, features: Tensor) -> Neighborhood:
        return Neighborhood(features, self.codebook, self.kernel, self.tau.to(features))

    def initialize_codebook(self, centroids: Tensor) -> None:
        """The codes become the centroids; tau goes on by the epoch."""
        self.codebook.data.copy_(centroids)
        if self.replacement is not None:
            self.replacement.restart(self.step)
