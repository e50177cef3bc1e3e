"""The schema of a latent diffusion run."""

from typing import ClassVar, Literal

from pydantic import Field

from stage2_ldm.backbones import BACKBONES
from stage2_ldm.objectives import OBJECTIVES
from twostage.config import Fraction, OptimizerConfig, Section, TrainingConfig, component


class LDMConfig(Section):
    """`twostage train ldm`: which frozen codes, whose tokenizer, what network, how it is trained.

    Attributes:
        codes: a folder that `twostage encode` wrote.
        tokenizer: the run folder of the tokenizer that wrote them.
        conditional: whether the class is given to the network.
        label_dropout: how often a label is replaced by "no class" in training, which guidance needs.
        start_from: a prior's run folder or a saved pipeline, whose denoiser is the start.
        latents: what is diffused: vectors looked up from codes, or the encoder's output (kept by `encode --latents`).
    """

    PLACES: ClassVar[tuple[str, ...]] = ("codes", "tokenizer")
    """Where things lie is not part of what a run is: it may change between two commands of one run."""

    codes: str
    tokenizer: str
    start_from: str | None = None
    conditional: bool = True
    latents: Literal["quantized", "continuous"] = "quantized"
    denoiser: component(BACKBONES)  # type: ignore[valid-type]
    objective: component(OBJECTIVES) = Field(default={"name": "diffusion"}, validate_default=True)  # type: ignore[valid-type]
    label_dropout: Fraction = 0.1
    optimizer: OptimizerConfig
    training: TrainingConfig
