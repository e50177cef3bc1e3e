"""Gumbel against a literal transcription of its formulas."""

import math

import pytest
import torch

from stage1_tokenizer.quantizers import noise
from stage1_tokenizer.quantizers.gumbel import Gumbel
from stage1_tokenizer.quantizers.nearest import nearest

K, D, N = 7, 3, 40


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    return Gumbel(K, D, temperature_decay=0.01, temperature_floor=0.3, kl_weight=0.1).double()


@pytest.fixture
def features():
    return torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_published_estimator_with_its_one_hot(quantizer, features, monkeypatch):
    """Value and all gradients are those of y = onehot + s - sg(s), z_q = y C."""
    monkeypatch.setattr(noise, "shared_seed", lambda device: 4)
    quantizer.set_progress(50, 0)
    learned = [quantizer.codebook, quantizer.projection.weight, quantizer.projection.bias]
    upstream = torch.randn(N, D, dtype=torch.float64)

    rows = features.clone().requires_grad_()
    output = quantizer.quantize(rows)
    found = torch.autograd.grad((output.z_q * upstream).sum() + output.loss, [rows, *learned])

    rows = features.clone().requires_grad_()
    codebook, weight, bias = learned
    logits = rows @ weight.T + bias
    u = noise.uniform(4, 0, N, K, dtype=torch.float64, device=rows.device)
    noisy = logits - torch.log(-torch.log(1 - u))
    soft = torch.softmax(noisy / math.exp(-0.5), dim=1)
    hard = torch.nn.functional.one_hot(noisy.argmax(1), K).double()
    z_q = (hard + soft - soft.detach()) @ codebook
    q = torch.softmax(logits, dim=1)
    loss = 0.1 * (q * torch.log(q * K)).sum(1).mean()
    expected = torch.autograd.grad((z_q * upstream).sum() + loss, [rows, *learned])

    assert torch.equal(output.codes, noisy.argmax(1))
    assert torch.equal(output.z_q, codebook[output.codes])
    torch.testing.assert_close(output.loss, loss)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_codes_are_drawn_with_the_probabilities_of_the_projection(quantizer):
    n = 50_000
    feature = torch.randn(1, D, dtype=torch.float64)
    p = quantizer.projection(feature).softmax(1)[0].detach()
    torch.manual_seed(3)
    share = torch.bincount(quantizer.quantize(feature.expand(n, D)).codes, minlength=K) / n
    assert ((share - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


def test_eval_takes_the_most_likely_code_and_keeps_the_loss(quantizer, features):
    training = quantizer.quantize(features)
    output = quantizer.eval().quantize(features)
    assert torch.equal(output.codes, quantizer.projection(features).argmax(1))
    assert torch.equal(output.z_q, quantizer.codebook[output.codes])
    torch.testing.assert_close(output.loss, training.loss)


def test_the_warm_start_makes_the_logits_distances(quantizer, features):
    centroids = torch.randn(K, D, dtype=torch.float64)
    quantizer.initialize_codebook(centroids)
    distances = -torch.cdist(features, centroids).square() + features.square().sum(1, keepdim=True)
    torch.testing.assert_close(quantizer.projection(features), distances, rtol=1e-9, atol=1e-9)
    assert torch.equal(quantizer.eval().quantize(features).codes, nearest(features, centroids, "l2"))


def test_the_temperature_reaches_its_floor_and_is_in_the_state(quantizer):
    quantizer.set_progress(20, 0)
    assert quantizer.temperature.item() == pytest.approx(math.exp(-0.2))
    quantizer.set_progress(10**6, 3)
    assert quantizer.state_dict()["temperature"].item() == 0.3


def test_kl_is_zero_for_the_uniform_and_log_k_for_the_certain(quantizer, features):
    quantizer.projection.weight.data.zero_()
    quantizer.projection.bias.data.zero_()
    assert quantizer.quantize(features).metrics["kl"].item() == pytest.approx(0, abs=1e-12)
    quantizer.projection.bias.data[2] = 1e4
    output = quantizer.quantize(features)
    assert output.metrics["kl"].item() == pytest.approx(math.log(K))
    assert output.codes.unique().tolist() == [2]
