import math

import pytest
import torch

from twostage.errors import TwoStageError
from twostage.metrics.codebook import CodebookMetrics, perplexity, usage


def test_uniform_codes():
    metrics = CodebookMetrics(16)
    metrics.update(torch.arange(16).view(1, 4, 4))
    assert metrics.compute() == pytest.approx({"usage": 1.0, "perplexity": 16.0})


def test_collapsed_codes():
    metrics = CodebookMetrics(16)
    metrics.update(torch.full((3, 4, 4), 15))
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
    whole.update(codes)
    for batch in codes.split(4):
        parts.update(batch)
    assert torch.equal(whole.counts, parts.counts)
    assert whole.counts.dtype == torch.int64
    assert whole.counts.tolist() == [int((codes == k).sum()) for k in range(64)]


@pytest.mark.parametrize("code", [-1, 8])
def test_codes_outside_the_codebook_are_refused(code):
    with pytest.raises(TwoStageError, match=f"codes: {code} is not allowed; allowed: 0 to 7"):
        CodebookMetrics(8).update(torch.tensor([[[0, code]]]))


def test_no_codes_have_no_perplexity():
    metrics = CodebookMetrics(8)
    metrics.update(torch.zeros(0, 4, 4, dtype=torch.int64))
    with pytest.raises(TwoStageError, match="0 codes"):
        metrics.compute()
