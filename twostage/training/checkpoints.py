"""Checkpoints: one file per step, written whole or not at all, the newest few kept."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from twostage.errors import TwoStageError, refuse
from twostage.files import atomic


class Checkpoints:
    """The checkpoints of one run folder, `step_00001000.pt` and so on.

    Args:
        kept: so many of the newest.
    """

    def __init__(self, folder: Path, kept: int = 2) -> None:
        self.folder, self.kept = folder, kept

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, in their order."""
        return [int(path.stem.removeprefix("step_")) for path in sorted(self.folder.glob("step_*.pt"))]

    def newest(self) -> Path | None:
        """The checkpoint of the latest step, or None."""
        return max(self.folder.glob("step_*.pt"), default=None)

    def save(self, parts: dict[str, Any], step: int) -> None:
        """Write the state of every part, then remove all but the newest checkpoints.

        Raises:
            TwoStageError: the file system refused; the checkpoints already there stay.
        """
        state = {"step": step, **{name: part.state_dict() for name, part in parts.items()}}
        path = self.folder / f"step_{step:08d}.pt"
        with atomic(path, refusals=(RuntimeError,)) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
        for old in sorted(self.folder.glob("step_*.pt"))[: -self.kept]:
            old.unlink()

    def restore(self, parts: dict[str, Any]) -> int:
        """Load the newest checkpoint into the parts; returns its step, 0 without one.

        Raises:
            TwoStageError: the file cannot be read, or was written by a run with other parts.
        """
        path = self.newest()
        if path is None:
            return 0
        with _legible(path):
            state = _read(path)
            for name, part in parts.items():
                part.load_state_dict(state[name])
        return state["step"]

    def state_of(self, part: str) -> dict[str, Any]:
        """The state of one part in the newest checkpoint, on the CPU; empty without a checkpoint.

        Raises:
            TwoStageError: the file cannot be read.
        """
        path = self.newest()
        if path is None:
            return {}
        with _legible(path):
            return _read(path)[part]

    def averaged_weights(self, step: int) -> dict[str, Any]:
        """The model as a run that ended at that step would have left it: its moving average, if the run keeps one.

        Raises:
            TwoStageError: there is no checkpoint of that step, or it cannot be read.
        """
        path = self.folder / f"step_{step:08d}.pt"
        if not path.is_file():
            steps = ", ".join(map(str, self.steps())) or "none"
            raise refuse("--checkpoint", step, f"a step of {self.folder}: {steps}")
        with _legible(path):
            state = _read(path)
        part, prefix = ("ema", "module.") if "ema" in state else ("task", "model.")
        weights = state[part].items()
        return {name.removeprefix(prefix): value for name, value in weights if name.startswith(prefix)}


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        if (record := archive.testzip()) is not None:  # torch.load compares no checksums
            raise zipfile.BadZipFile(f"wrong checksum of {record}")
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def _legible(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # readers of broken files raise whatever they stumble over
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise TwoStageError(
            f"{path}: not a checkpoint of this run ({reason}); remove it to go on from the one before"
        ) from error
