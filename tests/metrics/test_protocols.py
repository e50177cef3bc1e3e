"""The protocols of reconstruction metrics."""

import numpy as np
import torch

from twostage.metrics.protocols import PROTOCOLS, as_jpeg
from twostage.metrics.reconstruction import ssim_uniform


def literal_ssim(x, y):
    """SSIM of two [H, W] arrays in [0, 1]: 11x11 windows of equal weights, sample (co)variances."""
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11].ravel(), y[i : i + 11, j : j + 11].ravel()
            covariance = np.cov(a, b)
            top = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance[0, 1] + 9e-4)
            values.append(top / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (covariance[0, 0] + covariance[1, 1] + 9e-4)))
    return np.mean(values)


def test_uniform_ssim_is_its_definition():
    x, y = torch.rand(2, 1, 1, 14, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = literal_ssim(x[0, 0].numpy(), y[0, 0].numpy())
    np.testing.assert_allclose(ssim_uniform(x * 2 - 1, y * 2 - 1).item(), expected, rtol=1e-9)


def test_jpeg_changes_a_noisy_image_a_little_and_a_flat_one_hardly():
    noisy = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    error = (as_jpeg(noisy) - noisy).abs().mean().item()
    assert 0.01 < error < 0.3
    flat = torch.full((1, 1, 16, 16), 0.25)
    assert as_jpeg(flat).shape == (1, 3, 16, 16)
    assert (as_jpeg(flat) - flat).abs().max() < 0.02


def test_the_default_protocol_changes_nothing():
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(PROTOCOLS["default"].prepare(images), images)
