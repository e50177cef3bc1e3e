import math

import pytest
import torch

from twostage.errors import TwoStageError
from twostage.metrics.codebook import CodebookMetrics, perplexity, usage


def test_uniform_codes():
    metrics = CodebookMetrics(16)
    metrics.update(torch.full((16,), 3))
    assert metrics.compute() == pytest.approx({"usage": 1.0, "perplexity": 16.0})


def test_collapsed_codes():
    metrics = CodebookMetrics(16)
    metrics.update(torch.tensor([0] * 15 + [48]))
    assert metrics.compute() == {"usage": 1 / 16, "perplexity": 1.0}


def test_perplexity_by_hand():
    counts = torch.tensor([3, 1, 0, 0])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert perplexity(counts).item() == pytest.approx(math.exp(entropy), rel=1e-6)
    assert usage(counts).item() == 0.5


def test_counts_of_several_codebooks_at_once():
    counts = torch.tensor([[1, 1, 1, 1], [4, 0, 0, 0]])
    assert perplexity(counts).tolist() == pytest.approx([4, 1])
    assert usage(counts).tolist() == [1, 0.25]


def test_batches_add_up(generator):
    codes = torch.randint(0, 50, (6, 2, 8, 8), generator=generator)
    whole, parts = CodebookMetrics(64), CodebookMetrics(64)
    whole.update(codes.flatten().bincount(minlength=64))
    for batch in codes.split(4):
        parts.update(batch.flatten().bincount(minlength=64))
    assert torch.equal(whole.counts, parts.counts)
    assert whole.counts.dtype == torch.int64
    assert whole.counts.tolist() == [int((codes == k).sum()) for k in range(64)]


def test_a_code_outside_the_codebook_is_refused():
    counts = torch.tensor([0, 8]).bincount(minlength=8)
    with pytest.raises(TwoStageError, match=r"counts: \[9\] is not allowed; allowed: \[8\]"):
        CodebookMetrics(8).update(counts)


@pytest.mark.parametrize("shape", [(7,), (1, 8), ()])
def test_counts_of_another_codebook_are_refused(shape):
    metrics = CodebookMetrics(8)
    with pytest.raises(TwoStageError, match=r"counts: \[.*\] is not allowed; allowed: \[8\]"):
        metrics.update(torch.ones(shape, dtype=torch.int64))
    assert not metrics.counts.any()


def test_a_negative_count_is_refused():
    with pytest.raises(TwoStageError, match="counts: -1 is not allowed; allowed: integers of at least 0"):
        CodebookMetrics(2).update(torch.tensor([4, -1]))


def test_a_codebook_has_entries():
    with pytest.raises(TwoStageError, match="entries: 0 is not allowed"):
        CodebookMetrics(0)


def test_no_codes_have_no_perplexity():
    metrics = CodebookMetrics(8)
    metrics.update(torch.zeros(8, dtype=torch.int64))
    with pytest.raises(TwoStageError, match="0 codes"):
        metrics.compute()
