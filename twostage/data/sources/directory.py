"""The files below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from twostage.data.sources.base import Source, sorted_names
from twostage.errors import TwoStageError


class Directory(Source):
    """Every file below a folder, hidden ones passed over. Links are followed, unless they lead back to where they lie.

    A link to a file that is not there is listed, so that it is missed when it is read rather than never.

    Raises:
        TwoStageError: a folder below cannot be read.
    """

    def __init__(self, place: Path) -> None:
        try:
            names = sorted_names(list(_files_below(os.fsencode(place))))
        except OSError as error:
            raise TwoStageError(f"{error.filename or place}: could not be read ({error.strerror})") from None
        super().__init__(place, names)

    def read(self, index: int) -> bytes:
        with open(os.path.join(os.fsencode(self.place), self.names[index]), "rb") as file:
            return file.read()


def _files_below(root: bytes) -> Iterator[bytes]:
    """Paths relative to `root`, in no order; two million take some seconds."""
    waiting: list[tuple[bytes, bytes, tuple[bytes, ...]]] = [(root, b"", (os.path.realpath(root),))]
    while waiting:
        folder, prefix, entered = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                if not entry.is_dir():
                    yield prefix + entry.name
                    continue
                inside = entered
                if entry.is_symlink():
                    inside = (*entered, os.path.realpath(folder), target := os.path.realpath(entry.path))
                    if _leads_back(target, inside[:-1]):
                        continue
                waiting.append((entry.path, prefix + entry.name + b"/", inside))


def _leads_back(target: bytes, folders: tuple[bytes, ...]) -> bool:
    """Whether a folder is, or holds, one of `folders`."""
    return any(folder == target or folder.startswith(target.rstrip(b"/") + b"/") for folder in folders)
