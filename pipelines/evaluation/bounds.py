"""`twostage evaluate bounds`: how near to the reference samples of so many images can come.

Two sets are compared with it as samples would be. Real images that it does not hold: the floor, since a set of that
size is no nearer however well it is drawn. The tokenizer's reconstructions of these: the limit of a prior, which can
learn the codes perfectly and no more.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from pipelines.evaluation.provenance import describe_network, libraries
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.data import DATASETS
from twostage.data.images import ImageDataset, to_uint8
from twostage.errors import refuse
from twostage.metrics.features import FeatureNetwork
from twostage.metrics.generation import NEIGHBOURS, FeatureSet, feature_metrics
from twostage.metrics.generation_protocols import GenerationProtocol
from twostage.metrics.outputs import Features
from twostage.metrics.reference import check_image_size, data_reference
from twostage.models import fingerprint


def evaluate_bounds(
    tokenizer: VQTokenizer,
    network: FeatureNetwork,
    protocol: GenerationProtocol,
    data: dict[str, Any],
    num_images: int,
    *,
    cache: Path,
    batch_size: int = 100,
) -> dict[str, Any]:
    """The rows `floor` and `limit`: FID, KID, precision and recall of real images, and of their reconstructions.

    Args:
        protocol: one whose reference is a split of the data; the images are of the other split, evenly spread over it.
        data: the component that names the data set.
        cache: the folder of reference statistics.

    Raises:
        TwoStageError: more images than the other split has, or too few; a protocol whose reference is a file.
    """
    if protocol.split is None:
        raise refuse("--protocol", protocol.name, "one whose reference are images of the data set")
    split = "test" if protocol.split == "train" else "train"
    others = DATASETS.build(data, split=split)
    if not NEIGHBOURS < num_images <= len(others):
        raise refuse("num_images", num_images, f"{NEIGHBOURS + 1}..{len(others)}, the number of {split} images")
    reference = data_reference(data, protocol.split, network, cache)
    check_image_size(reference, tokenizer.config.image_size)
    batches = list(_features(tokenizer, network, others, num_images, batch_size))
    sides = [FeatureSet.of(Features(features=torch.cat(side))) for side in zip(*batches)]
    real = reference.feature_set()
    rows = [feature_metrics(real, side, network.rows) for side in sides]
    return {
        "protocol": protocol.name,
        "n": num_images,
        "n_reference": reference.gaussian.count,
        "images": split,
        **{f"{name} {row}": value for name, side in zip(("floor", "limit"), rows) for row, value in side.items()},
        "reference": reference.describe(),
        "model": fingerprint(tokenizer),
        "network": describe_network(network),
        "libraries": libraries(),
    }


@torch.no_grad()
def _features(
    tokenizer: VQTokenizer, network: FeatureNetwork, images: ImageDataset, count: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of images and of their reconstructions, [n, d] each, batch by batch."""
    loader = DataLoader(Subset(images, images.spread(count)), batch_size, generator=torch.Generator())
    for batch in tqdm(loader, desc="reconstructing", unit="batch", dynamic_ncols=True):
        codes = tokenizer.encode(batch["images"].to(tokenizer.device)).codes
        reconstructions = tokenizer.decode_codes(codes).clamp(-1, 1)
        pixels = to_uint8(batch["images"]), to_uint8(reconstructions).cpu()
        yield network.extract(pixels[0]).features, network.extract(pixels[1]).features
