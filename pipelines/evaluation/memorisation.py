"""Which training images samples come nearest to, as a picture, and how near compared with real images never seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from twostage.data import DATASETS
from twostage.data.images import ImageDataset
from twostage.errors import TwoStageError
from twostage.metrics.features import FeatureNetwork
from twostage.metrics.neighbours import nearest_rows, share_too_near
from twostage.metrics.reference import Reference
from twostage.pictures import save_neighbours

QUERIES = 1000
"""So many samples, the first, are looked at, and so many unseen images."""

SHOWN, NEAREST = 8, 5
"""Rows of the picture, and training images in each."""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """The first samples of an evaluation.

    Attributes:
        features: float32 [n, d].
        redraw: indices -> their images [m, c, H, W] in [-1, 1].
    """

    features: Tensor
    redraw: Any


def memorisation(
    queries: Queries, reference: Reference, data: Mapping[str, Any], network: FeatureNetwork, picture: Path
) -> dict[str, Any]:
    """Save the samples nearest to training images, each beside its neighbours, with a histogram of distances.

    Args:
        reference: the training images.
        data: the data set, whose test images, if it has any, are the unseen ones.

    Returns:
        How many samples and unseen images there were, the medians of their distances to the nearest training image,
        and the share of samples that are nearer than all but 1% of the unseen images.
    """
    assert reference.parts is not None
    training = DATASETS.build(data, split="train")
    found = nearest_rows(queries.features, reference.parts.stream("features"), NEAREST)
    nearest = found.distances[:, 0]
    unseen = _unseen(data, reference, network)
    chosen = nearest.argsort()[:SHOWN].tolist()
    images = queries.redraw(chosen)
    rows = [torch.cat([image[None], _images(training, found.indices[i])]) for i, image in zip(chosen, images)]
    save_neighbours(torch.cat(rows), nearest, unseen, picture)
    said: dict[str, Any] = {"samples": len(nearest), "median_distance": nearest.median().item()}
    if unseen is None:
        return said
    measured = {"unseen": len(unseen), "unseen_median_distance": unseen.median().item()}
    return {**said, **measured, "too_near": share_too_near(nearest, unseen)}


def _images(dataset: ImageDataset, indices: Sequence[int] | Tensor) -> Tensor:
    return torch.stack([dataset[int(index)]["images"] for index in indices])


def _unseen(data: Mapping[str, Any], reference: Reference, network: FeatureNetwork) -> Tensor | None:
    assert reference.parts is not None
    try:
        dataset = DATASETS.build(data, split="test")
    except TwoStageError:
        return None
    features = network.extract(Subset(dataset, dataset.spread(QUERIES))).features
    return nearest_rows(features, reference.parts.stream("features"), 1).distances[:, 0]
