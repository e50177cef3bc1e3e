"""Tables with a column of encoded images, read by the library `datasets`."""

from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.sources.base import Source


class Table(Source):
    """One row an image; the names are the rows' numbers.

    Args:
        rows: a `datasets.Dataset`.
        column: of images.
    """

    def __init__(self, place: Path, rows: Any, column: str) -> None:
        from datasets import Image

        super().__init__(place, np.arange(len(rows)))
        self.rows, self.column = rows.select_columns([column]).cast_column(column, Image(decode=False)), column

    def where(self, index: int) -> str:
        return f"{self.place}, row {self.names[index]}"

    def read(self, index: int) -> bytes:
        row = self.rows[int(index)][self.column]
        return row["bytes"] if row["bytes"] is not None else Path(row["path"]).read_bytes()
