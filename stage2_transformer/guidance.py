"""Classifier-free guidance of codes: "Classifier-Free Diffusion Guidance" (Ho and Salimans, 2022), on logits.

    l_i = u_i + s_i (c_i - u_i),   s_i = 1 + (s - 1) (i / n)^p,   i = 0 .. n - 1

c_i are the logits of code i for the class, u_i those for "no class". With p > 0 guidance grows along the sequence, as
in "Muse" (Chang et al., 2023; p = 1) and, with (1 - cos(pi x^p)) / 2 in place of x^p, in "Randomized Autoregressive
Visual Generation" (Yu et al., 2024): the first codes stay diverse, the last ones fit the class. It can be left to a
part of the sequence, as diffusion does in "Applying Guidance in a Limited Interval" (Kynkaanniemi et al., 2024).
"""

import math
from dataclasses import dataclass

from torch import Tensor

from twostage.errors import refuse


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How a class steers the codes.

    Attributes:
        scale: s; 1 means no guidance.
        power: p, at least 0; 0 means the same guidance everywhere.
        interval: the part of the sequence in which guidance acts, from 0 (before the first code) to 1 (after the last).
    """

    scale: float = 1.0
    power: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise refuse("guidance_scale", self.scale, "a finite number; 1 means no guidance")
        if not 0 <= self.power < math.inf:
            raise refuse("guidance_power", self.power, "a finite number of at least 0; 0 means the same everywhere")
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise refuse("guidance_interval", self.interval, "two numbers 0 <= first <= last <= 1, of the sequence")

    def at(self, i: int, n: int) -> float:
        """s_i of n; 1 where there is nothing to do."""
        place = i / n
        acts = self.interval[0] <= place < self.interval[1]
        return 1 + (self.scale - 1) * place**self.power if acts else 1.0


def combine(logits: Tensor, scale: float) -> Tensor:
    """Logits [2 b, K] for b classes, then for as many "no class", guided by s_i: [b, K]."""
    conditional, unconditional = logits.chunk(2)
    return unconditional + scale * (conditional - unconditional)
