"""Which solver belongs to which objective, and that each undoes the noise."""

import pytest
import torch

from pipelines import LatentDiffusionPipeline
from pipelines.solvers import DIFFUSION_SOLVERS, FLOW_SOLVERS, family, solver
from stage2_ldm.denoiser import LatentDenoiser
from stage2_ldm.objectives import OBJECTIVES
from twostage.errors import TwoStageError

OBJECTIVES_TRIED = {
    "epsilon": {"name": "diffusion"},
    "v_prediction": {"name": "diffusion", "prediction_type": "v_prediction"},
    "sample": {"name": "diffusion", "prediction_type": "sample"},
    "zero snr": {"name": "diffusion", "prediction_type": "v_prediction", "zero_terminal_snr": True},
    "flow": {"name": "flow"},
    "shifted flow": {"name": "flow", "shift": 3.0},
}
CASES = [
    (objective, name)
    for objective in OBJECTIVES_TRIED
    for name in (FLOW_SOLVERS if "flow" in objective else DIFFUSION_SOLVERS)
]


def knowing(tokenizer, images, objective):
    """A pipeline whose denoiser knows the clean latents of `images` and predicts exactly what its objective asks."""
    denoiser = LatentDenoiser(
        backbone_config={"name": "unet", "widths": [32], "layers": 1, "norm_groups": 8},
        latent_size=4,
        latent_dim=4,
        num_classes=None,
        prediction_type=objective.prediction_type,
        latents="quantized",
        latent_mean=[0.1, 0.0, -0.1, 0.2],
        latent_std=[1.0, 0.5, 2.0, 1.0],
    )
    clean = denoiser.normalize(tokenizer.encode(images).z_q)

    def exact(latents, t, labels=None):
        if objective.prediction_type == "flow_prediction":
            s = float(t) / 1000
            return (latents - clean) / s
        abar = objective.noising.alphas_cumprod[int(t)].to(latents)
        noise = (latents - abar.sqrt() * clean) / (1 - abar).sqrt()
        return objective.target(clean, noise, torch.full((len(clean),), int(t)))

    denoiser.forward = exact
    pipeline = LatentDiffusionPipeline(tokenizer, denoiser, objective.scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize(("objective", "name"), CASES)
def test_a_perfect_denoiser_returns_the_reconstruction_with_every_solver(tokenizer, images, objective, name):
    built = OBJECTIVES.build(OBJECTIVES_TRIED[objective])
    pipeline = knowing(tokenizer, images, built)
    sampled = pipeline(num_images=3, num_inference_steps=25, solver=name, output_type="pt").images
    expected = (tokenizer.decode_codes(tokenizer.encode(images).codes) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(sampled, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["euler", "heun", "cubic"])
def test_a_solver_of_another_family_is_refused(tokenizer, images, name):
    pipeline = knowing(tokenizer, images, OBJECTIVES.build({"name": "diffusion"}))
    with pytest.raises(TwoStageError, match=rf"^solver: '{name}' does not solve epsilon; allowed: ddim, dpm, unipc"):
        pipeline(solver=name)


def test_a_swapped_scheduler_of_another_family_is_refused(tokenizer, images):
    pipeline = knowing(tokenizer, images, OBJECTIVES.build({"name": "diffusion"}))
    pipeline.scheduler = OBJECTIVES.build({"name": "flow"}).scheduler()
    with pytest.raises(TwoStageError, match=r"^scheduler: FlowMatch\w+ expects flow_prediction, .* predicts epsilon"):
        pipeline()
    v = OBJECTIVES.build({"name": "diffusion", "prediction_type": "v_prediction"}).scheduler()
    with pytest.raises(TwoStageError, match=r"^scheduler: DDIMScheduler expects v_prediction"):
        LatentDiffusionPipeline(tokenizer, pipeline.denoiser, v)


@pytest.mark.parametrize("objective", ["v_prediction", "shifted flow"])
def test_solvers_of_a_family_can_follow_each_other(objective):
    scheduler = OBJECTIVES.build(OBJECTIVES_TRIED[objective]).scheduler()
    table = FLOW_SOLVERS if "flow" in objective else DIFFUSION_SOLVERS
    for name in table:
        for then in table:
            again = solver(then, solver(name, scheduler))
            assert family(again) == family(scheduler)
            shift = again.config.get("shift", again.config.get("flow_shift", 1.0)) if "flow" in objective else 1.0
            assert shift == (3.0 if "shifted" in objective else 1.0)
