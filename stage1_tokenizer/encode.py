"""`twostage encode`: one pass of a trained tokenizer over a data set, to frozen codes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.views import VIEWS, Views
from twostage.data import DATASETS
from twostage.data.codes import CodesManifest, EncodedBatch, write_codes
from twostage.data.images import ImageDataset, Split
from twostage.data.loader import ordered_batches
from twostage.errors import refuse
from twostage.models import fingerprint


def encode(
    tokenizer: VQTokenizer,
    data: dict[str, Any],
    folder: Path,
    *,
    split: Split = "train",
    latents: bool = False,
    views: str = "none",
    batch_size: int = 256,
) -> CodesManifest:
    """Write the codes of a data set's split into `folder`.

    Args:
        data: the data set, `{name: ..., option: value}` of `DATASETS`.
        latents: also keep the encoder's output before quantisation, for `latents: continuous`.
        views: of `VIEWS`: what else of an image is frozen, of which training takes one at random each time.

    Raises:
        TwoStageError: views of another name.
    """
    if views not in VIEWS:
        raise refuse("views", views, ", ".join(VIEWS))
    image_size = VIEWS[views].source_size(tokenizer.config["image_size"])
    dataset = DATASETS.build({**data, "image_size": image_size}, split=split)
    return write_codes(
        folder,
        _encoded(tokenizer.eval(), dataset, batch_size, latents, VIEWS[views]),
        tokenizer=fingerprint(tokenizer),
        data=data,
        split=split,
        classes=dataset.classes,
        codebook_size=tokenizer.quantizer.codebook_size,
    )


@torch.no_grad()
def _encoded(
    tokenizer: VQTokenizer, dataset: ImageDataset, batch_size: int, latents: bool, views: Views
) -> Iterator[EncodedBatch]:
    for batch in tqdm(ordered_batches(dataset, batch_size), desc="encoding", unit="batch", dynamic_ncols=True):
        images = batch["images"].to(tokenizer.device)
        zs = [tokenizer.encode_latents(view) for view in views.of(images, tokenizer.config["image_size"])]
        yield EncodedBatch(
            codes=torch.stack([tokenizer.quantize(z).codes for z in zs], dim=1),
            labels=batch["class_label"],
            latents=torch.stack(zs, dim=1) if latents else None,
        )
