"""The schema of a latent diffusion run."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from stage2_ldm.backbones import BACKBONES
from twostage.config import Count, Fraction, OptimizerConfig, Section, TrainingConfig, component


def _rising(betas: list[float]) -> list[float]:
    if len(betas) != 2 or not 0 < betas[0] <= betas[1] < 1:
        raise ValueError("two numbers 0 < first <= last < 1 are needed")
    return betas


class DiffusionConfig(Section):
    """The noise schedule, LDM's by default: square-root-linear betas over 1000 steps.

    Attributes:
        betas: the first and the last.
        prediction_type: what the network predicts.
        label_dropout: how often a label is replaced by "no class" in training.
    """

    timesteps: Count = 1000
    betas: Annotated[list[float], AfterValidator(_rising)] = Field(default=[0.0015, 0.0195])
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    label_dropout: Fraction = 0.1

    def scheduler(self) -> Any:
        """diffusers' DDIMScheduler of this schedule; latents are not clipped."""
        from diffusers import DDIMScheduler

        return DDIMScheduler(
            num_train_timesteps=self.timesteps,
            beta_start=self.betas[0],
            beta_end=self.betas[1],
            beta_schedule="scaled_linear",
            prediction_type=self.prediction_type,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )


class LDMConfig(Section):
    """`twostage train ldm`: which frozen codes, whose tokenizer, what network, how it is trained.

    Attributes:
        codes: a folder that `twostage encode` wrote.
        tokenizer: the run folder of the tokenizer that wrote them.
        conditional: whether the class is given to the network.
        latents: what is diffused: vectors looked up from codes, or the encoder's output (kept by `encode --latents`).
    """

    PLACES: ClassVar[tuple[str, ...]] = ("codes", "tokenizer")
    """Where things lie is not part of what a run is: it may change between two commands of one run."""

    codes: str
    tokenizer: str
    conditional: bool = True
    latents: Literal["quantized", "continuous"] = "quantized"
    denoiser: component(BACKBONES)  # type: ignore[valid-type]
    diffusion: DiffusionConfig = DiffusionConfig()
    optimizer: OptimizerConfig
    training: TrainingConfig
