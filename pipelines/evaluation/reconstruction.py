"""`twostage evaluate reconstruction`: how well a tokenizer gives images back, and how much of its codebook it uses."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from pipelines.evaluation.provenance import describe_network, libraries
from pipelines.processes import gather
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.data import DATASETS
from twostage.data.identity import without_place
from twostage.data.images import ImageDataset, to_uint8
from twostage.errors import refuse
from twostage.metrics.codebook import CodebookMetrics
from twostage.metrics.features import STANDARD_ROWS, FeatureNetwork
from twostage.metrics.gaussian import fit_gaussian, frechet_distance
from twostage.metrics.protocols import PROTOCOLS, Protocol
from twostage.metrics.reconstruction import ReconstructionMetrics, lpips_distance
from twostage.metrics.weights import Missing
from twostage.models import fingerprint
from twostage.parts import pixel_digest
from twostage.training.distributed import rank, world_size


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One batch.

    Attributes:
        sums: of each measure, float64 [m].
        images: how many.
        counts: of codes, int64 [K].
        features: of the images and of their reconstructions, float32 [n, d]; None without a network.
        pixels: SHA-256 of the images.
    """

    sums: Tensor
    images: int
    counts: Tensor
    features: tuple[Tensor, Tensor] | None
    pixels: str


def reconstruction_row(
    tokenizer: VQTokenizer,
    data: dict[str, Any],
    network: FeatureNetwork | Missing,
    *,
    split: str = "test",
    protocol: str = "default",
    batch_size: int = 256,
) -> dict[str, Any]:
    """What `evaluate reconstruction` writes: the numbers, and which images, model, network and libraries gave them.

    Args:
        data: the component of the data set.
    """
    dataset = DATASETS.build(data, split=split)
    row = evaluate_reconstruction(tokenizer, dataset, network, protocol=protocol, batch_size=batch_size)
    images = {"split": split, "data": without_place(data), "pixels": row.pop("pixels")}
    made = {"model": fingerprint(tokenizer), "network": describe_network(network), "libraries": libraries()}
    return {**row, "images": images, **made}


@torch.no_grad()
def evaluate_reconstruction(
    tokenizer: VQTokenizer,
    dataset: ImageDataset,
    network: FeatureNetwork | Missing,
    *,
    protocol: str = "default",
    batch_size: int = 256,
) -> dict[str, Any]:
    """L1, PSNR, SSIM, LPIPS, the distance of features, usage and perplexity over a data set.

    L1, PSNR and SSIM are means over images, of images in [0, 1], compared as the protocol of `PROTOCOLS` says; by
    default nothing is rounded or compressed. The feature distance sees 8-bit images. Every process of a torchrun calls
    this and gets the same row, which does not depend on how many there are.

    Returns:
        Also `n`, the number of images, and `pixels`, the SHA-256 of them as 8-bit images.

    Raises:
        TwoStageError: a protocol of another name; fewer than 2 images.
    """
    if protocol not in PROTOCOLS:
        raise refuse("protocol", protocol, ", ".join(PROTOCOLS))
    how = PROTOCOLS[protocol]
    lpips = lpips_distance(device=tokenizer.device)
    metrics = ReconstructionMetrics(how.measures if isinstance(lpips, Missing) else {**how.measures, "LPIPS": lpips})
    codebook = CodebookMetrics(tokenizer.quantizer.entries)
    batches = _of_all_processes(list(_measure(tokenizer, dataset, network, how, metrics, batch_size)))
    for batch in batches:
        metrics.add(batch.sums, batch.images)
        codebook.update(batch.counts)
    rows: dict[str, Any] = {"protocol": protocol, **metrics.compute(), **codebook.compute()}
    if isinstance(lpips, Missing):
        rows["LPIPS"] = str(lpips)
    pixels = hashlib.sha256("".join(batch.pixels for batch in batches).encode()).hexdigest()
    return {**rows, **_distance(batches, network), "pixels": pixels}


def _measure(
    tokenizer: VQTokenizer,
    dataset: ImageDataset,
    network: FeatureNetwork | Missing,
    how: Protocol,
    metrics: ReconstructionMetrics,
    batch_size: int,
) -> Iterator[Measured]:
    """This process's batches: of w processes, the r-th takes every w-th from the r-th on."""
    firsts = range(0, len(dataset), batch_size)[rank() :: world_size()]
    indices = [list(range(first, min(first + batch_size, len(dataset)))) for first in firsts]
    loader = DataLoader(dataset, batch_sampler=indices)
    look = {"desc": "reconstructing", "unit": "batch", "dynamic_ncols": True, "disable": rank() > 0}
    for batch in tqdm(loader, **look):
        images = batch["images"].to(tokenizer.device)
        encoded = tokenizer.encode(images)
        reconstructions = tokenizer.decode(encoded.z_q).clamp(-1, 1)
        pixels, given = to_uint8(images).cpu(), to_uint8(reconstructions).cpu()
        sides = None if isinstance(network, Missing) else (network.extract(pixels), network.extract(given))
        yield Measured(
            sums=metrics.measure(how.prepare(images), how.prepare(reconstructions)),
            images=len(images),
            counts=tokenizer.quantizer.count(encoded.codes).cpu(),
            features=None if sides is None else (sides[0].features, sides[1].features),
            pixels=pixel_digest(pixels),
        )


def _of_all_processes(mine: list[Measured]) -> list[Measured]:
    """Every process's batches, in the data set's order."""
    shares = gather(mine)
    count = sum(map(len, shares))
    return [shares[i % len(shares)][i // len(shares)] for i in range(count)]


def _distance(batches: list[Measured], network: FeatureNetwork | Missing) -> dict[str, float | str]:
    names = (STANDARD_ROWS if isinstance(network, Missing) else network.rows).of_number(sum(b.images for b in batches))
    if isinstance(network, Missing):
        return {names.frechet_reconstruction: str(network)}
    pairs = [batch.features for batch in batches if batch.features is not None]
    real, given = (fit_gaussian(pair[side] for pair in pairs) for side in (0, 1))
    return {names.frechet_reconstruction: frechet_distance(real, given)}
