"""The denoising objective of "Denoising Diffusion Probabilistic Models" (2020) on normalised latents.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,      L = E || target - prediction(x_t, t, class) ||^2

with target eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 ("Progressive Distillation", 2022). Labels are replaced
by "no class" at random, which classifier-free guidance needs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stage2_ldm.denoiser import LatentDenoiser


def diffusion_loss(
    denoiser: LatentDenoiser, scheduler: Any, latents: Tensor, class_label: Tensor, label_dropout: float
) -> Tensor:
    """The loss of a batch, a scalar.

    Args:
        scheduler: diffusers' DDIMScheduler, for its noise schedule.
        latents: not yet normalised, [b, d, h, w].
        class_label: int64 [b] in 0..N-1.
        label_dropout: the probability with which each label becomes "no class".
    """
    clean = denoiser.normalize(latents)
    noise = torch.randn_like(clean)
    steps = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), device=clean.device)
    if denoiser.config["num_classes"] is not None:
        dropped = torch.rand(len(clean), device=clean.device) < label_dropout
        class_label = class_label.masked_fill(dropped, denoiser.null_class)
    prediction = denoiser(scheduler.add_noise(clean, noise, steps), steps, class_label)
    target = noise if scheduler.config.prediction_type == "epsilon" else scheduler.get_velocity(clean, noise, steps)
    return F.mse_loss(prediction.float(), target.float())
