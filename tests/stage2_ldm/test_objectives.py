"""What the denoiser learns: each objective against its formula, and against the solver that will undo it."""

import math

import pytest
import torch

from stage2_ldm.objectives import OBJECTIVES
from stage2_ldm.objectives.diffusion import Diffusion
from stage2_ldm.objectives.flow import Flow, logit_normal
from twostage.errors import TwoStageError


@pytest.fixture
def clean():
    return torch.randn(6, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Recorder:
    """A denoiser that keeps what it was given and returns what it was told to."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, latents, timesteps, class_label=None):
        self.latents, self.timesteps, self.class_label = latents, timesteps, class_label
        return self.answer(latents, timesteps)


def abar(objective, t):
    """Square-root-linear betas, multiplied out."""
    first, last = (beta**0.5 for beta in objective.betas)
    betas = [(first + (last - first) * i / (objective.timesteps - 1)) ** 2 for i in range(objective.timesteps)]
    return math.prod(1 - beta for beta in betas[: int(t) + 1])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_noise_and_the_target_are_those_of_the_paper(clean, prediction_type):
    objective = Diffusion(prediction_type=prediction_type, timesteps=50)
    recorder = Recorder(lambda latents, t: torch.zeros_like(latents))
    torch.manual_seed(3)
    loss = objective.loss(recorder, clean, torch.zeros(6, dtype=torch.int64))
    expected = 0.0
    for x, x_t, t in zip(clean, recorder.latents, recorder.timesteps):
        a = abar(objective, t)
        noise = (x_t - a**0.5 * x) / (1 - a) ** 0.5
        target = {"epsilon": noise, "sample": x, "v_prediction": a**0.5 * noise - (1 - a) ** 0.5 * x}[prediction_type]
        expected += target.square().mean().item() / 6
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert len(set(recorder.timesteps.tolist())) > 1


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights(prediction_type):
    objective = Diffusion(prediction_type=prediction_type, timesteps=50, min_snr_gamma=5.0)
    for t in (0, 20, 49):
        snr = abar(objective, t) / (1 - abar(objective, t))
        expected = min(snr, 5.0) / {"epsilon": snr, "sample": 1, "v_prediction": snr + 1}[prediction_type]
        assert objective.weights(torch.tensor([t])).item() == pytest.approx(expected, rel=1e-3)
    assert Diffusion().weights(torch.tensor([0, 999])).tolist() == [1, 1]


def test_min_snr_is_the_same_objective_for_every_prediction(clean):
    """One error in x_0, said as eps, v or x_0, weighs the same."""
    losses = []
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        objective = Diffusion(prediction_type=prediction_type, timesteps=50, min_snr_gamma=5.0)

        def slightly_wrong(latents, t, objective=objective):
            a = objective.noising.alphas_cumprod.double()[t][:, None, None, None]
            wrong = clean + 0.1
            noise = (latents - a.sqrt() * wrong) / (1 - a).sqrt()
            return objective.target(wrong, noise, t)

        torch.manual_seed(1)
        losses.append(objective.loss(Recorder(slightly_wrong), clean, torch.zeros(6)).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_the_norm_is_the_one_asked_for(clean):
    values = {}
    for norm in ("l1", "l2"):
        torch.manual_seed(0)
        zero = Recorder(lambda latents, t: torch.zeros_like(latents))
        values[norm] = Diffusion(prediction_type="sample", norm=norm).loss(zero, clean, torch.zeros(6)).item()
    assert values["l1"] == pytest.approx(clean.abs().mean().item())
    assert values["l2"] == pytest.approx(clean.square().mean().item())


def test_zero_terminal_snr_leaves_nothing_of_the_image():
    scheduler = Diffusion(prediction_type="v_prediction", zero_terminal_snr=True).scheduler()
    assert scheduler.alphas_cumprod[-1] < 1e-6
    assert Diffusion().scheduler().alphas_cumprod[-1] > 5e-5
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999


def test_zero_terminal_snr_with_epsilon_is_refused():
    with pytest.raises(TwoStageError, match=r"^prediction_type: 'epsilon' is not allowed; .*with zero_terminal_snr"):
        Diffusion(zero_terminal_snr=True)


@pytest.mark.parametrize(("times", "shift"), [("uniform", 1.0), ("logit_normal", 3.0)])
def test_the_flow_is_a_straight_line(clean, times, shift):
    recorder = Recorder(lambda latents, t: torch.zeros_like(latents))
    torch.manual_seed(3)
    loss = Flow(times=times, shift=shift).loss(recorder, clean, torch.zeros(6))
    s = (recorder.timesteps / 1000).double()[:, None, None, None]
    assert ((s >= 0) & (s <= 1)).all()
    noise = (recorder.latents - (1 - s) * clean) / s
    assert loss.item() == pytest.approx((noise - clean).square().mean().item(), rel=1e-3)


def test_logit_normal_times_favour_the_middle():
    s = logit_normal(torch.empty(20_000))
    assert ((s > 0.25) & (s < 0.75)).float().mean() > 0.65


def test_a_larger_shift_means_more_noise(clean):
    means = []
    for shift in (1.0, 4.0):
        recorder = Recorder(lambda latents, t: torch.zeros_like(latents))
        torch.manual_seed(0)
        Flow(shift=shift).loss(recorder, torch.zeros(500, 1, 1, 1), torch.zeros(500))
        means.append(recorder.timesteps.mean().item())
    assert means[1] > means[0] + 100


def test_options_are_checked_with_their_key():
    with pytest.raises(TwoStageError, match=r"^objective\.times: 'cubic' is not allowed"):
        OBJECTIVES.resolve({"name": "flow", "times": "cubic"}, "objective")
    with pytest.raises(TwoStageError, match=r"^objective\.betas: \[0.5, 0.1\] is not allowed"):
        OBJECTIVES.resolve({"name": "diffusion", "betas": [0.5, 0.1]}, "objective")
