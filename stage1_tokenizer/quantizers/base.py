"""What every quantiser is: features in, codes and their vectors out, and a codebook that the decoder sees."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stage1_tokenizer.quantizers.nearest import Distance
from twostage.metrics.codebook import perplexity, usage


@dataclass(frozen=True, kw_only=True)
class QuantizerOutput:
    """What one quantisation gives.

    Attributes:
        z_q: [b, d, h, w], the dtype of z. In training the gradient passes straight through to z; in eval these are
            the looked-up vectors themselves.
        codes: int64 [b, h, w] in 0..K-1.
        loss: scalar, this quantiser's own weighted terms.
        metrics: detached scalars for the log.
    """

    z_q: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


class Quantizer(nn.Module):
    """Base of all quantisers.

    A subclass sets `codebook` (parameter or property, [K, d]) and `distance` (its idea of "nearest"), and implements
    `quantize` and `initialize_codebook`. Distances and losses are computed in float32 (float64 for float64 input),
    whatever the autocast; z_q comes back in z's dtype.

    Args:
        codebook_size: K.
        dim: d, the width of a feature and of a code.
    """

    codebook: Tensor
    distance: Distance

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.codebook_size, self.dim = codebook_size, dim

    def quantize(self, features: Tensor) -> QuantizerOutput:
        """Quantise features in rows, [n, d]; in training mode, also update the codebook's running state.

        Returns:
            z_q [n, d], codes [n], loss and metrics.
        """
        raise NotImplementedError

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantise an encoder's output z, [b, d, h, w].

        Raises:
            ValueError: z does not have `dim` channels.
        """
        if z.ndim != 4 or z.shape[1] != self.dim:
            raise ValueError(f"z: shape {tuple(z.shape)} is not allowed; allowed: [b, {self.dim}, h, w]")
        b, _, h, w = z.shape
        with torch.autocast(z.device.type, enabled=False):
            flat = self.quantize(rearrange(full_precision(z), "b d h w -> (b h w) d"))
        return replace(
            flat,
            z_q=rearrange(flat.z_q, "(b h w) d -> b d h w", b=b, h=h, w=w).to(z.dtype),
            codes=rearrange(flat.codes, "(b h w) -> b h w", b=b, h=h, w=w),
        )

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors of codes: int [b, h, w] in 0..K-1 -> [b, d, h, w] in the codebook's dtype."""
        return rearrange(F.embedding(codes, self.codebook), "b h w d -> b d h w")

    def initialize_codebook(self, centroids: Tensor) -> None:
        """Start from k-means: afterwards `codebook` equals `centroids`, [K, d], and running statistics are zero."""
        raise NotImplementedError

    def set_progress(self, step: int, epoch: int) -> None:
        """Told before every training step; quantisers with a schedule act on it."""


def full_precision(z: Tensor) -> Tensor:
    """float64 stays; every other dtype becomes float32."""
    return z if z.dtype == torch.float64 else z.float()


def codebook_metrics(codes: Tensor, codebook_size: int) -> dict[str, Tensor]:
    """Usage and perplexity of this batch's codes; both scalars."""
    counts = torch.bincount(codes.detach(), minlength=codebook_size)
    return {"usage": usage(counts), "perplexity": perplexity(counts)}


def uniform_codebook(codebook_size: int, dim: int) -> Tensor:
    """The customary start: [K, d] drawn from U(-1/K, 1/K)."""
    return torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size)
