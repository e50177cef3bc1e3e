"""Rows of tensors in files of a fixed number of rows each: what is on disk need not be computed again.

A part is written whole or not at all, and which rows it holds is in its name. So a computation that is killed goes on
with the parts that are missing, and several processes (process r of w takes every w-th part from the r-th on) leave
the same files as one.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twostage.errors import TwoStageError
from twostage.files import atomic, read_json, write_json
from twostage.training.distributed import rank, world_size


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Rows 0..count-1, `size` to a file: `folder/name-<first>-<end>.safetensors`.

    A file may hold any tensors whose first axis is the rows, and notes (text). A higher `count` later finds the full
    parts of before.
    """

    folder: Path
    name: str
    count: int
    size: int

    def ranges(self) -> list[range]:
        """The rows of every part, in order."""
        return [range(first, min(first + self.size, self.count)) for first in range(0, self.count, self.size)]

    def mine(self) -> list[range]:
        """The parts that this process computes."""
        return self.ranges()[rank() :: world_size()]

    def path(self, part: range) -> Path:
        """The file of a part."""
        return self.folder / f"{self.name}-{part.start:08d}-{part.stop:08d}.safetensors"

    def holds(self, part: range) -> bool:
        """Whether the part is there and whole."""
        try:
            with safe_open(self.path(part), "pt"):
                return True
        except (OSError, SafetensorError):
            return False

    def complete(self) -> bool:
        """Whether every part is there."""
        return all(self.holds(part) for part in self.ranges())

    def write(self, part: range, tensors: Mapping[str, Tensor], **notes: str) -> None:
        """Write one part, whole or not at all.

        Raises:
            TwoStageError: the file system refused.
        """
        rows = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with atomic(self.path(part), refusals=(SafetensorError,)) as temporary:
            save_file(rows, temporary, metadata=notes)

    def read(self, part: range, name: str) -> Tensor:
        """The rows of one part.

        Raises:
            TwoStageError: the part cannot be read, or holds no tensor of that name.
        """
        try:
            with safe_open(self.path(part), "pt") as file:
                return file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise TwoStageError(f"{self.path(part)}: could not be read ({error}); remove it to make it anew") from None

    def stream(self, name: str) -> Iterator[Tensor]:
        """One tensor, part by part."""
        return (self.read(part, name) for part in self.ranges())

    def rows(self, name: str, indices: Sequence[int] | Tensor) -> Tensor:
        """Rows by ascending index; reads only the parts that hold them."""
        wanted = torch.as_tensor(indices)
        found = []
        for part in self.ranges():
            inside = wanted[(wanted >= part.start) & (wanted < part.stop)]
            if len(inside):
                found.append(self.read(part, name)[inside - part.start])
        return torch.cat(found)

    def has(self, name: str) -> bool:
        """Whether the parts hold a tensor of that name."""
        with safe_open(self.path(self.ranges()[0]), "pt") as file:
            return name in file.keys()  # noqa: SIM118

    def digest(self, note: str) -> str:
        """SHA-256 over one note of every part, in order."""
        digest = hashlib.sha256()
        for part in self.ranges():
            with safe_open(self.path(part), "pt") as file:
                digest.update((file.metadata() or {})[note].encode())
        return digest.hexdigest()


def claim(root: Path, identity: Mapping[str, Any]) -> Path:
    """The folder below `root` for the parts of what `identity` describes: named by its SHA-256, and saying it inside.

    Another identity has another folder, so that what was computed from other weights, data, options or another seed is
    never taken for this.

    Raises:
        TwoStageError: the folder says that it holds something else.
    """
    said = json.loads(json.dumps(identity))
    folder = root / sha256(said)[:16]
    path = folder / "identity.json"
    if not path.exists():
        write_json(path, said)
    elif (before := read_json(path)) != said:
        key = next(key for key in {**said, **before} if said.get(key) != before.get(key))
        raise TwoStageError(f"{path}: {key} is {before.get(key)!r}, not {said.get(key)!r}; remove {folder}")
    return folder


def sha256(value: Any) -> str:
    """Of a value's JSON text, keys in order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def pixel_digest(images: Tensor) -> str:
    """SHA-256 of images uint8 [n, c, H, W], their shape included."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()
