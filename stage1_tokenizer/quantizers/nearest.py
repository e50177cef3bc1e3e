"""Code search: the nearest row of a table for every row of another, in chunks of bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["l2", "cosine"]

WORKSPACE = 2**20
"""Similarities held at a time on a CPU: 4 MiB in float32, so that the search finds them in its caches."""

ACCELERATOR_WORKSPACE = 2**26
"""The same on other devices, where few large products are the faster ones."""

FEWEST_ROWS = 16
"""Rows held at a time, however long the table is; with fewer, the matrix product is mostly overhead."""

TILE = 64
"""Width of the tiles in which the search looks for a maximum first."""


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


def paired_similarity(rows: Tensor, partners: Tensor, distance: Distance) -> Tensor:
    """The `similarity` of every row to the one partner of the same index: [n, d] and [n, d] -> [n]."""
    if distance == "cosine":
        return (F.normalize(rows, dim=1) * F.normalize(partners, dim=1)).sum(1)
    return -(rows - partners).square().sum(1)


@torch.no_grad()
def similarity_chunks(rows: Tensor, table: Tensor, distance: Distance) -> Iterator[tuple[slice, Tensor]]:
    """`similarity` of some rows at a time, less what does not change the order within a row.

    That is: plus ||r||^2 for l2, times ||r|| for cosine.

    Args:
        rows: [n, d].
        table: [m, d].

    Yields:
        Which rows, and their similarities, [c, m]; the next chunk overwrites them.
    """
    workspace = WORKSPACE if rows.device.type == "cpu" else ACCELERATOR_WORKSPACE
    chunk = max(FEWEST_ROWS, workspace // max(1, len(table)))
    if distance == "cosine":
        product, columns = torch.mm, F.normalize(table, dim=1).T.contiguous()
    else:
        product, columns = partial(torch.addmm, -table.square().sum(1)), (2 * table).T.contiguous()
    held = rows.new_empty(min(chunk, len(rows)), len(table))
    for start in range(0, len(rows), chunk):
        where = slice(start, start + chunk)
        part = rows[where]
        yield where, product(part, columns, out=held[: len(part)])


@torch.no_grad()
def nearest(rows: Tensor, table: Tensor, distance: Distance) -> Tensor:
    """For every row the index of the nearest entry of the table; the lowest index among equals.

    Args:
        rows: [n, d].
        table: [m, d].

    Returns:
        int64 [n] in 0..m-1.
    """
    codes = rows.new_empty(len(rows), dtype=torch.int64)
    for where, near in similarity_chunks(rows, table, distance):
        codes[where] = argmax(near)
    return codes


@dataclass(frozen=True)
class Neighbours:
    """Some of the rows that are nearest to every entry of a table, in any order.

    Attributes:
        index: int64 [m, count], of the rows.
        near: [m, count], their similarities; plus ||t||^2 for l2.
    """

    index: Tensor
    near: Tensor


@torch.no_grad()
def nearest_both_ways(rows: Tensor, table: Tensor, count: int, distance: Distance) -> tuple[Tensor, Neighbours]:
    """`nearest`, and from the same similarities the `count` rows nearest to every entry of the table.

    A pass over blocks of the table finds the neighbours, and in which block every row's nearest entry is.

    Args:
        rows: [n, d].
        table: [m, d].
        count: in 1..n.
    """
    entries = F.normalize(table, dim=1) if distance == "cosine" else table
    squares = table.square().sum(1, keepdim=True)
    best, block = rows.new_full((len(rows),), -torch.inf), rows.new_zeros(len(rows), dtype=torch.int64)
    blocks: list[slice] = []
    found: list[tuple[Tensor, Tensor]] = []
    for where, near in similarity_chunks(entries, rows, distance):
        found.append(largest(near, count))
        highest = near.amax(0) if distance == "cosine" else near.sub_(squares[where]).amax(0)
        block = torch.where(highest > best, len(blocks), block)
        best = torch.maximum(highest, best)
        blocks.append(where)
    codes = torch.empty_like(block)
    for i, where in enumerate(blocks):
        members = torch.nonzero(block == i).squeeze(1)
        codes[members] = nearest(rows.index_select(0, members), table[where], distance) + where.start
    near, index = (torch.cat(parts) for parts in zip(*found))
    return codes, Neighbours(index, near)


def argmax(scores: Tensor) -> Tensor:
    """`scores.argmax(1)` of [n, m], several times faster where m is a multiple of `TILE`.

    A CPU finds a maximum much faster than where it is; so it finds that of every tile, and searches one tile.
    """
    n, m = scores.shape
    if m % TILE:
        return scores.argmax(1)
    tiles = scores.view(n, m // TILE, TILE)
    best = tiles.amax(2).argmax(1, keepdim=True)
    return (best * TILE).squeeze(1) + tiles_at(tiles, best).argmax(1)


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of every row of [n, m], in any order, and their indices: both [n, count].

    They lie in the `count` tiles with the largest maxima; only these are searched.
    """
    n, m = scores.shape
    if m % TILE or count * TILE >= m:
        return scores.topk(count, dim=1, sorted=False)
    tiles = scores.view(n, m // TILE, TILE)
    best = tiles.amax(2).topk(count, dim=1, sorted=False).indices
    values, index = tiles_at(tiles, best).topk(count, dim=1, sorted=False)
    return values, best.gather(1, index // TILE) * TILE + index % TILE


def tiles_at(tiles: Tensor, index: Tensor) -> Tensor:
    """Some tiles of every row side by side: [n, t, TILE] and int64 [n, count] -> [n, count * TILE]."""
    n, t, _ = tiles.shape
    first = torch.arange(0, n * t, t, device=tiles.device)[:, None]
    return F.embedding(first + index, tiles.flatten(0, 1)).flatten(1)
