"""The rules by which anchors are chosen."""

import pytest
import torch

from stage1_tokenizer.quantizers import nearest as search
from stage1_tokenizer.quantizers.anchors import RULES, invert


def numbered(n):
    """Features that tell which they are: 0, 1, ... n - 1."""
    return torch.arange(float(n))[:, None]


def test_unique_anchors_are_distinct_while_features_last():
    codes = torch.zeros(8, 1)
    assert len(RULES["unique"](codes, numbered(20), "l2").unique()) == 8
    chosen = RULES["unique"](codes, numbered(3), "l2").long().flatten()
    assert sorted(chosen.bincount(minlength=3).tolist()) == [2, 3, 3]


def test_random_anchors_cover_all_features():
    torch.manual_seed(0)
    drawn = RULES["random"](torch.zeros(4000, 1), numbered(4), "l2").long().flatten()
    assert (drawn.bincount(minlength=4) > 850).all()


def test_the_closest_anchor_is_the_nearest_feature():
    features = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    chosen = RULES["closest"](torch.tensor([[4.0, 4.0], [0.4, 0.4]]), features, "l2")
    assert chosen.tolist() == [[5.0, 5.0], [0.0, 0.0]]


@pytest.mark.parametrize(("distance", "minus_distance"), [("l2", [0.0, -1.0, -2.25]), ("cosine", [-0.0, -1.0, -2.0])])
def test_probability_anchors_follow_exp_of_minus_distance(distance, minus_distance, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(search, "WORKSPACE", 3000)
    features = {"l2": [[1.0, 0.0], [2.0, 0.0], [2.5, 0.0]], "cosine": [[3.0, 0.0], [0.0, 0.1], [-1.0, 0.0]]}[distance]
    drawn = RULES["probability"](torch.tensor([[1.0, 0.0]]).expand(40_000, 2), torch.tensor(features), distance)
    share = torch.stack([(drawn == torch.tensor(feature)).all(1).float().mean() for feature in features])
    torch.testing.assert_close(share, torch.softmax(torch.tensor(minus_distance), 0), atol=0.01, rtol=0)


def test_what_is_left_of_a_uniform_number_is_uniform_again():
    logits = torch.randn(1, 6, dtype=torch.float64)
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:]
    index, left = invert(logits.expand(1000, 6), u)
    share = logits.softmax(1)[0]
    before = share.cumsum(0) - share
    torch.testing.assert_close(before[index] + share[index] * left, u)
    assert ((left > 0) & (left <= 1)).all()
