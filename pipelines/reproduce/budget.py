"""How long every row of a table is trained, and what of a config stretches with it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twostage.config import override
from twostage.errors import refuse

STRETCHED: Mapping[str, int] = {
    "warm_start.steps": 0,
    "optimizer.warmup_steps": 0,
    "quantizer.freeze_encoder_at": 0,
    "training.checkpoint_every": 1,
    "training.log_every": 1,
}
"""Keys that count steps, and the least that each may be. In a table a number with a point is a share of the budget."""


@dataclass(frozen=True)
class Budget:
    """So many passes over the training images, or so many steps."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: Any) -> "Budget":
        """From "3epochs", "0.5epochs" or "2000steps".

        Raises:
            TwoStageError: it is none of these, or zero.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(epoch|step)s?", str(text))
        amount = float(found[1]) if found else 0.0
        if found is None or amount == 0 or (found[2] == "step" and not amount.is_integer()):
            raise refuse("budget", text, "epochs or whole steps, such as 3epochs or 2000steps")
        return cls(amount, f"{found[2]}s")

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit.removesuffix('s') if self.amount == 1 else self.unit}"

    def steps(self, images: int, batch_size: int) -> int:
        """Optimiser steps on a data set with so many training images."""
        return math.ceil(self.amount * images / batch_size) if self.unit == "epochs" else int(self.amount)


def stretch(values: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The values of a config with every share of the budget as steps, rounded down."""
    shares = {key: _at(values, key) for key in STRETCHED}
    return override(
        values,
        [
            f"{key}={max(STRETCHED[key], int(share * steps))}"
            for key, share in shares.items()
            if isinstance(share, float) and 0 <= share < 1
        ],
    )


def _at(values: Any, key: str) -> Any:
    """What stands at a key path; None where nothing does."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
