"""Random numbers for the rows of a batch that do not depend on how many processes share it.

The first process's default generator, which the loop seeds before every step, gives all of them one seed. Each draws
the numbers of the whole batch from it and keeps those of its own rows: little work beside that of a network.

Process r holds the r-th slice and all hold as many rows, as `twostage.data.loader.Order` deals them. These functions
wait for all processes: call them in training only, on every process, as often on each.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from twostage.training.distributed import rank, shared_seed, world_size


def randn_rows(rows: Tensor, *shape: int) -> Tensor:
    """Standard normal numbers for every row of x [b, ...]: [b, *shape], on its device."""
    return _draw(torch.randn, rows, shape)


def rand_rows(rows: Tensor, *shape: int) -> Tensor:
    """Numbers in 0..1, 1 left out, for every row of x [b, ...]: [b, *shape], on its device."""
    return _draw(torch.rand, rows, shape)


def randint_rows(rows: Tensor, high: int, *shape: int) -> Tensor:
    """Integers in 0..high - 1 for every row of x [b, ...]: int64 [b, *shape], on its device."""
    return _draw(partial(torch.randint, high), rows, shape)


def _draw(draw: Callable[..., Tensor], rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator(rows.device).manual_seed(shared_seed(rows.device))
    whole = draw((world_size() * len(rows), *shape), generator=generator, device=rows.device)
    return whole[rank() * len(rows) :][: len(rows)]
