"""What a run says while it runs: one JSON object per line, and TensorBoard for those who ask."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from warnings import warn

from tqdm import tqdm

from twostage.errors import TwoStageError
from twostage.files import write_text

FILE = "log.jsonl"


class RunLog:
    """Appends `{"step": ..., scalar: value}` lines to log.jsonl; lines after `start` are of a run that was cut off.

    A line that comes with warnings has them under `warnings`.

    Args:
        main: false on every process but the first, which then write nothing.
        tensorboard: write the same scalars as TensorBoard events into the folder `tensorboard`.
    """

    def __init__(self, run: Path, start: int, *, main: bool, tensorboard: bool) -> None:
        self.path, self.main = run / FILE, main
        self.board: Any = None
        if not main:
            return
        kept = [line for line in read_log(run) if line["step"] <= start]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise TwoStageError("training.tensorboard: needs the extra `tracking` (tensorboard)") from None
            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.board is not None:
            self.board.close()

    def write(self, step: int, scalars: dict[str, float], warnings: Sequence[str] = ()) -> None:
        """Append one line, and say the warnings on standard error as well.

        Raises:
            TwoStageError: the file system refused.
        """
        if not self.main:
            return
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3), **scalars}
        if warnings:
            line["warnings"] = list(warnings)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise TwoStageError(f"{self.path}: could not be written ({error.strerror})") from error
        if self.board is not None:
            for name, value in scalars.items():
                self.board.add_scalar(name, value, step)
        for warning in warnings:
            with tqdm.external_write_mode(file=sys.stderr):  # not into the middle of the progress bar
                warn(warning, stacklevel=2)


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, oldest first; a last line cut off by a crash is left out."""
    path = run / FILE
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
