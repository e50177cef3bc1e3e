"""The pictures a tokenizer's run leaves: reconstructions, codebook usage, curves."""

from pathlib import Path

import torch

from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.data.images import ImageDataset
from twostage.metrics.codebook import CodebookMetrics
from twostage.pictures import save_curves, save_pairs, save_usage
from twostage.training.log import read_log

CURVES = ("loss", "reconstruction", "commitment", "perplexity", "usage")


@torch.no_grad()
def save_pictures(tokenizer: VQTokenizer, dataset: ImageDataset, run: Path, *, sample: int = 512) -> None:
    """Write `pictures/{reconstructions,usage,curves}.png` from up to `sample` images of the data set."""
    images = torch.stack([dataset[i]["images"] for i in range(min(sample, len(dataset)))]).to(tokenizer.device)
    encoded = tokenizer.encode(images)
    codebook = CodebookMetrics(tokenizer.quantizer.entries)
    codebook.update(tokenizer.quantizer.count(encoded.codes))
    pictures = run / "pictures"
    save_pairs(images[:24], tokenizer.decode(encoded.z_q[:24]), pictures / "reconstructions.png")
    save_usage(codebook.counts, pictures / "usage.png")
    save_curves(read_log(run), CURVES, pictures / "curves.png")
