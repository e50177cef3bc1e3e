"""Code search: the nearest row of a table for every row of another, in chunks of bounded memory."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["l2", "cosine"]

WORKSPACE = 2**22
"""Similarities held at a time (16 MiB in float32)."""


def similarity(rows: Tensor, table: Tensor, distance: Distance) -> Tensor:
    """How near every row is to every entry of the table: -||r - t||^2 for l2, cos(r, t) for cosine.

    Args:
        rows: [n, d].
        table: [m, d].

    Returns:
        [n, m]; larger is nearer.
    """
    if distance == "cosine":
        return F.normalize(rows, dim=1) @ F.normalize(table, dim=1).T
    squares = rows.square().sum(1, keepdim=True) + table.square().sum(1)
    return torch.addmm(squares, rows, table.T, beta=-1, alpha=2)


@torch.no_grad()
def nearest(rows: Tensor, table: Tensor, distance: Distance) -> Tensor:
    """For every row the index of the nearest entry of the table; the lowest index among equals.

    Args:
        rows: [n, d].
        table: [m, d].

    Returns:
        int64 [n] in 0..m-1.
    """
    if distance == "cosine":  # the row's own norm changes no argmax
        table, offset = F.normalize(table, dim=1), table.new_zeros(1)
    else:
        offset = table.square().sum(1).mul(-0.5)
    chunk = max(1, WORKSPACE // len(table))
    return torch.cat([torch.addmm(offset, part, table.T).argmax(1) for part in rows.split(chunk)])
