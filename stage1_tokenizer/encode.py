"""`twostage encode`: one pass of a trained tokenizer over a data set, to frozen codes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.data import DATASETS
from twostage.data.codes import CodesManifest, EncodedBatch, write_codes
from twostage.data.images import ImageDataset, Split
from twostage.data.loader import ordered_batches
from twostage.models import fingerprint


def encode(
    tokenizer: VQTokenizer,
    data: dict[str, Any],
    folder: Path,
    *,
    split: Split = "train",
    latents: bool = False,
    flips: bool = False,
    batch_size: int = 256,
) -> CodesManifest:
    """Write the codes of a data set's split into `folder`.

    Args:
        data: the data set, `{name: ..., option: value}` of `DATASETS`.
        latents: also keep the encoder's output before quantisation, for `latents: continuous`.
        flips: also freeze every image's mirror image, as a second view that training takes half of the time.
    """
    dataset = DATASETS.build(data, split=split)
    return write_codes(
        folder,
        _encoded(tokenizer.eval(), dataset, batch_size, latents, VIEWS_WITH_FLIPS if flips else VIEWS),
        tokenizer=fingerprint(tokenizer),
        data=data,
        split=split,
        classes=dataset.classes,
        codebook_size=tokenizer.quantizer.codebook_size,
    )


View = Callable[[Tensor], Tensor]
"""Images [b, c, H, W] -> what else may stand for them, of the same shape."""

VIEWS: tuple[View, ...] = (lambda images: images,)
VIEWS_WITH_FLIPS: tuple[View, ...] = (*VIEWS, lambda images: images.flip(-1))


@torch.no_grad()
def _encoded(
    tokenizer: VQTokenizer, dataset: ImageDataset, batch_size: int, latents: bool, views: Sequence[View]
) -> Iterator[EncodedBatch]:
    for batch in tqdm(ordered_batches(dataset, batch_size), desc="encoding", unit="batch", dynamic_ncols=True):
        images = batch["images"].to(tokenizer.device)
        zs = [tokenizer.encode_latents(view(images)) for view in views]
        yield EncodedBatch(
            codes=torch.stack([tokenizer.quantize(z).codes for z in zs], dim=1),
            labels=batch["class_label"],
            latents=torch.stack(zs, dim=1) if latents else None,
        )
