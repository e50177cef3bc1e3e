"""Which class each sample of an evaluation has; the choice for sample i does not depend on how many there are.

Classes that take turns and classes drawn at random give FIDs that differ, so a row says which it was.
"""

from collections.abc import Sequence

import numpy as np

from twostage.data.loader import mix
from twostage.metrics.generation_protocols import ClassChoice

DRAW = 1
"""Keeps the number that decides an image's class apart from the one that decides its noise."""


def choose_classes(
    choice: ClassChoice, count: int, num_classes: int, *, seed: int, frequencies: Sequence[int] = ()
) -> list[int | None]:
    """A class id for each of `count` samples; None for a model without classes.

    Args:
        frequencies: how many real images each class has, for the choice "data".
    """
    if num_classes == 0:
        return [None] * count
    if choice == "balanced":
        return [i % num_classes for i in range(count)]
    ends = np.cumsum(frequencies if choice == "data" else [1] * num_classes)
    return [int(np.searchsorted(ends, mix(seed, i, DRAW) % int(ends[-1]), side="right")) for i in range(count)]
