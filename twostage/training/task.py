"""What the loop trains: a task holds a model and knows its loss; the loop knows neither."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


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


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """What a task adds to a line of the log: scalars about all steps since the last one, and warnings to be read."""

    scalars: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Task(nn.Module):
    """A model and how it learns. `model` is what is averaged (EMA) and saved; `forward` gives the loss of a batch.

    Everything a task needs to go on after a restart is in its state_dict. Randomness comes from torch's default
    generator, which the loop seeds from the run's seed, the step and the process before every step.
    """

    model: nn.Module

    def before_step(self, progress: Progress) -> None:
        """Called before every optimiser step, in training mode: phases and schedules."""

    def before_descent(self, optimizer: Optimizer) -> None:
        """Called after it, when all gradients are there and finite: for what the optimiser remembers of before."""

    def players(self) -> Sequence[nn.Module]:
        """Parts that between them hold every parameter; the gradient of each is clipped by its own norm."""
        return [self]

    def log_line(self, step: int) -> LogLine:
        """Called on every process when a line is due, after `step` steps."""
        return LogLine()

    def forward(self, batch: dict[str, Any]) -> StepOutput:
        raise NotImplementedError
