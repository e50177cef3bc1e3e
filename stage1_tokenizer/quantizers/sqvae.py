"""SQ-VAE: "SQ-VAE: Variational Bayes on Discrete Representation with Self-annealed Stochastic Quantization"
(Takida et al., ICML 2022); the Gaussian version (I), one variance s^2 for all features.

    q(k | z) = softmax_k(-||z - c_k||^2 / (2 s^2)),   z_q = y C,   y a Gumbel-softmax draw from q at temperature tau
    L = ||z - z_q||^2 / (2 s^2) - H(q)

s^2 is learned; it falls as reconstructions get better, and with it the randomness: the quantiser anneals itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics
from stage1_tokenizer.quantizers.nearest import nearest, similarity
from stage1_tokenizer.quantizers.noise import annealed, gumbel_softmax
from twostage.config import Count, NonNegative, Positive

SPACING_SAMPLE = 256
"""Codes that are asked how far the next one is."""


class SQVAE(Quantizer):
    """Codes drawn around the feature with a learned variance; in eval the nearest code.

    The paper's loss of an image is likelihood: D / 2 log(mse) + sum over features of L, with D values in the image.
    The gradient of D / 2 log(mse) is that of mse / (2 v) summed over them, with v the present mse. Ours is
    mse / variance, a mean: the paper's objective divided by D variance / (2 v). A feature stands for D / (h w) values,
    so L enters as a mean over features with

        weight = 2 (v / variance) (h w / D),

    where v / variance is the share of variance that the decoder leaves unexplained, D / (h w) = channels f^2. The
    weight here is fixed, which is the paper's objective with the decoder's variance v held at a constant.

    Args:
        codebook_size: K; the codes start at N(0, 1).
        dim: d.
        temperature_decay: the temperature is exp(-decay step), down to
        temperature_floor, which the published runs never reach.
        weight: of L, as above; the default is that of colour images at f = 4 with a twentieth of the variance left.
    """

    temperature: Tensor

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        temperature_decay: NonNegative = 1e-5,
        temperature_floor: Positive = 0.01,
        weight: Positive = 2e-3,
    ) -> None:
        super().__init__(codebook_size, dim)
        self.temperature_decay, self.temperature_floor, self.weight = temperature_decay, temperature_floor, weight
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.log_variance = nn.Parameter(fitting_variance(self.codebook.data).log())
        self.register_buffer("temperature", torch.ones(()))

    def quantize(self, features: Tensor) -> QuantizerOutput:
        variance = self.log_variance.exp()
        if self.training:
            codes, z_q, entropies = gumbel_softmax(features, self.logits, self.codebook, self.temperature)
            entropy = entropies.mean()
        else:
            codes = nearest(features, self.codebook, self.distance)
            z_q, entropy = F.embedding(codes, self.codebook), features.new_zeros(())
        distance = (features - z_q).square().sum(1).mean()
        return QuantizerOutput(
            z_q=z_q,
            codes=codes,
            loss=self.weight * (distance / (2 * variance) - entropy),
            metrics={
                "variance": variance.detach(),
                "entropy": entropy.detach(),
                "temperature": self.temperature.clone(),
                **codebook_metrics(self.count(codes)),
            },
        )

    def logits(self, features: Tensor) -> Tensor:
        """-||z - c||^2 / (2 s^2): [n, d] -> [n, K]."""
        return similarity(features, self.codebook, "l2") / (2 * self.log_variance.exp())

    def set_progress(self, step: int, epoch: int) -> None:
        self.temperature.fill_(annealed(step, self.temperature_decay, self.temperature_floor))

    def initialize_codebook(self, centroids: Tensor) -> None:
        self.codebook.data.copy_(centroids)
        self.log_variance.data.copy_(fitting_variance(centroids).log())


def fitting_variance(codes: Tensor) -> Tensor:
    """A quarter of the mean squared distance from a code to the nearest other one; 1 if there is no other.

    With it a feature that lies on a code takes each next one e^2 times less often.

    Args:
        codes: [K, d]; at most `SPACING_SAMPLE` of them are asked.
    """
    asked = codes[:SPACING_SAMPLE]
    if len(codes) == 1:
        return codes.new_ones(())
    others = similarity(asked, codes, "l2").fill_diagonal_(-torch.inf)
    return others.amax(1).neg().mean().clamp(min=1e-6) / 4
