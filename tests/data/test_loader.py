from itertools import chain

import pytest
import torch
from torch.utils.data import Dataset

from twostage.data.loader import Order, mix, ordered_batches, training_batches
from twostage.errors import TwoStageError


class Numbers(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"number": torch.tensor(index)}


def order(**options: int) -> Order:
    return Order(**{"count": 20, "batch_size": 8, "steps": 15, **options})


@pytest.mark.parametrize(("count", "batch_size"), [(20, 8), (20, 20), (7, 3), (3, 8), (1, 4)])
def test_every_epoch_visits_every_example_once(count: int, batch_size: int) -> None:
    """Also where a batch spans two epochs, or several."""
    seen = list(chain(*order(count=count, batch_size=batch_size, steps=count * 4)))
    epochs = [seen[i : i + count] for i in range(0, len(seen), count)]
    assert len(epochs) == 4 * batch_size
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert count < 7 or len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2


def test_the_seed_decides_the_order() -> None:
    assert list(order(seed=3)) == list(order(seed=3))
    assert list(order(seed=3)) != list(order(seed=4))


def test_an_order_can_be_walked_twice() -> None:
    batches = order()
    assert list(batches) == list(batches)


def test_no_global_randomness() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(order())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_processes_take_slices_of_every_micro_batch(world: int, accumulation: int) -> None:
    whole = list(order(accumulation=accumulation))
    shares = [list(order(accumulation=accumulation, rank=rank, world=world)) for rank in range(world)]
    assert len(whole) == 15 * accumulation
    assert [list(chain(*parts)) for parts in zip(*shares)] == whole
    assert {len(part) for part in chain(*shares)} == {8 // accumulation // world}


def test_micro_batches_are_slices_of_the_batch() -> None:
    whole, parts = list(order()), list(order(accumulation=2))
    assert [parts[i] + parts[i + 1] for i in range(0, len(parts), 2)] == whole


@pytest.mark.parametrize("start", [0, 1, 7, 14, 15])
@pytest.mark.parametrize("count", [20, 3])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_starting_later_is_skipping(start: int, count: int, accumulation: int) -> None:
    whole = list(order(count=count, accumulation=accumulation))
    late = order(count=count, accumulation=accumulation, start_step=start)
    assert list(late) == whole[start * accumulation :]
    assert len(late) == len(list(late))


@pytest.mark.parametrize(("accumulation", "world", "multiple"), [(3, 1, 3), (1, 3, 3), (4, 4, 16)])
def test_a_batch_that_cannot_be_shared_is_refused(accumulation: int, world: int, multiple: int) -> None:
    with pytest.raises(TwoStageError, match=rf"training\.batch_size: 8 .* a multiple of {multiple} "):
        order(accumulation=accumulation, world=world)


def test_no_data_is_refused() -> None:
    with pytest.raises(TwoStageError, match="at least one example"):
        order(count=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_batches_follow_the_order(workers: int) -> None:
    batches = training_batches(Numbers(20), order(start_step=12), workers)
    assert [batch["number"].tolist() for batch in batches] == list(order(start_step=12))


def test_training_batches_do_not_touch_global_randomness() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(training_batches(Numbers(20), order(), 0))
    assert torch.equal(torch.get_rng_state(), state)


def test_ordered_batches_give_everything_once() -> None:
    batches = [batch["number"].tolist() for batch in ordered_batches(Numbers(10), 4)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_mix() -> None:
    seeds = {mix(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed % 1000 for seed in seeds}) > 550  # 632 expected of random numbers
