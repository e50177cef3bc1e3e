"""What every place of encoded images has in common."""

import os
from pathlib import Path

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".npy")
_SUFFIXES = tuple(os.fsencode(suffix) for suffix in SUFFIXES)


class Source:
    """Files, or what stands for them, in a fixed order, each read when asked for; safe in several processes at once.

    Attributes:
        place: the file or folder that holds them.
        names: bytes [n], sorted: paths below `place`, or keys. One block of memory, which loader workers share.
    """

    def __init__(self, place: Path, names: np.ndarray) -> None:
        self.place, self.names = place, names

    def __len__(self) -> int:
        return len(self.names)

    def where(self, index: int) -> str:
        """What to call it in a message."""
        return f"{self.place}/{os.fsdecode(self.names[index])}"

    def read(self, index: int) -> bytes:
        """Its contents.

        Raises:
            Exception: of any kind, when they cannot be had.
        """
        raise NotImplementedError

    def below(self, folder: bytes) -> np.ndarray:
        """Indices of the names that begin with `folder/`; of all names where `folder` is empty."""
        if not folder:
            return np.arange(len(self))
        return np.arange(*np.searchsorted(self.names, [folder + b"/", folder + b"0"]))  # "0" comes next after "/"

    def find(self, name: bytes) -> int | None:
        """The index of one name."""
        index = int(np.searchsorted(self.names, name))
        return index if index < len(self) and self.names[index] == name else None


def sorted_names(names: list[bytes]) -> np.ndarray:
    """Names as bytes [n], sorted."""
    return np.array(sorted(names)) if names else np.array([], dtype="S1")


def is_hidden(path: bytes) -> bool:
    """Whether a part of the path begins with a dot, or is what macOS puts into archives."""
    return path.startswith(b".") or b"/." in path or path.startswith(b"__MACOSX/")


def is_image(name: bytes) -> bool:
    """Whether a file's name is that of an image."""
    return name.lower().endswith(_SUFFIXES)
