"""LMDB databases of encoded images, as LSUN is published (Yu et al., "LSUN", 2015)."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.sources.base import Source, sorted_names
from twostage.data.sources.listing import kept
from twostage.errors import TwoStageError
from twostage.lazy import optional

DATA = "data.mdb"


class Database(Source):
    """The values in an LMDB database by their keys, which are listed once and kept; opened for reading, without a lock.

    Raises:
        TwoStageError: lmdb is not installed, or this is no such database.
    """

    def __init__(self, place: Path) -> None:
        super().__init__(place, kept("lmdb", [place / DATA], lambda: {"names": _keys(place)})["names"])

    def read(self, index: int) -> bytes:
        with environment(self.place).begin() as transaction:
            value = transaction.get(bytes(self.names[index]))
        if value is None:
            raise KeyError("the database no longer holds this key")
        return value


_environments: dict[str, tuple[int, Any]] = {}
_opening = threading.Lock()


def environment(place: Path) -> Any:
    """The database, opened once in every process: twice is not allowed, nor what a parent process has opened.

    Raises:
        TwoStageError: lmdb is not installed, or this is no such database.
    """
    path = os.path.realpath(place)
    with _opening:
        owner, opened = _environments.get(path, (0, None))
        if owner != os.getpid():
            if opened is not None:
                opened.close()
            _environments[path] = os.getpid(), (opened := _open(place))
    return opened


def _open(place: Path) -> Any:
    lmdb = optional("lmdb", extra="lsun")
    try:
        return lmdb.open(str(place), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise TwoStageError(f"{place}: is no LMDB database that can be read ({error})") from None


def _keys(place: Path) -> np.ndarray:
    with environment(place).begin() as transaction:
        return sorted_names(list(transaction.cursor().iternext(values=False)))
