"""The order of a stream: a permutation in which few row groups are needed at a time, by few readers."""

import pytest
import torch

from twostage.data.loader import Order
from twostage.data.streamed import TURN, in_lanes


def epoch(sizes, lanes=4, window=64, seed=0):
    return in_lanes(torch.tensor(sizes), lanes, window, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [[100] * 60, [7, 0, 300, 1, 1000, 64] * 3, [5], [TURN * 4 - 1], [TURN * 4]])
@pytest.mark.parametrize(("lanes", "window"), [(1, 32), (4, 64), (4, 33), (32, 1000)])
def test_every_row_comes_once(sizes, lanes, window):
    found = epoch(sizes, lanes, window)
    assert found.dtype == torch.int64
    assert found.sort().values.tolist() == list(range(sum(sizes)))


def test_the_generator_decides():
    sizes = [100] * 60
    assert torch.equal(epoch(sizes, seed=1), epoch(sizes, seed=1))
    assert (epoch(sizes, seed=1) == epoch(sizes, seed=2)).float().mean() < 0.01


def test_neighbours_are_torn_apart():
    """Rows sorted by class, 300 of each: a batch of 256 from 4 lanes has more than the 1 or 2 classes of a file."""
    classes = epoch([100] * 120, lanes=4, window=500) // 300
    assert sum(len(batch.unique()) for batch in classes[: 40 * 256].split(256)) / 40 > 8
    assert len(classes[:2000].unique()) > 10


def test_groups_are_needed_for_a_while_and_then_no_more():
    """4 lanes with windows of 100 rows, groups of 100: a group's rows come within three windows of its lane."""
    found = epoch([100] * 64, lanes=4, window=100)
    places = found.argsort().view(64, 100)  # the place of each row, group by group
    assert (places.amax(1) - places.amin(1)).max() < 4 * 300 + 4 * TURN
    everywhere = torch.randperm(6400, generator=torch.Generator().manual_seed(0)).argsort().view(64, 100)
    assert (everywhere.amax(1) - everywhere.amin(1)).min() > 4 * 300 + 4 * TURN


@pytest.mark.parametrize(
    ("world", "workers", "times"), [(1, 1, 1), (1, 2, 1), (1, 4, 2), (2, 1, 1), (2, 2, 1), (4, 2, 1)]
)
def test_processes_and_workers_read_different_groups(world, workers, times):
    """8 lanes, batches of 4 turns: up to four processes with two workers each; of more, two read the same. Worker w
    takes every so many-th batch from the w-th on."""
    found = epoch([100] * 80, lanes=8, window=100)
    groups = []
    for rank in range(world):
        order = Order(count=8000, batch_size=4 * TURN, steps=62, rank=rank, world=world, shuffled=lambda _: found)
        batches = list(order)
        groups += [{i // 100 for batch in batches[worker::workers] for i in batch} for worker in range(workers)]
    assert sum(map(len, groups)) <= times * 80 + 8 + 8  # ends of lanes lie within groups, and rows are left at the end


def test_lanes_do_not_need_new_groups_all_at_once():
    found = epoch([100] * 80, lanes=8, window=100) // 100
    seen: set[int] = set()
    new = []
    for turns in found[: 24 * 8 * TURN].split(8 * TURN):
        new.append(len(set(turns.tolist()) - seen))
        seen.update(turns.tolist())
    assert sum(new) > 70
    assert max(new[1:]) < 8
