"""Parquet files that are read where they lie, on a disk or behind a URL, a group of rows at a time.

A Parquet file ends with a table of its row groups, so that any of them can be read without what comes before. A row of
a group costs reading the group; one after another they cost no more than their bytes.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from twostage.data.sources.base import Source
from twostage.errors import TwoStageError, refuse

THREADS = 16
"""Files and columns that are asked for at once, before images are."""

LARGEST = 2**28
"""Bytes of a row group: many of them are in memory together."""


@dataclass(frozen=True)
class ParquetFile:
    """One file, and what its last bytes say of it."""

    url: str
    metadata: pq.FileMetaData

    @classmethod
    def at(cls, url: str) -> "ParquetFile":
        """Read the last bytes.

        Raises:
            TwoStageError: they cannot be read, or are not those of a Parquet file.
        """
        try:
            with fsspec.open(url, "rb") as file:
                return cls(url, pq.read_metadata(file))
        except Exception as error:  # whatever file systems and the network raise
            raise TwoStageError(f"{url}: could not be read as a Parquet file ({_reason(error)})") from None

    def group(self, number: int, column: str) -> Any:
        """One column of a row group.

        Raises:
            TwoStageError: it cannot be read.
        """
        try:
            with fsspec.open(self.url, "rb") as file:  # opened anew: an open one does not survive a fork
                reader = pq.ParquetFile(file, metadata=self.metadata)
                return reader.read_row_group(number, columns=[column], use_threads=False).column(0)
        except Exception as error:  # whatever file systems and the network raise
            raise TwoStageError(f"{self.url}: row group {number}: could not be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass
class _Group:
    """The images of a row group, and how many of them nobody has asked for yet."""

    images: Any
    unread: int


class RowGroups(Source):
    """The rows of Parquet files, in their order; the names are the rows' numbers.

    A group stays in memory until each of its rows was read once, or until `held` others came after it.

    Attributes:
        starts: int64 [groups + 1], the first row of every group and the number of rows.
        column_names, features: as `datasets` has them.

    Args:
        urls: of the files, as fsspec knows them.

    Raises:
        TwoStageError: a file cannot be read, has other columns than the first, or row groups that are too large.
    """

    def __init__(self, place: Path, urls: Sequence[str]) -> None:
        from datasets import Features

        with ThreadPool(THREADS) as pool:
            self.files = list(_shown(pool.imap(ParquetFile.at, urls), "looking at Parquet files", len(urls)))
        self.features: Mapping[str, Any] = Features.from_arrow_schema(self.files[0].metadata.schema.to_arrow_schema())
        self.column_names = list(self.features)
        self.groups = [(file, group) for file in self.files for group in range(file.metadata.num_row_groups)]
        self._check()
        sizes = [file.metadata.row_group(group).num_rows for file, group in self.groups]
        self.starts = np.cumsum([0, *sizes], dtype=np.int64)
        self.image_column, self.held = "", 1
        self._held: OrderedDict[int, _Group] = OrderedDict()
        super().__init__(place, np.arange(self.starts[-1]))

    def _check(self) -> None:
        for file in self.files:
            columns = file.metadata.schema.to_arrow_schema().names
            if columns != self.column_names:
                raise refuse(f"{file.url}: columns", ", ".join(columns), ", ".join(self.column_names))
        for file, group in self.groups:
            size = file.metadata.row_group(group).total_byte_size
            if size > LARGEST:
                allowed = f"up to {LARGEST >> 20} MB; write the file anew, with row_group_size=100"
                raise refuse(f"{file.url}: size of row group {group}", f"{size >> 20} MB", allowed)

    def where(self, index: int) -> str:
        return f"{self.place}, row {self.names[index]}"

    def read(self, index: int) -> bytes:
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        row = self._group(group)[int(index - self.starts[group])].as_py()
        data = row["bytes"] if isinstance(row, dict) else row
        if data is None:
            raise ValueError("holds no bytes, but at most a path")
        return data

    def _group(self, number: int) -> Any:
        if number not in self._held:
            file, group = self.groups[number]
            images = file.group(group, self.image_column)
            while len(self._held) >= self.held:
                self._held.popitem(last=False)
            self._held[number] = _Group(images, unread=len(images))
        found = self._held[number]
        self._held.move_to_end(number)
        found.unread -= 1
        if found.unread == 0:
            del self._held[number]
        return found.images

    def first(self, column: str) -> Any:
        """The value of a column in the first row; None without rows."""
        found = [file.group(group, column) for file, group in self.groups[:1]]
        return next((values[0].as_py() for values in found if len(values)), None)

    def __getitem__(self, column: str) -> list[Any]:
        """All values of a column."""
        with ThreadPool(THREADS) as pool:
            parts = pool.imap(lambda place: place[0].group(place[1], column).to_pylist(), self.groups)
            return [value for part in _shown(parts, f"reading {column}s", len(self.groups)) for value in part]


def _shown(parts: Any, what: str, count: int) -> Any:
    """With a bar, should they take longer than some seconds."""
    return tqdm(parts, desc=what, total=count, dynamic_ncols=True, delay=5)
