"""What a data set is, for whoever keeps what was computed from it: its component, and the files as they lie there."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from twostage.parts import sha256


def without_place(data: Mapping[str, Any]) -> dict[str, Any]:
    """The component of a data set but for where its files lie; a root that is no path is a name, and stays."""
    return {key: value for key, value in data.items() if key != "root" or not Path(value).exists()}


def listing(data: Mapping[str, Any]) -> str:
    """SHA-256 over name, size and time of change of every file that an option of a data set names, folders wholly."""
    named = {key: Path(value) for key, value in data.items() if key != "name" and isinstance(value, str) and value}
    found = {key: list(_files(path)) for key, path in named.items()}
    return sha256({key: files for key, files in found.items() if files})


def _files(path: Path) -> Iterator[tuple[str, int, int]]:
    paths = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in paths:
        told = file.stat()
        yield str(file.relative_to(path)), told.st_size, told.st_mtime_ns
