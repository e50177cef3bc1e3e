import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stage1_tokenizer.quantizers import nearest as module
from stage1_tokenizer.quantizers.nearest import (
    TILE,
    argmax,
    largest,
    nearest,
    nearest_both_ways,
    paired_similarity,
    similarity,
)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("size", [1, 13, TILE, 5 * TILE])
def test_chunked_search_equals_the_full_matrix(size, distance, monkeypatch):
    torch.manual_seed(0)
    rows, table = torch.randn(101, 6, dtype=torch.float64), torch.randn(size, 6, dtype=torch.float64)
    expected = similarity(rows, table, distance).argmax(1)
    monkeypatch.setattr(module, "WORKSPACE", 30 * size)
    assert torch.equal(nearest(rows, table, distance), expected)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize(("n", "m", "count"), [(101, 70, 3), (128, 40, 128), (640, 33, 2), (1, 5, 1), (20, 1, 20)])
def test_one_pass_finds_the_nearest_both_ways(n, m, count, distance, monkeypatch):
    torch.manual_seed(0)
    rows, table = torch.randn(n, 6, dtype=torch.float64), torch.randn(m, 6, dtype=torch.float64)
    monkeypatch.setattr(module, "WORKSPACE", 16 * n)
    codes, neighbours = nearest_both_ways(rows, table, count, distance)
    expected = similarity(rows, table, distance)
    assert torch.equal(codes, expected.argmax(1))
    near, index = expected.T.topk(count, dim=1)
    assert torch.equal(neighbours.index.sort(dim=1).values, index.sort(dim=1).values)
    shift = table.square().sum(1, keepdim=True) if distance == "l2" else 0
    torch.testing.assert_close(neighbours.near.sort(dim=1, descending=True).values, near + shift)


def test_similarity_is_minus_the_squared_distance_or_the_cosine():
    torch.manual_seed(0)
    rows, table = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(similarity(rows, table, "l2"), -torch.cdist(rows, table).square())
    cosine = torch.nn.functional.cosine_similarity(rows[:, None], table[None], dim=2)
    torch.testing.assert_close(similarity(rows, table, "cosine"), cosine)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_paired_similarity_is_the_diagonal(distance):
    torch.manual_seed(0)
    rows, partners = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = similarity(rows, partners, distance).diagonal()
    torch.testing.assert_close(paired_similarity(rows, partners, distance), expected)


def test_the_first_among_equals_is_nearest():
    scores = torch.randint(3, (50, 4 * TILE), generator=torch.Generator().manual_seed(0)).float()
    first = (scores == 2).int().argmax(1)
    assert torch.equal(argmax(scores), first)
    assert torch.equal(argmax(scores[:, :-1].contiguous()), first)


@pytest.mark.parametrize("count", [1, 3, 8, 300])
@pytest.mark.parametrize("width", [10 * TILE, 10 * TILE - 1])
def test_the_largest_are_those_of_a_full_sort(width, count):
    scores = torch.randn(20, width, generator=torch.Generator().manual_seed(0))
    expected, order = scores.sort(dim=1, descending=True)
    values, indices = largest(scores, count)
    assert torch.equal(values.sort(dim=1, descending=True).values, expected[:, :count])
    assert torch.equal(indices.sort(dim=1).values, order[:, :count].sort(dim=1).values)


SEARCH = """
import torch
from stage1_tokenizer.quantizers.nearest import nearest
def kibibytes(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))
features, table = torch.randn(65536, 8), torch.randn(262144, 8)
before = kibibytes("VmRSS")
codes = nearest(features, table, "l2")
above = kibibytes("VmHWM") - before
assert (codes[:100] == torch.cdist(features[:100], table).argmin(1)).float().mean() > 0.95
print(above)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's peak memory is read as on Linux")
def test_the_largest_search_needs_little_memory_above_its_input():
    done = subprocess.run([sys.executable, "-c", SEARCH], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 1_000_000
