"""Drawing codes one after another, with a key-value cache, guidance, temperature, top-k and top-p."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from stage2_transformer.prior import TransformerPrior
from twostage.errors import refuse


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a code is drawn from its logits.

    Attributes:
        temperature: above 0; logits are divided by it.
        top_k: only the k likeliest codes can be drawn; 0 means all.
        top_p: only the fewest codes whose probabilities reach p can be drawn ("nucleus"); 1 means all.
        guidance_scale: s of unconditional + s (conditional - unconditional), on logits; 1 means no guidance.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise refuse("temperature", self.temperature, "a number above 0")
        if self.top_k < 0:
            raise refuse("top_k", self.top_k, "0 (all codes) or a positive integer")
        if not 0 < self.top_p <= 1:
            raise refuse("top_p", self.top_p, "a number above 0 and at most 1")


@torch.no_grad()
def sample_codes(
    prior: TransformerPrior,
    class_label: Tensor,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    progress: Callable[[list[Tensor]], Iterable[Tensor]] = iter,
) -> Tensor:
    """Draw the codes of one image per class label.

    Args:
        class_label: int64 [b] in 0..N, N meaning "no class".
        generators: one per image, on the CPU; each image's draws depend on its own alone.
        progress: wraps the iteration over codes, to show how far it is.

    Returns:
        int64 [b, h, w] or [b, q, h, w].
    """
    guided = sampling.guidance_scale != 1.0
    condition = torch.cat([class_label, torch.full_like(class_label, prior.null_class)]) if guided else class_label
    tokens, cache, codes = prior.class_tokens(condition), DynamicCache(), []
    uniforms = torch.stack([torch.rand(prior.length, generator=g, dtype=torch.float64) for g in generators])
    for u in progress(list(uniforms.to(class_label.device).T)):
        logits = prior(tokens, cache)[:, -1].double()
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + sampling.guidance_scale * (conditional - unconditional)
        code = draw(logits, u, sampling)
        codes.append(code)
        token = prior.code_tokens(code[:, None], first=len(codes) - 1)
        tokens = torch.cat([token, token]) if guided else token
    return prior.codes(torch.stack(codes, dim=1))


def draw(logits: Tensor, u: Tensor, sampling: Sampling) -> Tensor:
    """Invert the distribution of the kept codes, likeliest first, at u.

    Args:
        logits: [b, K].
        u: uniform in [0, 1), [b].

    Returns:
        int64 [b] in 0..K-1.
    """
    probabilities, order = (logits / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        probabilities[:, sampling.top_k :] = 0
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p * probabilities.sum(-1, keepdim=True), 0)
    mass = probabilities.cumsum(-1)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    rank = torch.searchsorted(mass, (u * mass[:, -1])[:, None], right=True).minimum(last)
    return order.gather(1, rank).squeeze(1)
