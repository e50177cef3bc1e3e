"""Listings that take long to make (a million keys, a thousand shards), kept in the user's cache folder."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twostage.errors import TwoStageError
from twostage.files import atomic

Arrays = dict[str, np.ndarray]
WORTH_KEEPING = 10_000
"""Entries from which on a listing is kept."""


def kept(kind: str, files: Sequence[Path], make: Callable[[], Arrays]) -> Arrays:
    """What `make` returns, or what it returned before for the same files.

    Kept below `$XDG_CACHE_HOME/twostage` (`~/.cache/twostage`), one file for each `kind` and list of files, replaced
    when one of these has another size or time of change. Where the folder cannot be written to, nothing is kept.

    Args:
        make: arrays of numbers or bytes, by name; the first decides whether they are worth keeping.
    """
    paths = [os.path.realpath(path) for path in files]
    stamps = np.array([stamp(path) for path in paths], dtype=np.int64)
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not home.is_absolute():
        return make()
    digest = hashlib.sha256("\0".join([kind, *paths]).encode("utf-8", "surrogateescape")).hexdigest()
    place = home / "twostage" / "listings" / f"{digest[:32]}.npz"
    found = _read(place, stamps)
    if found is None:
        found = make()
        if len(next(iter(found.values()))) >= WORTH_KEEPING:
            _write(place, {**found, "stamps": stamps})
    return found


def stamp(path: str | Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds: another content has another stamp."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _read(place: Path, stamps: np.ndarray) -> Arrays | None:
    try:
        with np.load(place, allow_pickle=False) as file:
            if np.array_equal(file["stamps"], stamps):
                return {name: file[name] for name in file.files if name != "stamps"}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        pass
    return None


def _write(place: Path, arrays: Arrays) -> None:
    try:
        with atomic(place) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except TwoStageError:
        pass  # it is made again next time
