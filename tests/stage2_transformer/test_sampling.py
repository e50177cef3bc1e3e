"""How a code is drawn from its logits, and how strongly guidance acts where."""

import pytest
import torch

from stage2_transformer.guidance import Guidance
from stage2_transformer.sampling import Sampling, draw
from twostage.errors import TwoStageError

LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64).log()


def drawn(u, sampling):
    return draw(LOGITS.expand(len(u), -1), u, sampling)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_k=4), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(top_p=0.69), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_p=0.71), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(top_k=3, top_p=0.5), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_k=3, top_p=0.4), [0, 1, 0, 0]),
    ],
)
def test_draws_have_the_distribution_asked_for(sampling, expected):
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    shares = drawn(u, sampling).bincount(minlength=4) / len(u)
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=shares.dtype), atol=2e-4, rtol=0)


def test_what_is_as_likely_as_the_last_that_can_be_drawn_can_be_drawn():
    logits, u = torch.tensor([[2.0, 1.0, 1.0, 0.0]], dtype=torch.float64), torch.linspace(0, 0.99, 100).double()
    for sampling in (Sampling(top_k=2), Sampling(top_p=0.7)):  # the shares are 0.53, 0.20, 0.20 and 0.07
        assert draw(logits.expand(100, -1), u, sampling).unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=2), Sampling(top_p=0.5)])
def test_the_ends_of_the_unit_interval_draw_codes_that_can_be_drawn(sampling):
    logits = torch.tensor([-torch.inf, 0.3, 0.1, 0.2, -torch.inf], dtype=torch.float64).expand(2, -1)
    first, last = draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), sampling).tolist()
    assert (first, last) == (1, 3)


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
    ],
)
def test_impossible_sampling_is_refused(option):
    (name, value), *_ = option.items()
    with pytest.raises(TwoStageError, match=f"^{name}: {value} is not allowed"):
        Sampling(**option)


def test_more_likely_codes_than_there_are_codes_are_refused():
    Sampling(top_k=4).check(4)
    with pytest.raises(
        TwoStageError, match=r"^top_k: 5 is not allowed; allowed: 0 \(all codes\) or an integer in 1..4"
    ):
        Sampling(top_k=5).check(4)


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        (Guidance(), [1, 1, 1, 1]),
        (Guidance(scale=3.0), [3, 3, 3, 3]),
        (Guidance(scale=3.0, power=1.0), [1, 1.5, 2, 2.5]),
        (Guidance(scale=17.0, power=2.0), [1, 2, 5, 10]),
        (Guidance(scale=3.0, interval=(0.25, 0.75)), [1, 3, 3, 1]),
        (Guidance(scale=3.0, interval=(0.26, 1.0)), [1, 1, 3, 3]),
        (Guidance(scale=3.0, interval=(0.5, 0.5)), [1, 1, 1, 1]),
        (Guidance(scale=3.0, power=1.0, interval=(0.5, 1.0)), [1, 1, 2, 2.5]),
        (Guidance(scale=0.0), [0, 0, 0, 0]),
    ],
)
def test_where_guidance_acts_how_strongly(guidance, expected):
    assert [guidance.at(i, 4) for i in range(4)] == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scale": float("nan")}, "guidance_scale: nan"),
        ({"power": -0.5}, "guidance_power: -0.5 is not allowed; allowed: a finite number of at least 0"),
        ({"power": float("inf")}, "guidance_power: inf"),
        ({"interval": (0.8, 0.2)}, r"guidance_interval: \(0.8, 0.2\) is not allowed; allowed: two numbers 0 <= first"),
        ({"interval": (0.0, 1.5)}, "guidance_interval"),
        ({"interval": (0.5,)}, "guidance_interval"),
    ],
)
def test_impossible_guidance_is_refused(option, message):
    with pytest.raises(TwoStageError, match=f"^{message}"):
        Guidance(**option)
