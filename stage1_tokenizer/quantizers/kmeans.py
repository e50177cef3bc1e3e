"""k-means with a quantiser's own idea of "nearest": the codebook of a warm start."""

import torch
from torch import Tensor

from stage1_tokenizer.quantizers.nearest import Distance, nearest


@torch.no_grad()
def kmeans(
    features: Tensor, count: int, *, distance: Distance = "l2", iterations: int = 20, generator: torch.Generator
) -> Tensor:
    """Lloyd's algorithm from `count` distinct features; a centroid is the mean of the features nearest to it.

    A centroid that loses all its features restarts at a random one. With fewer features than centroids the missing
    centroids are repetitions, spread by a thousandth of the features' standard deviation.

    Args:
        features: [n, d], n >= 1.
        count: how many centroids.
        distance: `cosine` groups by direction, and keeps the mean length.
        generator: of the features' device; decides the start.

    Returns:
        [count, d].
    """
    n, device = len(features), features.device
    order = torch.randperm(n, generator=generator, device=device)
    centroids = features[order.repeat(-(-count // n))[:count]].clone()
    if n < count:
        noise = torch.randn(centroids.shape, generator=generator, device=device, dtype=features.dtype)
        centroids[n:] += 1e-3 * features.std(unbiased=False) * noise[n:]
        return centroids
    for _ in range(iterations):
        codes = nearest(features, centroids, distance)
        counts = torch.bincount(codes, minlength=count)
        sums = torch.zeros_like(centroids).index_add_(0, codes, features)
        centroids = sums / counts.clamp(min=1)[:, None]
        empty = torch.nonzero(counts == 0).squeeze(1)
        centroids[empty] = features[torch.randint(n, (len(empty),), generator=generator, device=device)]
    return centroids
