import pytest
import torch

from stage2_ldm.guidance import Guidance
from twostage.errors import TwoStageError


def predictions():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_the_scale_goes_from_one_prediction_through_the_other():
    c, u = predictions()
    torch.testing.assert_close(Guidance(scale=0.0).combine(c, u), u)
    torch.testing.assert_close(Guidance(scale=1.0).combine(c, u), c)
    torch.testing.assert_close(Guidance(scale=3.0).combine(c, u), 3 * c - 2 * u)


def test_rescaling_restores_the_deviation_of_the_conditional():
    c, u = predictions()
    guided = Guidance(scale=5.0, rescale=1.0).combine(c, u)
    torch.testing.assert_close(guided.std((1, 2, 3)), c.std((1, 2, 3)))
    half = Guidance(scale=5.0, rescale=0.5).combine(c, u)
    torch.testing.assert_close(half, (guided + Guidance(scale=5.0).combine(c, u)) / 2)


@pytest.mark.parametrize(("noise", "acts"), [(0.1, False), (0.2, True), (0.5, True), (0.8, True), (0.9, False)])
def test_the_interval_is_where_it_acts(noise, acts):
    assert Guidance(scale=2.0, interval=(0.2, 0.8)).acts(noise) == acts
    assert not Guidance(scale=1.0).acts(noise)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": float("nan")}, "guidance_scale: nan"),
        ({"rescale": 1.5}, "guidance_rescale: 1.5"),
        ({"interval": (0.8, 0.2)}, r"guidance_interval: \(0.8, 0.2\)"),
        ({"interval": (0.0, 2.0)}, "guidance_interval"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(TwoStageError, match=f"^{message}"):
        Guidance(**options)
