"""Images that stay where they lie, encoded, and are decoded when asked for."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from twostage.data.images import ImageDataset, ImageExample, opened, square, to_tensor
from twostage.data.sources.base import Source
from twostage.errors import TwoStageError

Channels = Literal[1, 3]
OnCorrupt = Literal["refuse", "skip"]
STAND_INS = 16
"""So many corrupt images in a row, and something else is wrong."""


class CorruptImage(TwoStageError):
    """One image cannot be read or decoded; it is named, with the reason."""


@dataclass(frozen=True)
class Selection:
    """What a split takes of a source: indices into it int64 [n], labels int64 [n], and the names of the classes.

    Without classes every label is 0.
    """

    indices: np.ndarray
    labels: np.ndarray
    classes: Sequence[str] = ()


def unlabelled(indices: np.ndarray) -> Selection:
    """A selection without classes."""
    return Selection(indices, np.zeros(len(indices), dtype=np.int64))


class StoredImages(ImageDataset):
    """The images of a source that a split takes: cropped to their centre square and resized to H = W = `image_size`.

    Nothing is decoded before it is asked for: a corrupt image is met on the way, or before by `twostage data check`.

    Args:
        channels: 3 converts to RGB, 1 to gray.
        on_corrupt: "refuse" stops at a corrupt image. "skip" warns once of each, and the next good image, with its
            label, stands in for it, so that the number and the order of the images do not depend on which are corrupt.

    Raises:
        CorruptImage: when an image is asked for; under "skip" if so are many that follow it.
    """

    def __init__(
        self,
        source: Source,
        selection: Selection,
        *,
        image_size: int,
        channels: Channels = 3,
        on_corrupt: OnCorrupt = "refuse",
    ) -> None:
        self.source, self.selection, self.classes = source, selection, list(selection.classes)
        self.image_size, self.channels, self.on_corrupt = image_size, channels, on_corrupt
        self._said: set[int] = set()

    def __len__(self) -> int:
        return len(self.selection.indices)

    def __getitem__(self, index: int) -> ImageExample:
        place = range(len(self))[index]
        for stand_in in range(place, place + min(len(self), STAND_INS)):
            try:
                return self._example(stand_in % len(self))
            except CorruptImage as error:
                if self.on_corrupt == "refuse":
                    advice = "`twostage data check` names every such file; on_corrupt: skip goes on without them"
                    raise CorruptImage(f"{error}; {advice}") from None
                if stand_in % len(self) not in self._said:
                    warnings.warn(f"{error}; the next image stands in for it", stacklevel=2)
                self._said.add(stand_in % len(self))
                last = error
        raise CorruptImage(f"{last}; and so are all that should stand in for it")

    def _example(self, place: int) -> ImageExample:
        image = self.encoded(place)
        try:
            picture = square(image.convert("RGB" if self.channels == 3 else "L"), self.image_size)
        except Exception as error:  # see `opened`
            raise self.corrupt(place, error) from None
        return {"images": to_tensor(picture), "class_label": int(self.selection.labels[place])}

    def encoded(self, place: int) -> Image.Image:
        """The image as it is stored, not decoded yet.

        Raises:
            CorruptImage: it cannot be read, or is no image.
        """
        try:
            return opened(self.source.read(self.selection.indices[place]))
        except TwoStageError:
            raise
        except Exception as error:  # see `Source.read` and `opened`
            raise self.corrupt(place, error) from None

    def where(self, place: int) -> str:
        """What an image is called in a message."""
        return self.source.where(self.selection.indices[place])

    def corrupt(self, place: int, error: Exception) -> CorruptImage:
        """What is said of an image that cannot be had."""
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return CorruptImage(f"{self.where(place)}: corrupt ({' '.join(reason.split())})")
