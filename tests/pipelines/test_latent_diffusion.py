"""What belongs to latent diffusion alone: steps, and the scale of the latents, applied once."""

import pytest
import torch

from pipelines import LatentDiffusionPipeline
from stage2_ldm.denoiser import LatentDenoiser
from stage2_ldm.objectives.diffusion import Diffusion
from twostage.errors import TwoStageError


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1


def knowing(tokenizer, images, mean, std):
    """A pipeline whose denoiser knows the clean latents of `images`, and predicts exactly the noise in its input."""
    denoiser = LatentDenoiser(
        backbone_config={"name": "unet", "widths": [32], "layers": 1, "norm_groups": 8},
        latent_size=4,
        latent_dim=4,
        num_classes=None,
        prediction_type="epsilon",
        latents="quantized",
        latent_mean=mean,
        latent_std=std,
    )
    scheduler = Diffusion().scheduler()
    clean = denoiser.normalize(tokenizer.encode(images).z_q)

    def noise_in(latents, t, labels=None):
        abar = scheduler.alphas_cumprod[t].to(latents)
        return (latents - abar.sqrt() * clean) / (1 - abar).sqrt()

    denoiser.forward = noise_in
    pipeline = LatentDiffusionPipeline(tokenizer, denoiser, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_perfect_denoiser_returns_the_reconstruction(tokenizer, images):
    z_q = tokenizer.encode(images).z_q
    mean, std = z_q.mean((0, 2, 3)).tolist(), z_q.std((0, 2, 3)).tolist()
    pipeline = knowing(tokenizer, images, mean, std)
    sampled = pipeline(num_images=3, num_inference_steps=20, output_type="pt").images
    expected = (tokenizer.decode_codes(tokenizer.encode(images).codes) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("times", [0, 2])
def test_the_scale_applied_never_or_twice_would_be_noticed(tokenizer, images, times):
    pipeline = knowing(tokenizer, images, [1.0, -1.0, 0.5, 0.0], [0.2, 3.0, 1.0, 0.5])
    once = pipeline.denoiser.denormalize
    pipeline.denoiser.denormalize = lambda latents: latents if times == 0 else once(once(latents))
    sampled = pipeline(num_images=3, num_inference_steps=20, output_type="latent").images
    assert not torch.allclose(sampled, tokenizer.encode(images).z_q, atol=1e-3)


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5])
def test_steps_out_of_range_are_refused(tokenizer, images, steps):
    with pytest.raises(TwoStageError, match=rf"num_inference_steps: {steps} .*1\.\.1000"):
        knowing(tokenizer, images, [0.0] * 4, [1.0] * 4)(num_inference_steps=steps)


def test_the_scale_is_brought_to_a_device_once(tokenizer, images, monkeypatch):
    denoiser = knowing(tokenizer, images, [0.5, -1.0, 2.0, 0.0], [2.0, 0.1, 1.0, 5.0]).denoiser
    latents = torch.randn(2, 4, 4, 4)
    there = denoiser.normalize(latents)
    double = denoiser.normalize(latents.double())
    monkeypatch.setattr(torch, "tensor", None)
    assert torch.equal(denoiser.normalize(latents), there)
    torch.testing.assert_close(denoiser.denormalize(double), latents.double(), rtol=1e-12, atol=1e-12)


def test_normalize_and_denormalize_are_inverse(tokenizer, images):
    denoiser = knowing(tokenizer, images, [0.5, -1.0, 2.0, 0.0], [2.0, 0.1, 1.0, 5.0]).denoiser
    latents = torch.randn(2, 4, 4, 4)
    torch.testing.assert_close(denoiser.denormalize(denoiser.normalize(latents)), latents)
