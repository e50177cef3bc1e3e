import pytest
import torch

from twostage.training import noise
from twostage.training.noise import rand_rows, randint_rows, randn_rows

DRAWS = {
    "normal": lambda rows: randn_rows(rows, 3, 2),
    "normal, one": randn_rows,
    "uniform": rand_rows,
    "uniform, more": lambda rows: rand_rows(rows, 5),
    "integers": lambda rows: randint_rows(rows, 7),
    "integers, more": lambda rows: randint_rows(rows, 7, 5),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("world", [2, 3])
def test_the_parts_of_a_batch_draw_what_the_whole_draws(monkeypatch, draw, world):
    torch.manual_seed(5)
    whole = draw(torch.empty(12, 4))
    parts = []
    for rank in range(world):
        monkeypatch.setattr(noise, "world_size", lambda: world)
        monkeypatch.setattr(noise, "rank", lambda rank=rank: rank)
        torch.manual_seed(5)
        parts.append(draw(torch.empty(12 // world, 4)))
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_two_draws_differ_and_the_default_generator_decides(draw):
    rows = torch.empty(64, 1)
    torch.manual_seed(0)
    first, second = draw(rows), draw(rows)
    torch.manual_seed(0)
    assert torch.equal(draw(rows), first)
    assert not torch.equal(first, second)


def test_what_is_drawn():
    rows = torch.empty(20_000, 1, dtype=torch.float64)
    normal, uniform, integers = randn_rows(rows, 2), rand_rows(rows), randint_rows(rows, 3)
    assert normal.shape == (20_000, 2)
    assert normal.mean().abs() < 0.03
    assert (normal.std() - 1).abs() < 0.03
    assert uniform.shape == integers.shape == (20_000,)
    assert 0 <= uniform.min() < 0.01 < 0.99 < uniform.max() < 1
    assert integers.dtype == torch.int64
    assert integers.bincount().min() > 6_400
    assert len(integers.unique()) == 3
