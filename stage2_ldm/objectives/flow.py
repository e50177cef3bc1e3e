"""Flow matching along straight lines from x_0 to noise: "Flow Matching for Generative Modeling" (Lipman et al., 2023).

    x_s = (1 - s) x_0 + s eps,      L = E || (eps - x_0) - prediction(x_s, 1000 s, class) ||^2

s is drawn from a logit-normal distribution, which favours the middle of the way ("Scaling Rectified Flow
Transformers", Esser et al., 2024, Sec. 3.1), or uniformly.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from stage2_ldm.objectives.norms import NORMS, Norm
from twostage.config import Positive
from twostage.training.noise import rand_rows, randn_rows

if TYPE_CHECKING:  # a config is checked without diffusers
    from stage2_ldm.denoiser import LatentDenoiser

TIMESTEPS = 1000
"""The network is told 1000 s, as diffusers' flow schedulers do."""


def uniform(like: Tensor) -> Tensor:
    return rand_rows(like)


def logit_normal(like: Tensor) -> Tensor:
    return randn_rows(like).sigmoid()


TIMES: Mapping[str, Callable[[Tensor], Tensor]] = {"uniform": uniform, "logit_normal": logit_normal}


class Flow:
    """A velocity field from noise to latents.

    Args:
        times: how s is drawn.
        shift: samples more of the steps near the noise, s -> shift s / (1 + (shift - 1) s), in training and sampling;
            above 1 for large latents.
        norm: of the error.
    """

    prediction_type = "flow_prediction"

    def __init__(
        self,
        *,
        times: Literal["logit_normal", "uniform"] = "logit_normal",
        shift: Positive = 1.0,
        norm: Norm = "l2",
    ) -> None:
        self.times, self.shift, self.norm = TIMES[times], shift, NORMS[norm]

    def scheduler(self) -> Any:
        """diffusers' FlowMatchEulerDiscreteScheduler."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=self.shift)

    def loss(self, denoiser: "LatentDenoiser", clean: Tensor, class_label: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            clean: x_0, normalised, [b, d, h, w].
            class_label: int64 [b] in 0..N, N meaning "no class".
        """
        noise = randn_rows(clean, *clean.shape[1:]).to(clean)
        s = self.times(clean)
        s = self.shift * s / (1 + (self.shift - 1) * s)
        along = s.to(clean)[:, None, None, None]
        prediction = denoiser((1 - along) * clean + along * noise, s * TIMESTEPS, class_label)
        return self.norm(prediction.float(), (noise - clean).float()).mean()
