"""Evaluation on several processes: started by torchrun, each takes its share of files, the first one reports."""

import os
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=2)
"""How long one process waits for another to finish its share."""


def join_processes() -> None:
    """Meet the other processes of torchrun, if there are any; with gloo, or on GPUs with NCCL."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def is_first() -> bool:
    """Whether this process reports."""
    from twostage.training.distributed import rank

    return rank() == 0


def gather(mine: Any) -> list[Any]:
    """What every process holds, in rank order, on every process."""
    from twostage.training.distributed import world_size

    if world_size() == 1:
        return [mine]
    from torch import distributed

    found: list[Any] = [None] * world_size()
    distributed.all_gather_object(found, mine)
    return found
