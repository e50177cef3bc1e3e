"""Frozen codes: what stage two learns from. One pass of a tokenizer over a data set, on disk, bound to its maker.

A codes folder holds `manifest.json` and, per shard i, `codes-i.npy` (uint16, or uint32 for K > 65,536; [n, v, h, w], or
[n, v, q, h, w] of a tokenizer with q code maps), `labels-i.npy` (int64 [n]) and, if asked for, `latents-i.npy` (float16
[n, v, d, h, w], before quantisation). An image has v views: itself, and what else training may take for it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from twostage.errors import TwoStageError, refuse
from twostage.files import atomic, read_json, write_json
from twostage.training.noise import randint_rows

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class CodesManifest:
    """What a codes folder holds and where it comes from.

    Attributes:
        tokenizer: fingerprint of the tokenizer that wrote it.
        data: the component that named the data set, and its split.
        classes: names; labels index them. Empty for unlabelled data.
        codebook_size: K.
        shape: (h, w) of the codes of one view, or (q, h, w).
        views: v.
        count: images.
        files: file name -> sha256.
        latents: whether the encoder's output is kept too.
    """

    tokenizer: str
    data: dict[str, Any]
    split: str
    classes: list[str]
    codebook_size: int
    shape: list[int]
    views: int
    count: int
    files: dict[str, str]
    latents: bool

    def num_classes(self, *, conditional: bool) -> int | None:
        """How many classes a prior over these codes has; None for an unconditional one.

        Raises:
            TwoStageError: a conditional prior is asked for, but the codes are of unlabelled data.
        """
        if conditional and not self.classes:
            raise refuse("conditional", True, "false: these codes are of unlabelled data")
        return len(self.classes) if conditional else None


@dataclass(frozen=True, kw_only=True)
class EncodedBatch:
    """codes int64 [b, v, h, w] or [b, v, q, h, w], labels int64 [b], latents [b, v, d, h, w] or None."""

    codes: torch.Tensor
    labels: torch.Tensor
    latents: torch.Tensor | None


def write_codes(
    folder: Path, batches: Iterable[EncodedBatch], *, shard_size: int = 100_000, **origin: Any
) -> CodesManifest:
    """Write a codes folder, whole or not at all.

    Args:
        batches: in the data set's order.
        shard_size: images per shard, at least; a shard ends with a batch.
        origin: the manifest's `tokenizer`, `data`, `split`, `classes`, `codebook_size`.

    Raises:
        TwoStageError: the folder holds something else, which writing would replace; or the file system refused.
    """
    check_codes_folder(folder)
    files: dict[str, str] = {}
    count, views, shape, has_latents = 0, 1, [0, 0], False
    with atomic(folder.absolute()) as temporary:
        temporary.mkdir()
        for shard, group in enumerate(_grouped(batches, shard_size)):
            dtype = np.uint16 if origin["codebook_size"] <= 2**16 else np.uint32
            arrays = {
                "codes": torch.cat([b.codes for b in group]).cpu().numpy().astype(dtype),
                "labels": torch.cat([b.labels for b in group]).cpu().numpy(),
            }
            latents = [b.latents for b in group if b.latents is not None]
            if latents:
                arrays["latents"] = torch.cat(latents).cpu().half().numpy()
            n, views, *shape = arrays["codes"].shape
            count, has_latents = count + n, bool(latents)
            for kind, array in arrays.items():
                path = temporary / f"{kind}-{shard:05d}.npy"
                _save(path, array)
                files[path.name] = _sha256(path)
        manifest = CodesManifest(
            count=count, shape=list(shape), views=views, latents=has_latents, files=files, **origin
        )
        write_json(temporary / MANIFEST, asdict(manifest))
    return manifest


def check_codes_folder(folder: Path) -> None:
    """Codes replace codes, and nothing else.

    Raises:
        TwoStageError: the folder holds something else.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise TwoStageError(f"{folder}: is not empty and holds no codes; choose another --output")


def _save(path: Path, array: np.ndarray) -> None:
    """np.save, which would overlook a full disk that it meets only when it closes the file."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _grouped(batches: Iterable[EncodedBatch], size: int) -> Iterable[list[EncodedBatch]]:
    group: list[EncodedBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(len(b.codes) for b in group) >= size:
            yield group
            group = []
    if group:
        yield group


def read_manifest(folder: Path) -> CodesManifest:
    """The manifest of a codes folder.

    Raises:
        TwoStageError: the folder holds no codes, or its manifest is not one.
    """
    values = read_json(folder / MANIFEST)
    try:
        return CodesManifest(**values)
    except TypeError:
        raise TwoStageError(f"{folder / MANIFEST}: not the manifest of a codes folder") from None


class FrozenCodes(Dataset[dict[str, torch.Tensor]]):
    """The examples of a codes folder, all views of an image together.

    codes int64 [v, h, w] or [v, q, h, w], class_label int64 [], latents float32 [v, d, h, w] if kept.

    Args:
        folder: what `write_codes` wrote.
        tokenizer: the fingerprint of the tokenizer that will decode what is learnt from these codes.

    Raises:
        TwoStageError: another tokenizer wrote the codes; a shard is missing, truncated or changed (it is named).
    """

    def __init__(self, folder: str | Path, tokenizer: str) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if self.manifest.tokenizer != tokenizer:
            raise TwoStageError(
                f"{folder}: these codes were written by tokenizer {self.manifest.tokenizer[:12]}, not by "
                f"{tokenizer[:12]}; encode the data again with the tokenizer that you mean"
            )
        for name, digest in self.manifest.files.items():
            _check_shard(self.folder / name, digest)
        self._codes = self._open("codes")
        self._labels = self._open("labels")
        self._latents = self._open("latents") if self.manifest.latents else None
        self._ends = np.cumsum([len(shard) for shard in self._codes])

    def _open(self, kind: str) -> Sequence[np.ndarray]:
        names = sorted(name for name in self.manifest.files if name.startswith(f"{kind}-"))
        return [np.load(self.folder / name, mmap_mode="r") for name in names]

    def __len__(self) -> int:
        return self.manifest.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[shard - 1]) if shard else 0)
        example = {
            "codes": torch.from_numpy(self._codes[shard][row].astype(np.int64)),
            "class_label": torch.tensor(self._labels[shard][row]),
        }
        if self._latents is not None:
            example["latents"] = torch.from_numpy(self._latents[shard][row].astype(np.float32))
        return example


def one_view(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch of `FrozenCodes` with one view of each image, drawn at random: codes [b, h, w], latents [b, d, h, w]."""
    b, v = batch["codes"].shape[:2]
    images, chosen = torch.arange(b, device=batch["codes"].device), randint_rows(batch["codes"], v)
    return {**batch, **{key: batch[key][images, chosen] for key in batch if key != "class_label"}}


def all_views(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every view of a batch of `FrozenCodes` as an image without a label: codes [b v, h, w], latents [b v, d, h, w]."""
    return {key: batch[key].flatten(0, 1) for key in batch if key != "class_label"}


def _check_shard(path: Path, digest: str) -> None:
    if not path.is_file():
        raise TwoStageError(f"{path}: this shard is missing; encode the data again")
    if _sha256(path) != digest:
        raise TwoStageError(f"{path}: this shard is truncated or changed (its sha256 is not the recorded one)")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
