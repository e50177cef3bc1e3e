"""`twostage encode`: one pass of a trained tokenizer over a data set, to frozen codes.

The pass is made in parts: what an interrupted one has finished is not done again, and several processes share them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.views import VIEWS, Views
from twostage.data import DATASETS
from twostage.data.codes import CodesManifest, EncodedBatch, check_codes_folder, read_manifest, write_codes
from twostage.data.identity import listing, without_place
from twostage.data.images import ImageDataset, Split
from twostage.errors import refuse
from twostage.models import fingerprint
from twostage.parts import Parts, claim
from twostage.training.distributed import meet, rank, world_size


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
    """Write the codes of a data set's split into `folder`; every process of torchrun calls this.

    Parts are kept in `<folder>.parts` until all are there.

    Args:
        data: the data set, `{name: ..., option: value}` of `DATASETS`.
        latents: also keep the encoder's output before quantisation, for `latents: continuous`.
        views: of `VIEWS`: what else of an image is frozen, of which training takes one at random each time.
        batch_size: images that go through the network together, and to a part.

    Raises:
        TwoStageError: views of another name; a folder that holds something else; the file system refused.
    """
    if views not in VIEWS:
        raise refuse("views", views, ", ".join(VIEWS))
    check_codes_folder(folder)
    dataset = DATASETS.build(
        {**data, "image_size": VIEWS[views].source_size(tokenizer.config["image_size"])}, split=split
    )
    origin: dict[str, Any] = {"tokenizer": fingerprint(tokenizer), "split": split}
    asked = {"views": views, "latents": latents, "batch_size": batch_size, "device": tokenizer.device.type}
    place = folder.with_name(f"{folder.name}.parts")
    identity = {**origin, **asked, "data": without_place(data), "files": listing(data)}
    parts = Parts(folder=claim(place, identity), name="codes", count=len(dataset), size=batch_size)
    _fill(parts, tokenizer.eval(), dataset, VIEWS[views], latents=latents)
    meet()
    if rank() == 0:
        k, batches = tokenizer.quantizer.codebook_size, _batches(parts, latents=latents)
        write_codes(folder, batches, data=data, classes=dataset.classes, codebook_size=k, **origin)
        shutil.rmtree(place)
    meet()
    return read_manifest(folder)


@torch.no_grad()
def _fill(parts: Parts, tokenizer: VQTokenizer, dataset: ImageDataset, views: Views, *, latents: bool) -> None:
    """Encode this process's images that are not there yet."""
    mine = parts.mine()
    wanted = [part for part in mine if not parts.holds(part)]
    left, total = sum(map(len, wanted)), sum(map(len, mine))
    share = f"encoding, share of 1 of {world_size()} processes" if world_size() > 1 else "encoding"
    look = {"desc": share, "unit": "image", "dynamic_ncols": True, "disable": rank() > 0}
    with tqdm(total=total, initial=total - left, **look) as bar:
        for part, batch in zip(wanted, DataLoader(dataset, batch_sampler=[list(part) for part in wanted])):
            images = batch["images"].to(tokenizer.device)
            zs = [tokenizer.encode_latents(view) for view in views.of(images, tokenizer.config["image_size"])]
            codes = torch.stack([tokenizer.quantize(z).codes for z in zs], dim=1)
            rows = {"codes": codes.int().cpu(), "labels": batch["class_label"]}
            if latents:
                rows["latents"] = torch.stack(zs, dim=1).half().cpu()
            parts.write(part, rows)
            bar.update(len(part))


def _batches(parts: Parts, *, latents: bool) -> Iterator[EncodedBatch]:
    for part in parts.ranges():
        kept = parts.read(part, "latents") if latents else None
        yield EncodedBatch(codes=parts.read(part, "codes"), labels=parts.read(part, "labels"), latents=kept)
