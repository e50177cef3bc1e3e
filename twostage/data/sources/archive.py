"""Zip and tar archives, read where they lie: the place of every file in them is listed once, then read directly."""

import os
import struct
import tarfile
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from twostage.data.images import SPLIT_FOLDERS
from twostage.data.sources.base import Source, is_hidden, is_image, sorted_names
from twostage.data.sources.listing import Arrays, kept, stamp
from twostage.errors import TwoStageError

LOCAL_HEADER = struct.Struct("<26xHH")
"""What precedes a file in a zip archive: 30 bytes, the last four the lengths of a name and of extra fields."""

SPLITS = {name.encode() for names in SPLIT_FOLDERS.values() for name in names}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZipArchive(Source):
    """The files in a zip archive, stored or deflated; folders around all of them are left out of the names.

    Raises:
        TwoStageError: it cannot be read, is encrypted, or compressed by another method.
    """

    def __init__(self, place: Path) -> None:
        self.entries = _arranged(_without_wrapper(kept("zip", [place], lambda: _list_zip(place))))
        self.stamp = stamp(place)
        super().__init__(place, self.entries["names"])

    def read(self, index: int) -> bytes:
        offset, size, crc, method = (int(self.entries[key][index]) for key in ("offset", "size", "crc", "method"))
        lengths = LOCAL_HEADER.unpack(read_at(self.place, self.stamp, offset, LOCAL_HEADER.size))
        data = read_at(self.place, self.stamp, offset + LOCAL_HEADER.size + sum(lengths), size)
        if method == zipfile.ZIP_DEFLATED:
            data = zlib.decompress(data, -zlib.MAX_WBITS)
        if zlib.crc32(data) != crc:
            raise ValueError("its checksum in the archive is another")
        return data


class TarArchives(Source):
    """The files in one tar archive, or in all archives below a folder, where each counts as a folder of its own.

    Raises:
        TwoStageError: one cannot be read, or is compressed.
    """

    def __init__(self, place: Path, archives: list[Path]) -> None:
        self.archives = archives
        entries = kept("tar", archives, lambda: _list_tars(archives))
        alone = archives == [place]
        self.entries = _arranged(
            _without_wrapper(entries) if alone else _below_their_archives(entries, place, archives)
        )
        self.stamps = [stamp(path) for path in archives]
        super().__init__(place, self.entries["names"])

    def read(self, index: int) -> bytes:
        archive, offset, size = (int(self.entries[key][index]) for key in ("archive", "offset", "size"))
        return read_at(self.archives[archive], self.stamps[archive], offset, size)


@lru_cache(maxsize=128)
def _opened(path: Path, _: tuple[int, int]) -> BinaryIO:
    return path.open("rb", buffering=0)


def read_at(path: Path, stamp: tuple[int, int], offset: int, size: int) -> bytes:
    """Bytes of a file, which stays open; several threads and processes may share it, for it has no position.

    Raises:
        OSError: the file ends before.
    """
    data = os.pread(_opened(path, stamp).fileno(), size, offset)
    if len(data) != size:
        raise OSError(f"the archive ends {size - len(data)} bytes too early")
    return data


def _list_zip(place: Path) -> Arrays:
    try:
        with zipfile.ZipFile(place) as archive:
            found = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise TwoStageError(f"{place}: is no zip archive that can be read ({error})") from None
    for info in found:
        if info.flag_bits & 1 or info.compress_type not in METHODS:
            raise TwoStageError(f"{place}: {info.filename} is encrypted or compressed otherwise; allowed: deflated")
    return {
        "names": _encoded([info.filename for info in found]),
        "offset": np.array([info.header_offset for info in found], dtype=np.int64),
        "size": np.array([info.compress_size for info in found], dtype=np.int64),
        "crc": np.array([info.CRC for info in found], dtype=np.int64),
        "method": np.array([info.compress_type for info in found], dtype=np.int64),
    }


def _list_tars(archives: list[Path]) -> Arrays:
    rows: list[tuple[str, int, int, int]] = []
    for i, path in enumerate(archives):
        try:
            with tarfile.open(path, "r:") as tar:
                rows += [(member.name, i, member.offset_data, member.size) for member in tar if member.isreg()]
        except (OSError, tarfile.TarError) as error:
            allowed = "allowed: uncompressed tar archives"
            raise TwoStageError(f"{path}: is no tar archive that can be read ({error}); {allowed}") from None
    names, *numbers = zip(*rows) if rows else ((), (), (), ())
    columns = {key: np.array(column, np.int64) for key, column in zip(("archive", "offset", "size"), numbers)}
    return {"names": _encoded([name.removeprefix("./") for name in names]), **columns}


def _below_their_archives(entries: Arrays, place: Path, archives: list[Path]) -> Arrays:
    """With the name of the archive before that of the file."""
    prefixes = [os.fsencode(path.relative_to(place)) + b"/" for path in archives]
    names = [prefixes[i] + name for i, name in zip(entries["archive"].tolist(), entries["names"].tolist())]
    return {**entries, "names": np.array(names) if names else entries["names"]}


def _encoded(names: list[str]) -> np.ndarray:
    return np.array([os.fsencode(name) for name in names]) if names else sorted_names([])


def _without_wrapper(entries: Arrays) -> Arrays:
    """Archives are often of a folder: its name is taken off, unless it is a split's or the images would be in none."""
    names = entries["names"].tolist()
    paths = [name for name in names if is_image(name) and not is_hidden(name)]
    wrapper, depth = b"", min((path.count(b"/") for path in paths), default=0)
    while depth > 1 and len(heads := {path.split(b"/")[0] for path in paths}) == 1 and not heads & SPLITS:
        wrapper, depth = wrapper + heads.pop() + b"/", depth - 1
        paths = [path.split(b"/", 1)[1] for path in paths]
    return {**entries, "names": np.array([name.removeprefix(wrapper) for name in names])} if wrapper else entries


def _arranged(entries: Arrays) -> Arrays:
    """Without hidden files, sorted by name."""
    names = entries["names"]
    shown = np.array([not is_hidden(name) for name in names.tolist()], dtype=bool)
    order = np.flatnonzero(shown)[np.argsort(names[shown], kind="stable")]
    return {key: column[order] for key, column in entries.items()}
