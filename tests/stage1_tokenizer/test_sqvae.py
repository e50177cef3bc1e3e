"""SQ-VAE against a literal transcription of its formulas."""

import math

import pytest
import torch

from stage1_tokenizer.quantizers import noise
from stage1_tokenizer.quantizers.sqvae import SQVAE, fitting_variance

K, D, N = 7, 3, 40


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    return SQVAE(K, D, temperature_decay=0.01, temperature_floor=0.3, weight=0.1).double()


@pytest.fixture
def features():
    return torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_literal_transcription(quantizer, features, monkeypatch):
    monkeypatch.setattr(noise, "shared_seed", lambda device: 4)
    quantizer.set_progress(50, 0)
    learned = [quantizer.codebook, quantizer.log_variance]
    upstream = torch.randn(N, D, dtype=torch.float64)

    rows = features.clone().requires_grad_()
    output = quantizer.quantize(rows)
    found = torch.autograd.grad((output.z_q * upstream).sum() + output.loss, [rows, *learned])

    rows = features.clone().requires_grad_()
    codebook, variance = learned[0], learned[1].exp()
    logits = -(rows[:, None] - codebook).square().sum(2) / (2 * variance)
    u = noise.uniform(4, 0, N, K, dtype=torch.float64, device=rows.device)
    noisy = logits - torch.log(-torch.log(1 - u))
    z_q = torch.softmax(noisy / math.exp(-0.5), dim=1) @ codebook
    q = torch.softmax(logits, dim=1)
    losses = (rows - z_q).square().sum(1) / (2 * variance) + (q * torch.log(q)).sum(1)
    loss = 0.1 * losses.mean()
    expected = torch.autograd.grad((z_q * upstream).sum() + loss, [rows, *learned])

    assert torch.equal(output.codes, noisy.argmax(1))
    torch.testing.assert_close(output.z_q, z_q, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(output.loss, loss, rtol=1e-10, atol=1e-12)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_codes_are_drawn_from_the_posterior(quantizer):
    n = 50_000
    feature = torch.randn(1, D, dtype=torch.float64)
    p = quantizer.logits(feature).softmax(1)[0].detach()
    torch.manual_seed(3)
    share = torch.bincount(quantizer.quantize(feature.expand(n, D)).codes, minlength=K) / n
    assert ((share - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


def test_eval_takes_the_nearest_code_which_is_certain(quantizer, features):
    output = quantizer.eval().quantize(features)
    squares = torch.cdist(features, quantizer.codebook).square()
    assert torch.equal(output.codes, squares.argmin(1))
    expected = 0.1 * squares.amin(1).mean() / (2 * quantizer.log_variance.exp())
    torch.testing.assert_close(output.loss, expected)


def test_without_variance_the_draw_is_the_nearest_code(quantizer, features):
    quantizer.log_variance.data.fill_(math.log(1e-7))
    output = quantizer.quantize(features)
    torch.testing.assert_close(output.z_q, quantizer.eval().quantize(features).z_q)
    assert output.metrics["entropy"].item() == pytest.approx(0, abs=1e-6)


def test_the_objective_is_the_papers_up_to_the_documented_factor(quantizer):
    """D / 2 log(mse) + sum of L over the h w features of an image, times 2 v / (D variance), has our gradients."""
    torch.manual_seed(2)
    images, size, variance = 6, 4, 0.3  # 4 features and 3 values an image for each: D = 12
    z = torch.randn(images, D, 2, 2, dtype=torch.float64, requires_grad=True)
    target = torch.randn(images, D, 2, 2, dtype=torch.float64)
    torch.manual_seed(5)
    share = (quantizer(z).z_q - target).square().mean().item() / variance
    values = D * size
    gradients = []
    for paper in (True, False):
        quantizer.weight = 1.0 if paper else 2 * share * size / values
        torch.manual_seed(5)
        output = quantizer(z)
        mse = (output.z_q - target).square().mean()
        loss = values / 2 * mse.log() + size * output.loss if paper else mse / variance + output.loss
        factor = 2 * mse.item() / (values * variance) if paper else 1.0
        gradients.append(torch.autograd.grad(factor * loss, [z, quantizer.codebook, quantizer.log_variance]))
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_temperature_reaches_its_floor_and_is_in_the_state(quantizer):
    quantizer.set_progress(20, 0)
    assert quantizer.temperature.item() == pytest.approx(math.exp(-0.2))
    quantizer.set_progress(10**6, 3)
    assert quantizer.state_dict()["temperature"].item() == 0.3


def test_the_warm_start_fits_the_variance_to_the_spacing(quantizer):
    grid = torch.cartesian_prod(*[torch.arange(4.0) * 3] * 2)
    assert fitting_variance(grid).item() == pytest.approx(9 / 4)
    assert fitting_variance(grid[:1]).item() == 1
    assert fitting_variance(torch.ones(3, 2)).item() > 0
    centroids = torch.randn(K, D, dtype=torch.float64)
    quantizer.initialize_codebook(centroids)
    quantizer.initialize_codebook(10 * centroids)
    torch.testing.assert_close(quantizer.log_variance.exp().detach(), 100 * fitting_variance(centroids))
