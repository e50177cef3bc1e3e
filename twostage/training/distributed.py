"""What the processes of one run tell each other about the rows of a batch, of which process r holds the r-th slice.

With a single process every function answers for its own input. All of them wait for all processes: call them in
training only, on every process, as often on each.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def meet() -> None:
    """Go on when every process is here."""
    if world_size() > 1:
        dist.barrier()


@torch.no_grad()
def broadcast(x: Tensor) -> Tensor:
    """The first process's x, on every process."""
    if world_size() > 1:
        dist.broadcast(x, src=0)
    return x


@torch.no_grad()
def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's x."""
    if world_size() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def stack_over_processes(x: Tensor) -> Tensor:
    """x of every process in rank order, [world, ...]; its shape must be the same everywhere."""
    if world_size() == 1:
        return x.detach()[None]
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.stack(parts)


@torch.no_grad()
def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes in rank order: [n_r, ...] -> [sum of n_r, ...]; the n_r may differ."""
    if world_size() == 1:
        return x
    counts = row_counts(x)
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    return torch.cat([part[:n] for part, n in zip(stack_over_processes(padded), counts)])


def row_counts(x: Tensor) -> list[int]:
    """How many rows each process holds, in rank order."""
    if world_size() == 1:
        return [len(x)]
    return stack_over_processes(torch.tensor(len(x), device=x.device)).tolist()


@torch.no_grad()
def rows_at(x: Tensor, indices: Tensor) -> Tensor:
    """Rows by their index in the whole batch, without gathering the others.

    Args:
        x: this process's rows, [n_r, ...].
        indices: int64 [m], the same on every process, in 0..sum of n_r - 1.

    Returns:
        [m, ...], the same on every process.
    """
    if world_size() == 1:
        return x[indices]
    local = indices - sum(row_counts(x)[: rank()])
    mine = (local >= 0) & (local < len(x))
    found = x.new_zeros(len(indices), *x.shape[1:])
    found[mine] = x[local[mine]]
    return sum_over_processes(found)


def shared_seed(device: torch.device) -> int:
    """A number in 0..2^62 from the first process's default generator of the CPU, on every process.

    A single process does not wait for its device; of several, each asks the first through its own.
    """
    seed = torch.randint(2**62, ())
    return int(seed if world_size() == 1 else broadcast(seed.to(device)))
