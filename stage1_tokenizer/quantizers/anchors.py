"""Anchors of "Online Clustered Codebook" (ICCV 2023), Sec. 3.2: the features that little-used codes move to.

Every rule takes codes, [n, d], the same on every process, and this process's features, [n_r, d], and chooses among the
features of all processes; only what is chosen travels. It returns the n anchors, [n, d], the same on every process:
those that a single process with the whole batch chooses at the same state of the first process's default generator.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.quantizers.nearest import Distance, nearest, paired_similarity, similarity_chunks
from twostage.training.distributed import (
    broadcast,
    rank,
    row_counts,
    rows_at,
    stack_over_processes,
    sum_over_processes,
    world_size,
)

Anchor = Literal["random", "unique", "closest", "probability"]
Rule = Callable[[Tensor, Tensor, Distance], Tensor]


def random(codes: Tensor, features: Tensor, distance: Distance) -> Tensor:
    """Drawn with replacement."""
    total = sum(row_counts(features))
    return rows_at(features, broadcast(torch.randint(total, (len(codes),), device=features.device)))


def unique(codes: Tensor, features: Tensor, distance: Distance) -> Tensor:
    """Each feature once, as long as there are as many as codes."""
    n, total = len(codes), sum(row_counts(features))
    rounds = [torch.randperm(total, device=features.device) for _ in range(math.ceil(n / total))]
    return rows_at(features, broadcast(torch.cat(rounds)[:n]))


def closest(codes: Tensor, features: Tensor, distance: Distance) -> Tensor:
    """The nearest to the code: the best of every process's nearest."""
    candidates = features[nearest(codes, features, distance)]
    near = stack_over_processes(paired_similarity(codes, candidates, distance))
    mine = near.argmax(0) == rank()
    return sum_over_processes(torch.where(mine[:, None], candidates, 0))


def probability(codes: Tensor, features: Tensor, distance: Distance) -> Tensor:
    """Drawn with p_i proportional to exp(-D_ik), D the squared l2 or the cosine distance.

    One uniform number per code is inverted over the processes' shares of the mass, and what is left of it over the
    features of the process where it fell.
    """
    rows = F.normalize(codes, dim=1) if distance == "cosine" else codes
    u = 1 - broadcast(torch.rand(len(codes), device=features.device, dtype=features.dtype))
    mine = torch.ones_like(u, dtype=torch.bool)
    if world_size() > 1:
        mass = torch.cat([near.logsumexp(1) for _, near in similarity_chunks(rows, features, distance)])
        process, u = invert(stack_over_processes(mass).T.contiguous(), u)
        mine = process == rank()
    u = u[mine]
    drawn = torch.empty_like(u, dtype=torch.int64)
    for where, near in similarity_chunks(rows[mine], features, distance):
        drawn[where] = invert(near, u[where])[0]
    anchors = torch.zeros_like(codes)
    anchors[mine] = features[drawn]
    return sum_over_processes(anchors)


def invert(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Where the distribution function of softmax(logits), a row each, reaches u.

    Args:
        logits: [n, m].
        u: [n], above 0 and at most 1.

    Returns:
        The indices, int64 [n] in 0..m-1, and how far into their own shares u lies, [n], above 0 and at most 1.
    """
    share = logits.softmax(1)
    reached = share.cumsum(1)
    u = u[:, None] * reached[:, -1:]  # the sum is 1 up to rounding only
    index = torch.searchsorted(reached, u).clamp_(max=logits.shape[1] - 1)
    share, reached = share.gather(1, index), reached.gather(1, index)
    return index.squeeze(1), (1 - (reached - u) / share).clamp(torch.finfo(u.dtype).tiny, 1).squeeze(1)


RULES: Mapping[Anchor, Rule] = {"random": random, "unique": unique, "closest": closest, "probability": probability}
