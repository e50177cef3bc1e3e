"""The pictures in a tokenizer's run folder, drawn while it trains and at its end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Subset

from stage1_tokenizer.health import entries
from stage1_tokenizer.quantizers.base import Quantizer
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.data.images import ImageDataset
from twostage.data.loader import ordered_batches
from twostage.metrics.codebook import CodebookMetrics
from twostage.pictures import save_codebook_health, save_curves, save_pairs, save_projection, save_usage
from twostage.training.log import read_log

CURVES = ("loss", "reconstruction", "commitment", "gradient_norm")

IMAGES, PAIRS, FEATURES = 512, 24, 4096
"""How many images are looked at; how many of them, and of their features, are shown."""

PAUSE = 10
"""So many times what the last drawing took must pass before the next: at most a tenth of a run goes into it."""


class Pictures:
    """Draws `pictures/{reconstructions,usage,projection,codebook_usage,curves}.png` of a run.

    The images are spread over the data set, always the same ones.
    """

    def __init__(self, dataset: ImageDataset, run: Path) -> None:
        self.images, self.run = Subset(dataset, dataset.spread(IMAGES)), run
        self.due = 0.0

    def refresh(self, tokenizer: VQTokenizer) -> None:
        """Draw in the midst of training, of which nothing changes; not yet again when it was only just done."""
        start = time.monotonic()
        if start < self.due:
            return
        with undisturbed(tokenizer):
            self.draw(tokenizer)
        end = time.monotonic()
        self.due = end + PAUSE * (end - start)

    @torch.no_grad()
    def draw(self, tokenizer: VQTokenizer) -> None:
        """Draw a tokenizer in eval mode, and the log so far."""
        quantizer, folder, log = tokenizer.quantizer, self.run / "pictures", read_log(self.run)
        features, counts = self.quantized(tokenizer)
        pairs = torch.stack([self.images[i]["images"] for i in evenly(len(self.images), PAIRS)])
        save_pairs(pairs, tokenizer(pairs.to(tokenizer.device)), folder / "reconstructions.png")
        save_usage(counts, folder / "usage.png")
        save_projection(*comparable(features, quantizer), counts[: quantizer.codebook_size], folder / "projection.png")
        save_codebook_health(log, quantizer.entries, folder / "codebook_usage.png")
        save_curves(log, CURVES, folder / "curves.png")

    def quantized(self, tokenizer: VQTokenizer) -> tuple[Tensor, Tensor]:
        """Some of the images' features, float32 [n, d], and how often all of them chose each entry, int64 [entries]."""
        codebook = CodebookMetrics(tokenizer.quantizer.entries)
        generator = torch.Generator().manual_seed(0)
        rows = []
        for batch in ordered_batches(self.images, 32):
            z = tokenizer.encode_latents(batch["images"].to(tokenizer.device))
            codebook.update(tokenizer.quantizer.count(tokenizer.quantize(z).codes))
            flat = z.movedim(1, -1).flatten(0, 2).float().cpu()
            share = -(-FEATURES * len(z) // len(self.images))
            rows.append(flat[torch.randperm(len(flat), generator=generator)[:share]])
        return torch.cat(rows), codebook.counts


def comparable(features: Tensor, quantizer: Quantizer) -> tuple[Tensor, Tensor]:
    """Features [n, d] and codes as they lie to each other where the quantiser compares them, both on the CPU.

    Where nearness is cosine, they are directions. Parts of features that share a codebook are features of their own;
    of stages with codebooks of their own it is the first, as what the others see is not the encoder's.

    Returns:
        [m, w] and [codebook_size, w], w the width of a code.
    """
    codes = entries(quantizer)[: quantizer.codebook_size].float().cpu()
    features = features.unflatten(1, (-1, codes.shape[1])).flatten(0, 1)
    if quantizer.distance == "cosine":
        return F.normalize(features, dim=1), F.normalize(codes, dim=1)
    return features, codes


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The model in eval mode for a while; afterwards its parts' modes and the random state are those of before."""
    training = [module for module in model.modules() if module.training]
    devices = {p.device for p in model.parameters() if p.device.type != "cpu"}
    with torch.random.fork_rng(list(devices)):
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def evenly(count: int, number: int) -> list[int]:
    """Indices spread over 0..count-1, `number` of them or all."""
    return torch.linspace(0, count - 1, min(number, count)).long().tolist()
