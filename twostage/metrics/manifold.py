"""Precision and recall: the share of samples among the images, and of images among the samples.

Kynkaanniemi, Karras, Laine, Lehtinen, Aila, "Improved precision and recall metric for assessing generative models",
2019, Eq. 1 and 2. A set of features covers the union of balls around them, each as wide as the distance to the
feature's k-th nearest neighbour in the set (k = 3, Sec. 4; the feature itself does not count):
    f(x, Y) = 1 if |x - y| <= |y - NN_k(y, Y)| for some y in Y, otherwise 0
    precision = mean of f(g, real) over generated g,    recall = mean of f(r, generated) over real r
Distances are those of torch-fidelity, float32 by a matrix product; the same shares come out. What they cost: n^2 / 2
distances for the balls of n features, and each distance between the two sets once, for both directions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from tqdm import tqdm

from twostage.errors import refuse

NEIGHBOURS = 3
"""k: a ball reaches to this nearest neighbour."""

BLOCK = 2_000
"""Distances are computed for so many features against so many at once."""


@dataclass(frozen=True, kw_only=True)
class Manifold:
    """What a set of features covers.

    Attributes:
        centres: float32 [n, d].
        radii: float32 [n].
    """

    centres: Tensor
    radii: Tensor


def neighbour_radii(features: Tensor) -> Tensor:
    """The distance of each of the features [n, d] to its k-th nearest neighbour among the others, float32 [n].

    Raises:
        TwoStageError: n is not above k.
    """
    n, kept = len(features), NEIGHBOURS + 1  # a feature is its own nearest neighbour
    if n < kept:
        raise refuse("number of images", n, f"at least {kept}, for precision and recall")
    nearest = features.new_full((n, kept), inf)
    pairs = [(rows, columns) for rows in _blocks(n) for columns in _blocks(n) if rows.start <= columns.start]
    for rows, columns in _shown(pairs, "distances within a set"):
        distances = torch.cdist(features[rows], features[columns])
        nearest[rows] = _smallest(nearest[rows], distances)
        if rows != columns:
            nearest[columns] = _smallest(nearest[columns], distances.T)
    return nearest[:, -1].contiguous()


def precision_and_recall(real: Manifold, generated: Manifold) -> tuple[float, float]:
    """The shares of generated features that the real ones cover, and the other way round; both in [0, 1]."""
    precise = torch.zeros(len(generated.centres), dtype=torch.bool)
    recalled = torch.zeros(len(real.centres), dtype=torch.bool)
    pairs = [(rows, columns) for rows in _blocks(len(precise)) for columns in _blocks(len(recalled))]
    for rows, columns in _shown(pairs, "distances between samples and images"):
        distances = torch.cdist(generated.centres[rows], real.centres[columns])
        precise[rows] |= (distances <= real.radii[columns]).any(1)
        recalled[columns] |= (distances <= generated.radii[rows, None]).any(0)
    return precise.float().mean().item(), recalled.float().mean().item()


def _smallest(known: Tensor, distances: Tensor) -> Tensor:
    """The smallest of each row of both, [n, k] and [n, m] -> [n, k], ascending."""
    k = known.shape[1]
    found = distances.topk(min(k, distances.shape[1]), largest=False).values
    return torch.cat([known, found], 1).topk(k, largest=False).values


def _blocks(n: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK) for first in range(0, n, BLOCK))


def _shown(pairs: list[tuple[slice, slice]], what: str) -> Iterator[tuple[slice, slice]]:
    """With a bar, should they take longer than some seconds."""
    return iter(tqdm(pairs, desc=what, unit="block", dynamic_ncols=True, delay=5))
