import pytest
import torch
from torch import nn

from twostage.training.ema import average


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_against_a_loop(decay):
    """The first update copies; then w <- d w + (1 - d) w_n with d = min(decay, (1 + n) / (10 + n))."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(2, 2, bias=False).double()
    ema = average(model, decay)
    for n in range(60):
        weight = torch.randn(2, 2, generator=generator, dtype=torch.float64)
        model.weight.data = weight.clone()
        ema.update_parameters(model)
        d = min(decay, (1 + n) / (10 + n)) if n else 0.0
        expected = weight if n == 0 else d * expected + (1 - d) * weight  # noqa: F821
        torch.testing.assert_close(ema.module.weight.data, expected, rtol=1e-12, atol=1e-12)


def test_buffers_are_copied():
    model = nn.BatchNorm1d(3)
    ema = average(model, 0.9)
    for _ in range(3):
        model(torch.randn(8, 3))
        ema.update_parameters(model)
    assert torch.equal(ema.module.running_mean, model.running_mean)


def test_the_average_is_not_trained():
    ema = average(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), 0.9)
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert not ema.module[1].training


def test_the_model_is_left_alone():
    model = nn.Linear(2, 2)
    ema = average(model, 0.9)
    ema.update_parameters(model)
    model.weight.data += 1
    assert torch.equal(ema.module.weight + 1, model.weight)
    assert model.weight.requires_grad
    assert model.training
