"""The schema of a tokenizer's run."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import PlainValidator, model_validator

from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.quantizers import QUANTIZERS
from twostage.config import (
    Count,
    NonNegative,
    NonNegativeInt,
    OptimizerConfig,
    Positive,
    Section,
    TrainingConfig,
    component,
)
from twostage.data import DATASETS
from twostage.errors import TwoStageError, refuse


class WarmStart(Section):
    """Train the bare autoencoder first, then start the codebook from k-means over its features.

    Attributes:
        steps: unquantised steps before k-means.
        features: how many features k-means sees.
    """

    steps: NonNegativeInt = 200
    features: Count = 30_000


def _duration(value: Any) -> int | float:
    if (type(value) is int and value >= 0) or (type(value) is float and 0 <= value < 1):
        return value
    raise ValueError("a number of steps (an integer of at least 0) or a share of the run (0.0 <= x < 1.0) is needed")


Duration = Annotated[int | float, PlainValidator(_duration)]
"""An integer is a number of steps, a number with a point a share of all steps of the run."""


class AdversarialLoss(Section):
    """A PatchGAN discriminator: when it learns, when the tokenizer hears it, how loudly, and what it is.

    Attributes:
        weight: of the generator's term, beside the adaptive weight.
        start: when the discriminator starts to learn, counted from the start of the run.
        warmup: how long it then learns alone.
        ramp: how long the generator's term then takes to rise from nothing to its full weight.
        max_adaptive_weight: the limit of the adaptive weight; 1e4 in the published code.
        lecam_weight: of the LeCAM regulariser.
        layers: stride-2 convolutions of the discriminator.
        width: its channels after the first of them.
        normalization: see `PatchGAN`.
    """

    weight: Positive = 0.8
    start: Duration = 0.3
    warmup: Duration = 0.1
    ramp: Duration = 0.1
    max_adaptive_weight: Positive = 10.0
    lecam_weight: NonNegative = 0.0
    layers: Count = 3
    width: Count = 64
    normalization: Literal["batch", "group"] = "batch"

    def milestones(self, steps: int) -> tuple[int, int, int]:
        """The steps, out of so many, when it starts to learn, when it is first heard, and heard at its full weight."""
        spans = (self.start, self.warmup, self.ramp)
        start, warmup, ramp = (span if isinstance(span, int) else round(span * steps) for span in spans)
        return start, start + warmup, start + warmup + ramp


SMALLEST_FOR_PATCHES = 3
"""Pixels that must be left after the discriminator's stride-2 convolutions."""

SMALLEST_FOR_LPIPS = 16
"""Pixels; its trunk halves them four times."""

Reconstruction = Literal["scaled_mse", "mse", "l1"]


class LossConfig(Section):
    """What a reconstruction is measured by, beside the quantiser's own terms.

    Attributes:
        reconstruction: the distance of values: the mean square over the variance of the data, the mean square, or
            the mean absolute difference.
        perceptual_weight: of LPIPS.
        adversarial: a discriminator, or none.
    """

    reconstruction: Reconstruction = "scaled_mse"
    perceptual_weight: NonNegative = 0.0
    adversarial: AdversarialLoss | None = None


class TokenizerConfig(Section):
    """`twostage train tokenizer`: what the images are, what the model is, how it is trained.

    Attributes:
        mirror: train on the mirror image of every other image, at random.
        start_from: a tokenizer's run folder, or a saved tokenizer of this kind, whose weights are the start.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("data.root", "data.train_list", "data.test_list", "data.on_corrupt")
    """Where things lie is not part of what a run is: it may change between two commands of one run.

    Nor is what becomes of a corrupt image, which changes neither the number nor the order of the images.
    """

    data: component(DATASETS)  # type: ignore[valid-type]
    mirror: bool = False
    autoencoder: component(AUTOENCODERS)  # type: ignore[valid-type]
    quantizer: component(QUANTIZERS)  # type: ignore[valid-type]
    warm_start: WarmStart | None = None
    start_from: str | None = None
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig
    training: TrainingConfig

    @model_validator(mode="after")
    def _sizes_fit(self) -> "TokenizerConfig":
        size = self.data["image_size"]
        factor = AUTOENCODERS[self.autoencoder["name"]].downsampling_of(self.autoencoder)
        if size % factor:
            raise refuse("data.image_size", size, f"a multiple of the autoencoder's downsampling factor {factor}")
        if self.warm_start is not None and self.start_from is not None:
            raise refuse("warm_start", self.warm_start.model_dump(), "null with start_from, which brings a codebook")
        if self.warm_start is not None and self.warm_start.steps >= self.training.steps:
            raise refuse(
                "warm_start.steps", self.warm_start.steps, f"fewer than training.steps ({self.training.steps})"
            )
        return self

    @model_validator(mode="after")
    def _quantizer_can_be(self) -> "TokenizerConfig":
        try:
            with torch.device("meta"):  # what its options rule out together is known before any data is read
                QUANTIZERS.build(self.quantizer)
        except TwoStageError as error:
            raise TwoStageError(f"quantizer.{error}") from None
        if self.warm_start is not None and not QUANTIZERS[self.quantizer["name"]].learns_codebook:
            allowed = f"null: {self.quantizer['name']} has no codebook to start"
            raise refuse("warm_start", self.warm_start.model_dump(), allowed)
        return self

    @model_validator(mode="after")
    def _losses_fit(self) -> "TokenizerConfig":
        size, adversarial = self.data["image_size"], self.loss.adversarial
        if self.loss.perceptual_weight and size < SMALLEST_FOR_LPIPS:
            allowed = f"0.0 for images of {size} pixels; LPIPS needs {SMALLEST_FOR_LPIPS}"
            raise refuse("loss.perceptual_weight", self.loss.perceptual_weight, allowed)
        if adversarial is None:
            return self
        if size // 2**adversarial.layers < SMALLEST_FOR_PATCHES:
            allowed = f"few enough that {size} pixels, halved so often, are at least {SMALLEST_FOR_PATCHES}"
            raise refuse("loss.adversarial.layers", adversarial.layers, allowed)
        if self.training.compile:
            allowed = "false with loss.adversarial, whose adaptive weight needs the decoder's graph more than once"
            raise refuse("training.compile", True, allowed)
        milestones = zip(("start", "warmup", "ramp"), adversarial.milestones(self.training.steps))
        late = next((key for key, step in milestones if step >= self.training.steps), None)
        if late is not None:
            allowed = f"start, warmup and ramp together less than training.steps ({self.training.steps})"
            raise refuse(f"loss.adversarial.{late}", getattr(adversarial, late), allowed)
        return self

    def model_options(self, channels: int) -> dict[str, Any]:
        """The constructor arguments of the `VQTokenizer` for images with so many channels."""
        return {
            "autoencoder_config": self.autoencoder,
            "quantizer_config": self.quantizer,
            "image_size": self.data["image_size"],
            "channels": channels,
        }
