"""Drawing codes one after another, with guidance, temperature, top-k and top-p; some of them may be known already."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stage2_transformer.decoding import MakeDecoder, decoder
from stage2_transformer.guidance import Guidance, combine
from stage2_transformer.prior import TransformerPrior
from twostage.errors import refuse


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a code is drawn from its logits.

    Attributes:
        temperature: above 0; logits are divided by it.
        top_k: only the k likeliest codes can be drawn, and those as likely as the last of them; 0 means all.
        top_p: of these only the fewest whose share of the probability reaches p ("nucleus"), and those as likely as the
            last of them; 1 means all.
        guidance: how logits with and without the class are combined.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: Guidance = field(default_factory=Guidance)

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise refuse("temperature", self.temperature, "a finite number above 0")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise refuse("top_k", self.top_k, "0 (all codes) or a positive integer")
        if not 0 < self.top_p <= 1:
            raise refuse("top_p", self.top_p, "a number above 0 and at most 1")

    def check(self, codebook_size: int) -> None:
        """Refuse what makes no sense with so many codes."""
        if self.top_k > codebook_size:
            raise refuse("top_k", self.top_k, f"0 (all codes) or an integer in 1..{codebook_size}, the number of codes")


@dataclass(frozen=True, kw_only=True)
class KnownCodes:
    """Codes of which a part is to be drawn.

    Attributes:
        codes: int64 [b, h, w] or [b, q, h, w].
        drawn: bool, the same shape, on the CPU: true where a code is to be drawn.
    """

    codes: Tensor
    drawn: Tensor


@torch.no_grad()
def sample_codes(
    prior: TransformerPrior,
    class_label: Tensor,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    *,
    known: KnownCodes | None = None,
    make_decoder: MakeDecoder = decoder,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Tensor:
    """Draw the codes of one image per class label.

    Rows without a class are computed only where guidance acts; where that begins within the sequence, they first catch
    up with the codes that there are by then, in one pass.

    Args:
        class_label: int64 [b] in 0..N, N meaning "no class".
        generators: one per image, on the CPU; each image's draws depend on its own alone.
        known: codes to keep. One that is drawn can only be fitted to the known ones before it.
        make_decoder: how the logits of the next code are computed.
        progress: wraps the iteration over the codes to draw, to show how far it is.

    Returns:
        int64 [b, h, w] or [b, q, h, w].

    Raises:
        TwoStageError: a sampling that makes no sense with so many codes.
    """
    sampling.check(prior.config["codebook_size"])
    b, n, device = len(class_label), prior.length, class_label.device
    uniforms = torch.stack([torch.rand(n, generator=g, dtype=torch.float64) for g in generators]).to(device)
    sequence, drawn = class_label.new_zeros(b, n), torch.ones(b, n, dtype=torch.bool)
    if known is not None:
        sequence, drawn = prior.sequence(known.codes).clone(), prior.sequence(known.drawn)
    asked = drawn.any(0).nonzero().flatten().tolist()
    scales, drawn = [sampling.guidance.at(i, n) for i in range(n)], drawn.to(device)
    rows = 2 * b if any(scales[i] != 1 for i in asked) else b
    conditions = torch.cat([class_label, torch.full_like(class_label, prior.null_class)])
    tokens = torch.cat([prior.class_tokens(conditions), prior.code_tokens(sequence).repeat(2, 1)], dim=1)
    decode = make_decoder(prior, rows)
    for i in progress(asked):
        guided = scales[i] != 1
        logits = decode(tokens[: 2 * b if guided else b, : i + 1])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        code = draw(combine(logits, scales[i]) if guided else logits, uniforms[:, i], sampling)
        sequence[:, i] = torch.where(drawn[:, i], code, sequence[:, i])
        tokens[:, i + 1] = prior.code_tokens(sequence[:, i : i + 1], first=i).squeeze(1).repeat(2)
    return prior.codes(sequence)


def draw(logits: Tensor, u: Tensor, sampling: Sampling) -> Tensor:
    """Invert the distribution of the codes that can be drawn, in the order of their ids, at u.

    Args:
        logits: float32 or float64 [b, K].
        u: uniform in [0, 1), float64 [b].

    Returns:
        int64 [b] in 0..K-1.
    """
    p = (logits / sampling.temperature).softmax(-1).double()
    if sampling.top_k or sampling.top_p < 1:
        p = p.masked_fill(p < _least(p, sampling), 0)
    mass = p.cumsum(-1)
    return torch.searchsorted(mass, u[:, None] * mass[:, -1:], right=True).squeeze(1)  # u m < m, in float64 too


def _least(p: Tensor, sampling: Sampling) -> Tensor:
    """The probability of the least likely code that can be drawn, [b, 1]."""
    likeliest = p.topk(sampling.top_k or p.shape[-1]).values
    if sampling.top_p == 1:
        return likeliest[:, -1:]
    mass = likeliest.cumsum(-1)
    kept = (mass - likeliest < sampling.top_p * mass[:, -1:]).sum(-1, keepdim=True)
    return likeliest.gather(-1, kept - 1)
