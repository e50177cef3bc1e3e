"""Gumbel: "Categorical Reparameterization with Gumbel-Softmax" (Jang et al., 2017), as image tokenizers use it.

The encoder names its code: logits l = W z + b of a 1x1 convolution, a code drawn from q = softmax(l), and its vector.

    y = onehot(argmax(l + g)) + s - sg(s),   s = softmax((l + g) / tau),   z_q = y C               (Sec. 2.2)
    L = weight KL(q || uniform)

Through y, z_q is the drawn code's vector and its gradient to l is that of the relaxed s C; C meets the value of y, so
its gradient goes to the drawn code alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics
from stage1_tokenizer.quantizers.noise import annealed, by_rows, entropy, gumbel_softmax
from twostage.config import Count, NonNegative, Positive


class Gumbel(Quantizer):
    """Codes drawn from what a projection of the features says; in eval the most likely code, without noise.

    The temperature is max(floor, exp(-decay step)), as the paper anneals it, from 1.

    Args:
        codebook_size: K; the codes start at N(0, 1).
        dim: d.
        temperature_decay: per training step.
        temperature_floor: the lowest temperature.
        kl_weight: of the KL divergence to the uniform prior, in nats per feature.
    """

    temperature: Tensor

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        temperature_decay: NonNegative = 1e-4,
        temperature_floor: Positive = 0.5,
        kl_weight: NonNegative = 5e-4,
    ) -> None:
        super().__init__(codebook_size, dim)
        self.temperature_decay, self.temperature_floor = temperature_decay, temperature_floor
        self.kl_weight = kl_weight
        self.projection = nn.Linear(dim, codebook_size)
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.register_buffer("temperature", torch.ones(()))

    def quantize(self, features: Tensor) -> QuantizerOutput:
        choose = self.draw if self.training else self.most_likely
        codes, z_q, entropies = choose(features)
        kl = math.log(self.codebook_size) - entropies.mean()
        return QuantizerOutput(
            z_q=z_q,
            codes=codes,
            loss=self.kl_weight * kl,
            metrics={
                "kl": kl.detach(),
                "temperature": self.temperature.clone(),
                **codebook_metrics(self.count(codes)),
            },
        )

    def draw(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A random code of every feature [n, d]: codes [n], z_q [n, d] and the entropies of q [n]."""
        codes, mixtures, entropies = gumbel_softmax(features, self.projection, self.codebook.detach(), self.temperature)
        return codes, F.embedding(codes, self.codebook) + (mixtures - mixtures.detach()), entropies

    def most_likely(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The most likely code of every feature [n, d]; returns as `draw`."""

        def choose(part: Tensor, start: int) -> tuple[Tensor, ...]:
            logits = self.projection(part)
            return logits.argmax(1), entropy(logits)

        codes, entropies = by_rows(choose, features, self.codebook_size)
        return codes, F.embedding(codes, self.codebook), entropies

    def set_progress(self, step: int, epoch: int) -> None:
        self.temperature.fill_(annealed(step, self.temperature_decay, self.temperature_floor))

    def initialize_codebook(self, centroids: Tensor) -> None:
        """The most likely code becomes the nearest: l = 2 c.z - ||c||^2, which is -||z - c||^2 up to ||z||^2."""
        self.codebook.data.copy_(centroids)
        self.projection.weight.data.copy_(2 * centroids)
        self.projection.bias.data.copy_(-centroids.square().sum(1))
