"""`twostage encode`: one pass of a trained tokenizer over a data set, to frozen codes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
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
    batch_size: int = 256,
) -> CodesManifest:
    """Write the codes of a data set's split into `folder`.

    Args:
        data: the data set, `{name: ..., option: value}` of `DATASETS`.
        latents: also keep the encoder's output before quantisation, for `latents: continuous`.
    """
    dataset = DATASETS.build(data, split=split)
    return write_codes(
        folder,
        _encoded(tokenizer.eval(), dataset, batch_size, latents),
        tokenizer=fingerprint(tokenizer),
        data=data,
        split=split,
        classes=dataset.classes,
        codebook_size=tokenizer.quantizer.codebook_size,
    )


@torch.no_grad()
def _encoded(tokenizer: VQTokenizer, dataset: ImageDataset, batch_size: int, latents: bool) -> Iterator[EncodedBatch]:
    for batch in tqdm(ordered_batches(dataset, batch_size), desc="encoding", unit="batch", dynamic_ncols=True):
        z = tokenizer.encode_latents(batch["images"].to(tokenizer.device))
        yield EncodedBatch(
            codes=tokenizer.quantize(z).codes, labels=batch["class_label"], latents=z if latents else None
        )
