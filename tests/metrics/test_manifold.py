"""Precision and recall: torch-fidelity's numbers, whatever the blocks and however many features are alike."""

import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from twostage.errors import TwoStageError
from twostage.metrics import manifold as room
from twostage.metrics.manifold import Manifold, neighbour_radii, precision_and_recall


def around(features):
    return Manifold(centres=features, radii=neighbour_radii(features))


def ours(real, generated):
    return precision_and_recall(around(real), around(generated))


def theirs(real, generated):
    found = prc_features_to_metric(
        generated, real, prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=True, verbose=False
    )
    return found["precision"], found["recall"]


def normal(generator, n, d=40, scale=1.0):
    """With d so large that torch takes the matrix product for distances, as it does for Inception's features."""
    return scale * torch.randn(n, d, generator=generator)


@pytest.mark.parametrize("block", [7, 64, 1000])
@pytest.mark.parametrize("sizes", [(150, 90), (64, 128), (4, 30)])
def test_the_shares_are_torch_fidelitys(generator, monkeypatch, block, sizes):
    monkeypatch.setattr(room, "BLOCK", block)
    real, generated = normal(generator, sizes[0]), normal(generator, sizes[1], scale=0.9)
    expected = theirs(real, generated)
    assert ours(real, generated) == expected
    assert 0 < sum(expected) < 2


@pytest.mark.parametrize("block", [7, 1000])
def test_duplicates_and_equal_distances_count_as_torch_fidelity_counts_them(generator, monkeypatch, block):
    """On a grid distances are exact, and many are equal: `<=` and `<` differ, so do ranks with and without oneself."""
    monkeypatch.setattr(room, "BLOCK", block)
    for high in (2, 3, 4):
        grid = torch.randint(0, high, (160, 30), generator=generator).float() * (torch.arange(30) < 5)
        real, generated = grid[:90], torch.cat([grid[90:], grid[100:110], grid[:5]])
        assert ours(real, generated) == theirs(real, generated)


def test_radii_by_hand():
    """On a line; of five alike each has three others at no distance, of three only two."""
    line = torch.tensor([0.0, 1, 3, 6, 10])[:, None]
    assert neighbour_radii(line).tolist() == [6, 5, 3, 5, 9]
    assert neighbour_radii(torch.tensor([2.0] * 5 + [7.0] * 3)[:, None]).tolist() == [0] * 5 + [5] * 3


def test_precision_is_of_the_samples_and_recall_of_the_images():
    """Balls of the images reach from -3 to 6 and from 1 to 179: one sample lies there. That sample's ball, up to 15
    away, has all images but one; the other samples' balls reach from -14 to -7."""
    real, generated = torch.tensor([0.0, 1, 2, 3, 90])[:, None], torch.tensor([3.0, -10, -11, -12, -13])[:, None]
    assert ours(real, generated) == pytest.approx((1 / 5, 4 / 5))


def test_few_features_are_refused():
    with pytest.raises(TwoStageError, match="number of images: 3 is not allowed; allowed: at least 4"):
        neighbour_radii(torch.zeros(3, 5))
