"""`twostage evaluate`: how well a tokenizer reconstructs, how well a pipeline generates."""

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.sample import sample_images
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.data.images import ImageDataset, to_uint8
from twostage.data.loader import ordered_batches
from twostage.errors import refuse
from twostage.metrics.codebook import CodebookMetrics
from twostage.metrics.features import FeatureNetwork
from twostage.metrics.generation import NEIGHBOURS, Rows, feature_distance, generation_metrics
from twostage.metrics.protocols import PROTOCOLS
from twostage.metrics.reconstruction import ReconstructionMetrics, lpips_distance
from twostage.metrics.weights import Missing


@torch.no_grad()
def evaluate_reconstruction(
    tokenizer: VQTokenizer,
    dataset: ImageDataset,
    network: FeatureNetwork | Missing,
    *,
    protocol: str = "default",
    batch_size: int = 256,
) -> Rows:
    """L1, PSNR, SSIM, LPIPS, the distance of features, usage and perplexity over a data set.

    L1, PSNR and SSIM are means over images, of images in [0, 1], compared as the protocol of `PROTOCOLS` says; by
    default nothing is rounded or compressed. The feature distance sees 8-bit images.

    Raises:
        TwoStageError: a protocol of another name.
    """
    if protocol not in PROTOCOLS:
        raise refuse("protocol", protocol, ", ".join(PROTOCOLS))
    how = PROTOCOLS[protocol]
    lpips = lpips_distance(device=tokenizer.device)
    metrics = ReconstructionMetrics(how.measures if isinstance(lpips, Missing) else {**how.measures, "LPIPS": lpips})
    codebook = CodebookMetrics(tokenizer.quantizer.entries)
    kept: list[Tensor] = []
    for batch in tqdm(ordered_batches(dataset, batch_size), desc="reconstructing", unit="batch", dynamic_ncols=True):
        images = batch["images"].to(tokenizer.device)
        encoded = tokenizer.encode(images)
        reconstructions = tokenizer.decode(encoded.z_q).clamp(-1, 1)
        metrics.update(how.prepare(images), how.prepare(reconstructions))
        codebook.update(tokenizer.quantizer.count(encoded.codes))
        kept.append(to_uint8(reconstructions).cpu())
    rows: Rows = {"protocol": protocol, **metrics.compute(), **codebook.compute()}
    if isinstance(lpips, Missing):
        rows["LPIPS"] = str(lpips)
    return {**rows, **feature_distance(dataset, torch.cat(kept), network)}


def evaluate_generation(
    pipeline: Any,
    reference: ImageDataset,
    network: FeatureNetwork | Missing,
    *,
    num_images: int,
    seed: int = 0,
    **options: Any,
) -> Rows:
    """FID, KID, IS, precision and recall of samples against a data set; classes take turns.

    Args:
        options: passed to the pipeline's call.

    Raises:
        TwoStageError: too few images to compare, or an option that the pipeline does not allow.
    """
    if num_images < NEIGHBOURS + 1:
        raise refuse("num_images", num_images, f"an integer of at least {NEIGHBOURS + 1}")
    names = pipeline.config.id2label
    labels = [i % len(names) if names else None for i in range(num_images)]
    images = sample_images(pipeline, labels, seed=seed, **options)
    return {**generation_metrics(reference, to_uint8(images), network), "seed": seed, **options}
