"""LFQ: "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation" (MAGVIT-v2, Yu et al., 2023), Sec. 3.1.

    c_i = sign(z_i),   K = 2^m,   L = E[H(p(c | z))] - H(E[p(c | z)])                                  (Eq. 3-5)

p(c | z) is proportional to exp(2 z.c / t). Over the corners of a cube it is a product over the m signs, so that its
entropy is a sum of m terms; only the entropy of the mean needs whole codes.
"""

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics
from twostage.config import Count, NonNegative, Positive
from twostage.errors import refuse
from twostage.training.distributed import sum_over_processes

GROUP = 9
"""Signs whose joint distribution is held at a time: with more, the entropy of the mean is summed over groups of signs,
an upper bound on that of whole codes."""


class LFQ(Quantizer):
    """The corners of a cube as codes: nothing to look up, no codebook to learn. From outside the k-means family.

    Args:
        codebook_size: K = 2^m, m >= 1.
        dim: d; linear maps lie before and after the cube where d is not m.
        entropy_weight: of Eq. 5's two entropies, which sharpen each choice and spread them over all codes.
        temperature: t.
        commitment_weight: of ||z - sg(c)||^2.

    Raises:
        TwoStageError: K is no power of two.
    """

    learns_codebook = False
    corners: Tensor

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        entropy_weight: NonNegative = 0.1,
        temperature: Positive = 0.01,
        commitment_weight: NonNegative = 0.25,
    ) -> None:
        super().__init__(codebook_size, dim)
        signs = codebook_size.bit_length() - 1
        if signs < 1 or 2**signs != codebook_size:
            raise refuse("codebook_size", codebook_size, "a power of two, from 2")
        self.signs = signs
        self.entropy_weight, self.temperature, self.commitment_weight = entropy_weight, temperature, commitment_weight
        self.project_in = nn.Linear(dim, signs) if dim != signs else nn.Identity()
        self.project_out = nn.Linear(signs, dim) if dim != signs else nn.Identity()
        self.register_buffer("corners", corners(signs), persistent=False)

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """[K, d]: the corners, mapped to d channels."""
        return self.project_out(self.corners)

    def quantize(self, features: Tensor) -> QuantizerOutput:
        z = self.project_in(features)
        positive = z > 0
        codes = (positive << torch.arange(self.signs, device=z.device)).sum(1)
        signs = positive.to(z) * 2 - 1
        commitment = F.mse_loss(z, signs)
        own, mean = self.entropies(z)
        return QuantizerOutput(
            z_q=self.project_out(z + (signs - z).detach()) if self.training else self.lookup(codes),
            codes=codes,
            loss=self.commitment_weight * commitment + self.entropy_weight * (own - mean),
            metrics={
                "commitment": commitment.detach(),
                "entropy": own.detach(),
                "mean_entropy": mean.detach(),
                **codebook_metrics(self.count(codes)),
            },
        )

    def entropies(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """E[H(p(c | z))] and H(E[p(c | z)]) of z [n, m], in nats; the second over all processes in training."""
        logits = 4 * z / self.temperature
        plus, minus = F.logsigmoid(logits), F.logsigmoid(-logits)
        own = -(plus.exp() * plus + minus.exp() * minus).sum(1).mean()
        mean = z.new_zeros(())
        for up, down in zip(plus.split(GROUP, dim=1), minus.split(GROUP, dim=1)):
            high = (corners(up.shape[1]).to(z) + 1) / 2
            joint = (einsum(up, high, "n m, k m -> n k") + einsum(down, 1 - high, "n m, k m -> n k")).exp().mean(0)
            share = self.over_processes(joint, len(z))
            mean = mean - (share * share.clamp(min=torch.finfo(share.dtype).tiny).log()).sum()
        return own, mean

    def over_processes(self, mean: Tensor, n: int) -> Tensor:
        """The mean over the batches of all processes; the gradient is that of this process's own."""
        if not self.training:
            return mean
        total = sum_over_processes(torch.cat([mean.detach() * n, mean.new_tensor([n])]))
        return mean + (total[:-1] / total[-1] - mean).detach()


def corners(signs: int) -> Tensor:
    """[2^m, m] of -1 and 1: bit i of the row's number decides column i."""
    return (torch.arange(2**signs)[:, None] >> torch.arange(signs) & 1).float() * 2 - 1
