"""Noise by hash: uniform, independent, the same however a batch is split; and the draw made from it."""

import math

import pytest
import torch

from stage1_tokenizer.quantizers import noise
from stage1_tokenizer.quantizers.noise import annealed, by_rows, entropy, gumbel, gumbel_softmax, uniform

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float64)


def draw(seed=0, first_row=0, rows=400, columns=500, dtype=torch.float64, of=uniform):
    return of(seed, first_row, rows, columns, dtype=dtype, device=CPU)


def correlation(a, b):
    """In units of the standard deviation that independent numbers would give."""
    return (torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] * math.sqrt(a.numel())).abs().item()


def distance_from_uniform(x):
    """The Kolmogorov-Smirnov statistic, times sqrt(n): above 1.95 in one case in a thousand."""
    ordered, n = x.flatten().double().sort().values, x.numel()
    return ((ordered - (torch.arange(n) + 0.5) / n).abs().max() * math.sqrt(n)).item()


def splitmix(state):
    """The published generator's output for a state, with Python's whole numbers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
    return state ^ (state >> 31)


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_literal_transcription(seed):
    step, found = 0x9E3779B97F4A7C15, draw(seed, first_row=3, rows=4, columns=5)
    for row in range(4):
        for column in range(5):
            start = splitmix((seed + (3 + row) * step) % 2**64)
            bits = splitmix((start + (column + 1) * step) % 2**64)
            assert found[row, column].item() == ((bits >> 12) + 0.5) / 2**52


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 1, 12345, 2**62 - 1, 2**63 - 1])
def test_uniform(seed, dtype):
    u = draw(seed, dtype=dtype)
    assert u.dtype == dtype and u.shape == (400, 500)
    assert u.min() > 0 and u.max() < 1
    assert u.mean().item() == pytest.approx(1 / 2, abs=0.004)
    assert u.var().item() == pytest.approx(1 / 12, abs=0.002)
    assert distance_from_uniform(u) < 1.95
    for row in u[:20]:
        assert distance_from_uniform(row) < 2.3
    for column in u.T[:20]:
        assert distance_from_uniform(column) < 2.3


@pytest.mark.parametrize("dtype", DTYPES)
def test_never_zero_nor_one(dtype, monkeypatch):
    for bits in (0, -1):  # the hash's extremes
        monkeypatch.setattr(noise, "_hash", lambda x, bits=bits: torch.full_like(x, bits))
        u, g = (draw(rows=1, columns=1, dtype=dtype, of=of) for of in (uniform, gumbel))
        assert 0 < u.item() < 1
        assert g.isfinite().all()


def test_neighbours_are_independent():
    u = draw(7)
    assert correlation(u[1:], u[:-1]) < 4
    assert correlation(u[:, 1:], u[:, :-1]) < 4
    assert correlation(u[1:, 1:], u[:-1, :-1]) < 4
    assert correlation(u[:, :400], u[:, :400].T) < 4
    for other in (0, 6, 8, 7 + 2**32, 7 + 2**62):
        assert correlation(u, draw(other)) < 4
    pairs = (u[:, 1:] * 8).long() * 8 + (u[:, :-1] * 8).long()
    share = torch.bincount(pairs.flatten(), minlength=64) / pairs.numel()
    assert (share - 1 / 64).abs().max() < 0.002
    assert len(u.unique()) == u.numel()


@pytest.mark.parametrize("of", [uniform, gumbel])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_split_batch_draws_what_a_whole_one_does(dtype, of):
    whole = draw(5, rows=37, columns=11, dtype=dtype, of=of)
    parts = [draw(5, first, rows, 11, dtype, of) for first, rows in ((0, 20), (20, 1), (21, 16))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gumbel_distribution(dtype):
    g = draw(3, dtype=dtype, of=gumbel)
    assert g.mean().item() == pytest.approx(0.5772156649, abs=0.015)
    assert g.var().item() == pytest.approx(math.pi**2 / 6, abs=0.04)
    assert distance_from_uniform(torch.exp(-torch.exp(-g.double()))) < 1.95


def test_drawn_codes_have_their_probabilities():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.5], dtype=torch.float64)
    torch.manual_seed(0)
    n = 100_000
    codes, _, entropies = gumbel_softmax(
        torch.zeros(n, 2, dtype=torch.float64),
        lambda x: logits.expand(len(x), 4),
        torch.eye(4).double(),
        torch.ones(()),
    )
    p = logits.softmax(0)
    error = (torch.bincount(codes, minlength=4) / n - p) / (p * (1 - p) / n).sqrt()
    assert error.abs().max() < 4
    torch.testing.assert_close(entropies[0], -(p * p.log()).sum())


def test_the_mixture_turns_into_the_drawn_code_as_it_cools():
    rows, table = torch.randn(50, 3).double(), torch.randn(8, 3).double()
    drawn = []
    for temperature in (1.0, 1e-4):
        torch.manual_seed(1)
        drawn.append(gumbel_softmax(rows, lambda x: x @ table.T, table, torch.tensor(temperature)))
    (warm_codes, warm, _), (codes, cold, _) = drawn
    assert torch.equal(codes, warm_codes)
    assert (warm - table[codes]).abs().max() > 0.1
    torch.testing.assert_close(cold, table[codes], rtol=0, atol=1e-3)


def draw_with_gradients(rows, table):
    rows, table = rows.clone().requires_grad_(), table.clone().requires_grad_()
    torch.manual_seed(2)
    codes, mixtures, entropies = gumbel_softmax(rows, lambda x: x @ table.T, table, torch.tensor(0.7))
    (mixtures.square().sum() + entropies.sin().sum()).backward()
    return codes, mixtures.detach(), entropies.detach(), rows.grad, table.grad


def test_parts_of_bounded_memory_give_the_same(monkeypatch):
    rows, table = torch.randn(50, 3).double(), torch.randn(8, 3).double()
    whole = draw_with_gradients(rows, table)
    monkeypatch.setattr(noise, "WORKSPACE", 8 * 7)
    for part, expected in zip(draw_with_gradients(rows, table), whole):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)


def test_parts_never_hold_more_than_the_workspace(monkeypatch):
    monkeypatch.setattr(noise, "WORKSPACE", 40)
    seen = []
    by_rows(lambda part, start: seen.append((start, len(part))) or (part,), torch.randn(23, 2), 4)
    assert seen == [(0, 10), (10, 10), (20, 3)]


def test_half_of_the_rows_draws_half_of_what_all_rows_draw(monkeypatch):
    rows, table = torch.randn(20, 3).double(), torch.randn(8, 3).double()
    monkeypatch.setattr(noise, "shared_seed", lambda device: 99)
    whole = gumbel_softmax(rows, lambda x: x @ table.T, table, torch.ones(()))
    monkeypatch.setattr(noise, "row_counts", lambda x: [12, 8])
    for process, own in enumerate((slice(0, 12), slice(12, 20))):
        monkeypatch.setattr(noise, "rank", lambda process=process: process)
        half = gumbel_softmax(rows[own], lambda x: x @ table.T, table, torch.ones(()))
        for part, expected in zip(half, whole):
            torch.testing.assert_close(part, expected[own], rtol=1e-12, atol=1e-12)


def test_entropy():
    assert entropy(torch.zeros(1, 8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([[0.0, -1e9, -1e9]])).item() == 0


def test_annealing_starts_at_one_and_ends_at_the_floor():
    assert annealed(0, 1e-2, 0.5) == 1
    assert annealed(20, 1e-2, 0.5) == pytest.approx(math.exp(-0.2))
    assert annealed(1000, 1e-2, 0.5) == 0.5
