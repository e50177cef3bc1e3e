"""Classifier-free guidance: "Classifier-Free Diffusion Guidance" (Ho and Salimans, 2022).

    g = u + s (c - u),   c the prediction for the class, u that for "no class"

Two refinements: only in an interval of the way ("Applying Guidance in a Limited Interval", Kynkaanniemi et al., 2024),
and with the deviation of c restored ("Common Diffusion Noise Schedules and Sample Steps are Flawed", Lin et al., 2023,
Eq. 15-16).
"""

import math
from dataclasses import dataclass

from torch import Tensor

from twostage.errors import refuse


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How a class steers the samples.

    Attributes:
        scale: s; 1 means no guidance.
        rescale: phi in 0..1, how much of the deviation of c is restored.
        interval: the part of the way in which guidance acts, from 0 (clean) to 1 (noise); elsewhere c is used.
    """

    scale: float = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise refuse("guidance_scale", self.scale, "a finite number; 1 means no guidance")
        if not 0 <= self.rescale <= 1:
            raise refuse("guidance_rescale", self.rescale, "a number in 0..1")
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise refuse("guidance_interval", self.interval, "two numbers 0 <= first <= last <= 1, of clean and noise")

    def acts(self, noise: float) -> bool:
        """Whether there is anything to do at this part of the way, 0 (clean) to 1 (noise)."""
        return self.scale != 1.0 and self.interval[0] <= noise <= self.interval[1]

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """g of two predictions [b, d, h, w]."""
        guided = unconditional + self.scale * (conditional - unconditional)
        if self.rescale == 0:
            return guided
        ratio = conditional.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
        return guided * (self.rescale * ratio + (1 - self.rescale))
