"""What the loop trains: a task holds a model and knows its loss; the loop knows neither."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """The loss to descend, a scalar, and detached scalars for the log."""

    loss: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is: optimiser steps done, out of how many, and whole passes over the data."""

    step: int
    steps: int
    epoch: int


class Task(nn.Module):
    """A model and how it learns. `model` is what is averaged (EMA) and saved; `forward` gives the loss of a batch.

    Everything a task needs to go on after a restart is in its state_dict. Randomness comes from torch's default
    generator, which the loop seeds from the run's seed, the step and the process before every step.
    """

    model: nn.Module

    def before_step(self, progress: Progress) -> None:
        """Called before every optimiser step, in training mode: phases and schedules."""

    def forward(self, batch: dict[str, Any]) -> StepOutput:
        raise NotImplementedError
