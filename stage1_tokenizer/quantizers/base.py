"""What every quantiser is: features in, codes and their vectors out, and a codebook that the decoder sees."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from stage1_tokenizer.quantizers.kmeans import kmeans
from stage1_tokenizer.quantizers.nearest import Distance
from twostage.metrics.codebook import perplexity, usage
from twostage.training.distributed import broadcast, sum_over_processes


@dataclass(frozen=True, kw_only=True)
class QuantizerOutput:
    """What one quantisation gives.

    Attributes:
        z_q: [b, d, h, w], the dtype of z. In training the gradient passes straight through to z; in eval these are
            the looked-up vectors themselves.
        codes: int64 [b, h, w] in 0..K-1; [b, q, h, w] of a quantiser with several code maps.
        loss: scalar, this quantiser's own weighted terms.
        metrics: detached scalars for the log.
    """

    z_q: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


class Quantizer(nn.Module):
    """Base of all quantisers.

    A subclass sets `codebook` (parameter, buffer or property, [K, d]) and `distance` (its idea of "nearest"), and
    implements `quantize` and `initialize_codebook`. Distances and losses are computed in float32 (float64 for float64
    input), whatever the autocast; z_q comes back in z's dtype. In training mode, counts and totals are those of all
    processes; in eval nothing is asked of other processes.

    Args:
        codebook_size: K.
        dim: d, the width of a feature and of what the decoder gets.

    Attributes:
        maps: q, how many codes stand for one feature.
        entries: how many vectors there are to choose from over all code maps; K, unless maps have codebooks of
            their own.
        unmoved: of a quantiser that moves codes past the optimiser and wants it to forget them, which codes it has not
            moved since the last descent, bool [K]; else None.
        learns_codebook: false where the vectors are fixed by a rule, so that a warm start has nothing to set.
    """

    codebook: Tensor
    distance: Distance = "l2"
    learns_codebook = True
    unmoved: Tensor | None = None

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.codebook_size, self.dim = codebook_size, dim
        self.maps, self.entries = 1, codebook_size

    def quantize(self, features: Tensor) -> QuantizerOutput:
        """Quantise features in rows, [n, d]; in training mode, also update the codebook's running state.

        Returns:
            z_q [n, d], codes [n] (or [n, q]), loss and metrics.
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
        pattern = "(b h w) -> b h w" if self.maps == 1 else "(b h w) q -> b q h w"
        return replace(
            flat,
            z_q=rearrange(flat.z_q, "(b h w) d -> b d h w", b=b, h=h, w=w).to(z.dtype),
            codes=rearrange(flat.codes, pattern, b=b, h=h, w=w),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors of codes in rows: int64 [n] (or [n, q]) -> [n, d] in the codebook's dtype."""
        return F.embedding(codes, self.codebook)

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors of codes: int64 [b, h, w] (or [b, q, h, w]) in 0..K-1 -> [b, d, h, w] in the codebook's dtype."""
        b, h, w = codes.shape[0], *codes.shape[-2:]
        pattern = "b h w -> (b h w)" if self.maps == 1 else "b q h w -> (b h w) q"
        return rearrange(self.lookup(rearrange(codes, pattern)), "(b h w) d -> b d h w", b=b, h=h, w=w)

    def count(self, codes: Tensor) -> Tensor:
        """How often each entry occurs in codes: int64 [n], [n, q], [b, h, w] or [b, q, h, w] -> int64 [entries]."""
        counts = torch.bincount(codes.flatten(), minlength=self.entries)
        return sum_over_processes(counts) if self.training else counts

    def start_codebook(self, features: Tensor, generator: torch.Generator) -> None:
        """The warm start: make the k-means centroids of features [n, d] the codebook, the same on every process."""
        centroids = kmeans(features, self.codebook_size, distance=self.distance, generator=generator)
        self.initialize_codebook(broadcast(centroids))

    def initialize_codebook(self, centroids: Tensor) -> None:
        """Start from k-means: afterwards `codebook` equals `centroids`, [K, d], and running statistics are new."""
        raise NotImplementedError

    def set_progress(self, step: int, epoch: int) -> None:
        """Told before every training step; quantisers with a schedule act on it."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """`.to(bfloat16)` of a whole tokenizer leaves its codes in float32: half their digits would be other codes."""

        def apply(x: Tensor) -> Tensor:
            moved = fn(x)
            return x.to(moved.device) if moved.dtype in (torch.bfloat16, torch.float16) else moved

        return super()._apply(apply, recurse)


def full_precision(z: Tensor) -> Tensor:
    """float64 stays; every other dtype becomes float32."""
    return z if z.dtype == torch.float64 else z.float()


def vq_terms(features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """||z - sg(c)||^2 and ||sg(z) - c||^2, means over features and dimensions: the commitment, then the codebook term.

    The first moves the encoder, the second the codes; "Neural Discrete Representation Learning" (2017), Eq. 3.

    Args:
        features, vectors: [n, d].
    """
    return _Terms.apply(features, vectors)


class _Terms(torch.autograd.Function):
    """One difference serves the value of both terms, which is the same, and both gradients."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        difference = features - vectors
        ctx.save_for_backward(difference)
        value = torch.linalg.vector_norm(difference).square() / difference.numel()
        return value, value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, commitment: Tensor, codebook: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (difference,) = ctx.saved_tensors
        scale, (to_features, to_vectors) = 2 / difference.numel(), ctx.needs_input_grad
        return (
            difference * (scale * commitment) if to_features else None,
            difference * (-scale * codebook) if to_vectors else None,
        )


@torch.no_grad()
def forget_moved(quantizer: Quantizer, optimizer: Optimizer) -> None:
    """Set to zero what an optimiser remembers of the gradients of codes, but for those `unmoved`."""
    for part in quantizer.modules():
        if isinstance(part, Quantizer) and part.unmoved is not None:
            for moment in optimizer.state.get(part.codebook, {}).values():
                if moment.shape == part.codebook.shape:
                    moment.mul_(part.unmoved[:, None])
            part.unmoved = None


def codebook_metrics(counts: Tensor) -> dict[str, Tensor]:
    """Usage and perplexity of counts [K]; both scalars."""
    return {"usage": usage(counts), "perplexity": perplexity(counts)}


def uniform_codebook(codebook_size: int, dim: int) -> Tensor:
    """The customary start: [K, d] drawn from U(-1/K, 1/K)."""
    return torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size)
