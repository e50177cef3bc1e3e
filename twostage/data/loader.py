"""Batches in an order that depends on the seed alone: any step can be reached without replaying the ones before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from twostage.errors import TwoStageError, refuse


@dataclass(frozen=True, kw_only=True)
class Order(Sampler[list[int]]):
    """The indices of every micro-batch of one process from `start_step` on.

    Each epoch is a permutation of its own, keyed by seed and epoch; epochs follow one another without a gap, so a
    batch may end one and begin the next. Of every micro-batch, process `rank` takes the rank-th slice.

    Args:
        count: examples in the data set.
        batch_size: examples per step, over all processes and accumulation steps.
        accumulation: micro-batches per step.
        start_step, steps: the first step to yield and the step to stop before.
        shuffled: gives the permutation of an epoch, int64 [count]; any is as likely when None.
    """

    count: int
    batch_size: int
    steps: int
    seed: int = 0
    accumulation: int = 1
    rank: int = 0
    world: int = 1
    start_step: int = 0
    shuffled: Callable[[torch.Generator], torch.Tensor] | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise refuse("training data", self.count, "at least one example")
        if self.batch_size % (self.accumulation * self.world):
            raise refuse(
                "training.batch_size",
                self.batch_size,
                f"a multiple of {self.accumulation * self.world} (accumulation {self.accumulation} x "
                f"{self.world} processes)",
            )

    @cached_property
    def _permutations(self) -> dict[int, torch.Tensor]:
        return {}

    def _permutation(self, epoch: int) -> torch.Tensor:
        if epoch not in self._permutations:
            self._permutations.clear()
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            self._permutations[epoch] = (
                torch.randperm(self.count, generator=generator) if self.shuffled is None else self.shuffled(generator)
            )
        return self._permutations[epoch]

    def __len__(self) -> int:
        return (self.steps - self.start_step) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch_size // self.accumulation
        share = size // self.world
        for micro in range(self.start_step * self.accumulation, self.steps * self.accumulation):
            first = micro * size + self.rank * share
            yield [
                int(self._permutation(position // self.count)[position % self.count])
                for position in range(first, first + share)
            ]


@runtime_checkable
class Stream(Protocol):
    """A data set whose examples are cheaper in some orders than in others."""

    def shuffled(self, generator: torch.Generator) -> torch.Tensor:
        """Such an order, int64 [n], a random one."""


def training_batches(dataset: Dataset[Any], order: Order, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """The examples of `order`, stacked into dicts of tensors; a stream has a say in it."""
    if isinstance(dataset, Stream):
        order = replace(order, shuffled=dataset.shuffled)
    return iter(
        _Loader(
            dataset,
            batch_sampler=order,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(order.seed),
        )
    )


def ordered_batches(dataset: Dataset[Any], batch_size: int, workers: int = 0) -> DataLoader[dict[str, torch.Tensor]]:
    """Every example once, in the data set's own order; the last batch may be smaller."""
    return _Loader(dataset, batch_size=batch_size, num_workers=workers)


class _Loader(DataLoader[dict[str, torch.Tensor]]):
    """A user's mistake met in a worker (a corrupt image) is said as it would be without one, not with its traceback."""

    def __iter__(self) -> Any:
        try:
            yield from super().__iter__()
        except TwoStageError as error:
            raise type(error)(str(error).strip().rpartition(f"{type(error).__name__}: ")[2]) from None


def mix(*numbers: int) -> int:
    """A seed in 0..2^63-1 from several non-negative integers; nearby inputs give unrelated seeds."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = ((state ^ number) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
        state = (state * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 32
    return state >> 1
