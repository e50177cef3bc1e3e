"""The two implicit codebooks, a grid and the corners of a cube."""

import itertools

import pytest
import torch

from stage1_tokenizer.quantizers import lfq
from stage1_tokenizer.quantizers.fsq import FSQ, factorize
from stage1_tokenizer.quantizers.lfq import LFQ
from twostage.errors import TwoStageError
from twostage.lazy import optional


@pytest.mark.parametrize(
    ("size", "levels"), [(16, [4, 4]), (240, [8, 6, 5]), (512, [8, 8, 8]), (1000, [8, 5, 5, 5]), (1024, [8, 8, 4, 4])]
)
def test_levels_are_few_and_even(size, levels):
    assert factorize(size) == levels


def test_the_grid_is_the_product_of_its_levels():
    quantizer = FSQ(60, 3, levels=[5, 4, 3])
    assert quantizer.codebook.shape == (60, 3)
    assert [len(column.unique()) for column in quantizer.codebook.T] == [5, 4, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 11, "dim": 2}, r"^codebook_size: 11 is not allowed; allowed: a product of integers from 3"),
        ({"codebook_size": 16, "dim": 2, "levels": [4, 5]}, r"^levels: \[4, 5\] is not allowed; .*\(16\)$"),
        ({"codebook_size": 16, "dim": 2, "levels": []}, r"^levels: \[\] is not allowed"),
    ],
)
def test_sizes_that_are_no_grid_are_refused(options, message):
    with pytest.raises(TwoStageError, match=message):
        FSQ(**options)


def test_sizes_that_are_no_cube_are_refused():
    with pytest.raises(TwoStageError, match=r"^codebook_size: 12 is not allowed; allowed: a power of two, from 2$"):
        LFQ(12, 4)


def test_a_missing_library_is_named_with_its_extra():
    with pytest.raises(
        TwoStageError, match=r"^no_such_library is not installed; pip install 'twostage\[references\]'$"
    ):
        optional("no_such_library", extra="references")


def test_codes_are_the_nearest_corners():
    z = torch.randn(2, 4, 3, 3)
    quantizer = LFQ(16, 4).eval()
    assert torch.equal(quantizer(z).z_q, torch.where(z > 0, 1.0, -1.0))


def literal_entropies(z, temperature):
    """Over whole codes, each probability written out."""
    codes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=z.shape[1])), dtype=z.dtype)
    p = (2 * z @ codes.T / temperature).softmax(1)
    mean = p.mean(0)
    return -(p * p.log()).sum(1).mean(), -(mean * mean.log()).sum()


def test_entropies_are_those_of_whole_codes():
    z = 0.1 * torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(LFQ(32, 5, temperature=0.5).double().entropies(z), literal_entropies(z, 0.5)):
        torch.testing.assert_close(ours, theirs)


def test_groups_bound_the_entropy_of_the_mean_from_above(monkeypatch):
    z = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, -1] * 3
    )
    z[:, 3:] = z[:, :3]  # the second half says what the first does: together they are worth one half
    quantizer = LFQ(64, 6, temperature=0.1).double()
    _, exact = quantizer.entropies(z)
    monkeypatch.setattr(lfq, "GROUP", 3)
    own, grouped = quantizer.entropies(z)
    torch.testing.assert_close(own, literal_entropies(z, 0.1)[0])
    assert grouped > 1.5 * exact


def test_the_entropy_terms_spread_the_codes():
    """All features near one corner: descent on the loss alone makes them use more corners."""
    torch.manual_seed(0)
    z = (0.05 + 0.02 * torch.randn(256, 4)).requires_grad_()
    quantizer = LFQ(16, 4, commitment_weight=0.0, entropy_weight=1.0, temperature=0.1)
    before = quantizer.quantize(z).metrics["usage"].item()
    descent = torch.optim.Adam([z], lr=0.01)
    for _ in range(100):
        descent.zero_grad()
        quantizer.quantize(z).loss.backward()
        descent.step()
    assert quantizer.quantize(z).metrics["usage"].item() > max(0.9, before)
