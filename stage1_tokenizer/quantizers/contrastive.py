"""The contrastive term of "Online Clustered Codebook" (ICCV 2023), Sec. 3.2: codes near features, far from others.

With s_ki the similarity of code k and feature i, of the M features of all processes:

    L   = -1/K sum_k log( exp(p_k / T) / (exp(p_k / T) + sum_{i in F_k} exp(s_ki / T)) )
    p_k = the mean s_ki of the max(1, M // K) nearest features,   F_k = the M // 2 farthest

Its gradient goes to the codes only. The nearest features, which draw a code to its place, are exact: every process
sums its own among them. The farther ones the paper samples; here they are all gathered up to `EXACT_WORK` code-feature
pairs, and beyond are those of a random sample, their sum scaled to all.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.quantizers.nearest import Distance, Neighbours, nearest_both_ways, similarity
from twostage.training.distributed import (
    broadcast,
    gather_rows,
    rank,
    row_counts,
    rows_at,
    stack_over_processes,
    sum_over_processes,
)

EXACT_WORK = 2**17
"""Code-feature pairs up to which the farther half is exact; a sample has as many features as this allows."""

SMALLEST_SAMPLE = 128
"""Features of a sample at least, however many codes there are."""


def search(features: Tensor, codebook: Tensor, distance: Distance) -> tuple[Tensor, Neighbours]:
    """The codes of features and, found on the way, as many neighbours of every code as the term may need.

    Args:
        features: of this process, [n, d].
        codebook: [K, d].
    """
    count = positives(sum(row_counts(features)), len(codebook))
    return nearest_both_ways(features, codebook, min(count, len(features)), distance)


def contrastive_loss(
    codes: Tensor, features: Tensor, neighbours: Neighbours, distance: Distance, temperature: float
) -> Tensor:
    """The module's L, a scalar.

    Args:
        codes: [K, d], the same on every process.
        features: of this process, [n, d]; detached.
        neighbours: as `search` gives them.
        distance: decides s, as in `similarity`.
        temperature: T.
    """
    total = sum(row_counts(features))
    index, weight = nearest_of_all(neighbours, positives(total, len(codes)))
    positive = weighted_similarity(codes, features, index, weight, distance) / temperature
    some = sample(features, total, len(codes))
    near = similarity(codes, some, distance) / temperature
    farther = near.topk(len(some) // 2, dim=1, largest=False, sorted=False).values
    negative = farther.logsumexp(1) + math.log(total / len(some))
    return F.softplus(negative - positive).mean()


def positives(total: int, codebook_size: int) -> int:
    """How many features are a code's nearest: max(1, M // K)."""
    return max(1, total // codebook_size)


def sample(features: Tensor, total: int, codebook_size: int) -> Tensor:
    """Features of all processes, [m, d], the same everywhere: all `total` of them or as many as the work allows."""
    size = max(EXACT_WORK // codebook_size, SMALLEST_SAMPLE)
    if total <= size:
        return gather_rows(features)
    return rows_at(features, broadcast(torch.randperm(total, device=features.device)[:size]))


@torch.no_grad()
def nearest_of_all(neighbours: Neighbours, count: int) -> tuple[Tensor, Tensor]:
    """This process's neighbours of every code and their weights, both [K, its count].

    The weight is 1 / count where a feature is among the `count` nearest of all processes, else 0.
    """
    index, here = neighbours.index, neighbours.index.shape[1]
    near = F.pad(neighbours.near, (0, count - here), value=-torch.inf)
    best = stack_over_processes(near).movedim(0, 1).flatten(1).topk(count, dim=1, sorted=False).indices
    mine = (best // count == rank()).to(near) / count
    return index, torch.zeros_like(near).scatter_add_(1, best % count, mine)[:, :here]


def weighted_similarity(codes: Tensor, features: Tensor, index: Tensor, weight: Tensor, distance: Distance) -> Tensor:
    """sum_i weight_ki s_ki, [K], over the features of all processes of which index [K, count] names this one's.

    As s_ki is linear in the feature, up to its square for l2, a mean feature per code is all that travels.
    """

    def total(x: Tensor) -> Tensor:
        return sum_over_processes(F.embedding_bag(index, x, mode="sum", per_sample_weights=weight))

    if distance == "cosine":
        return (F.normalize(codes, dim=1) * total(F.normalize(features, dim=1))).sum(1)
    squares = total(features.square().sum(1, keepdim=True)).squeeze(1)
    return 2 * (codes * total(features)).sum(1) - codes.square().sum(1) - squares
