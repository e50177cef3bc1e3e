"""How near samples come to training images, in feature space: a look at whether a generator recites what it saw.

The distance of a sample to its nearest training image says little alone; the same distance of real images that the
generator never saw is its measure. Meehan, Chaudhuri, Dasgupta, "A non-parametric test to detect data-copying in
generative models", 2020, compare the two in the same way.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

NEAR = 0.01
"""A sample is suspicious when it is nearer to a training image than this share of unseen real images are."""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of each of n queries, nearest first.

    Attributes:
        distances: float64 [n, k].
        indices: int64 [n, k], of rows.
    """

    distances: Tensor
    indices: Tensor


def nearest_rows(queries: Tensor, parts: Iterable[Tensor], k: int) -> Neighbours:
    """The Euclidean neighbours of queries [n, d] among rows [m_i, d] that come part by part; at most k are kept."""
    queries, first = queries.double(), 0
    distances, indices = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for part in parts:
        found = torch.cdist(queries, part.double())
        here = torch.arange(first, first + len(part)).expand(len(queries), -1)
        distances, order = torch.cat([distances, found], 1).topk(min(k, first + len(part)), largest=False)
        indices = torch.cat([indices, here], 1).gather(1, order)
        first += len(part)
    return Neighbours(distances=distances, indices=indices)


def share_too_near(samples: Tensor, unseen: Tensor) -> float:
    """The share of samples nearer to a training image than all but `NEAR` of unseen real images; about `NEAR` when
    samples are as new as those.

    Args:
        samples, unseen: distances to the nearest training image, [n] and [m].
    """
    return (samples < unseen.double().quantile(NEAR)).double().mean().item()
