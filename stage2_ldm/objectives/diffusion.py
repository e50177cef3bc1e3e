"""Diffusion: "Denoising Diffusion Probabilistic Models" (Ho et al., 2020), on normalised latents x_0.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,      L = E w_t || target - prediction(x_t, t, class) ||^2

The target is eps, x_0, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 ("Progressive Distillation", Salimans and Ho,
2022). w_t is 1, or min(SNR_t, gamma) over the weight that x_0 has in the target ("Efficient Diffusion Training via
Min-SNR Weighting Strategy", Hang et al., 2023, Eq. 9), SNR_t = abar_t / (1 - abar_t).
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor

from stage2_ldm.objectives.norms import NORMS, Norm
from twostage.config import Count, Positive
from twostage.errors import refuse
from twostage.training.noise import randint_rows, randn_rows

if TYPE_CHECKING:  # a config is checked without diffusers
    from stage2_ldm.denoiser import LatentDenoiser


def _rising(betas: list[float]) -> list[float]:
    if len(betas) != 2 or not 0 < betas[0] <= betas[1] < 1:
        raise ValueError("two numbers 0 < first <= last < 1 are needed")
    return betas


Betas = Annotated[list[float], AfterValidator(_rising)]
LDM_BETAS = [0.0015, 0.0195]


class Diffusion:
    """Noise added over many steps, LDM's schedule by default: betas linear in their square roots.

    Args:
        prediction_type: what the network predicts, in diffusers' terms.
        timesteps: T.
        betas: the first and the last; LDM's LSUN churches model ends at 0.0155.
        zero_terminal_snr: rescale the betas so that nothing of the image is left at the last step ("Common Diffusion
            Noise Schedules and Sample Steps are Flawed", Lin et al., 2023).
        min_snr_gamma: gamma of the weights; None weighs all steps alike.
        norm: of the error.

    Raises:
        TwoStageError: zero terminal SNR with epsilon prediction, which says nothing about x_0 at the last step.
    """

    def __init__(
        self,
        *,
        prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        timesteps: Count = 1000,
        betas: Betas = LDM_BETAS,
        zero_terminal_snr: bool = False,
        min_snr_gamma: Positive | None = None,
        norm: Norm = "l2",
    ) -> None:
        if zero_terminal_snr and prediction_type == "epsilon":
            raise refuse("prediction_type", prediction_type, "v_prediction or sample, with zero_terminal_snr")
        self.prediction_type = prediction_type
        self.timesteps, self.betas, self.zero_terminal_snr = timesteps, betas, zero_terminal_snr
        self.min_snr_gamma, self.norm = min_snr_gamma, NORMS[norm]
        self.noising = self.scheduler()

    def scheduler(self) -> Any:
        """diffusers' DDIMScheduler of this schedule; latents are not clipped."""
        from diffusers import DDIMScheduler

        return DDIMScheduler(
            num_train_timesteps=self.timesteps,
            beta_start=self.betas[0],
            beta_end=self.betas[1],
            beta_schedule="scaled_linear",
            prediction_type=self.prediction_type,
            rescale_betas_zero_snr=self.zero_terminal_snr,
            timestep_spacing="trailing" if self.zero_terminal_snr else "leading",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )

    def loss(self, denoiser: "LatentDenoiser", clean: Tensor, class_label: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            clean: x_0, normalised, [b, d, h, w].
            class_label: int64 [b] in 0..N, N meaning "no class".
        """
        noise = randn_rows(clean, *clean.shape[1:]).to(clean)
        t = randint_rows(clean, self.timesteps)
        prediction = denoiser(self.noising.add_noise(clean, noise, t), t, class_label)
        error = self.norm(prediction.float(), self.target(clean, noise, t).float()).flatten(1).mean(1)
        return (self.weights(t) * error).mean()

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict, [b, d, h, w]."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        return self.noising.get_velocity(clean, noise, t)

    def weights(self, t: Tensor) -> Tensor:
        """w_t, [b]."""
        if self.min_snr_gamma is None:
            return torch.ones_like(t, dtype=torch.float32)
        abar = self.noising.alphas_cumprod.to(t.device)[t]
        snr = abar / (1 - abar)
        share = {"epsilon": snr, "sample": torch.ones_like(snr), "v_prediction": snr + 1}[self.prediction_type]
        return snr.clamp(max=self.min_snr_gamma) / share
