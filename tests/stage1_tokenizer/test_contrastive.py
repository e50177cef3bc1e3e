"""The contrastive term against its formula, and its estimate against the exact one."""

import math

import pytest
import torch

from stage1_tokenizer.quantizers import contrastive
from stage1_tokenizer.quantizers.contrastive import contrastive_loss, search
from stage1_tokenizer.quantizers.nearest import similarity


def literal(codes, features, distance, temperature):
    total = 0.0
    for row in similarity(codes, features, distance).tolist():
        scores = sorted(row, reverse=True)
        positives = scores[: max(1, len(features) // len(codes))]
        positive = math.exp(sum(positives) / len(positives) / temperature)
        negatives = sum(math.exp(s / temperature) for s in scores[-(len(features) // 2) :])
        total -= math.log(positive / (positive + negatives))
    return total / len(codes)


def loss(codes, features, distance, temperature):
    _, neighbours = search(features, codes.detach(), distance)
    return contrastive_loss(codes, features, neighbours, distance, temperature)


def problem(size, count, distance):
    """Codes in the midst of features that are theirs, as in training; [size, 8] and [count, 8] in float64."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(size, 8, generator=generator, dtype=torch.float64)
    features = codes[torch.randint(size, (count,), generator=generator)]
    features = features + 0.7 * torch.randn(count, 8, generator=generator, dtype=torch.float64)
    return codes, features, {"l2": 4.0, "cosine": 0.3}[distance]


SIZES = [(16, 4096), (256, 2048), (512, 400)]
"""Codes and features: fewer, about as many as are sampled, and more codes than features."""


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize(("size", "count"), [(4, 10), (4, 128), (20, 10), *SIZES])
def test_it_is_the_cross_entropy_of_the_nearest_against_the_farther_half(monkeypatch, size, count, distance):
    monkeypatch.setattr(contrastive, "EXACT_WORK", size * count)
    codes, features, temperature = problem(size, count, distance)
    expected = literal(codes, features, distance, temperature)
    assert loss(codes, features, distance, temperature).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_its_gradient_is_that_of_its_value(distance):
    codes, features, temperature = problem(5, 64, distance)
    assert torch.autograd.gradcheck(lambda c: loss(c, features, distance, temperature), codes.requires_grad_())


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize(("size", "count"), SIZES)
def test_its_estimate_is_close_to_the_exact_one(monkeypatch, size, count, distance):
    torch.manual_seed(0)
    codes, features, temperature = problem(size, count, distance)
    codes.requires_grad_()

    def step(work):
        monkeypatch.setattr(contrastive, "EXACT_WORK", work)
        value = loss(codes, features, distance, temperature)
        return value.item(), torch.autograd.grad(value, codes)[0].flatten()

    exact, gradient = step(size * count)
    sampled, estimate = step(0)
    assert sampled != exact
    assert sampled == pytest.approx(exact, rel=0.05)
    assert torch.cosine_similarity(gradient, estimate, dim=0) > 0.8


def test_a_single_feature_has_nothing_farther():
    codes = torch.randn(4, 3, requires_grad=True)
    value = loss(codes, torch.randn(1, 3), "cosine", 0.07)
    value.backward()
    assert value == 0
    assert (codes.grad == 0).all()
