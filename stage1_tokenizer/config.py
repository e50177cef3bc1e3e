"""The schema of a tokenizer's run."""

from typing import Any, ClassVar

from pydantic import model_validator

from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.quantizers import QUANTIZERS
from twostage.config import Count, NonNegativeInt, OptimizerConfig, Section, TrainingConfig, component
from twostage.data import DATASETS
from twostage.errors import refuse


class WarmStart(Section):
    """Train the bare autoencoder first, then start the codebook from k-means over its features.

    Attributes:
        steps: unquantised steps before k-means.
        features: how many features k-means sees.
    """

    steps: NonNegativeInt = 200
    features: Count = 30_000


class TokenizerConfig(Section):
    """`twostage train tokenizer`: what the images are, what the model is, how it is trained."""

    PLACES: ClassVar[tuple[str, ...]] = ("data.root",)
    """Where things lie is not part of what a run is: it may change between two commands of one run."""

    data: component(DATASETS)  # type: ignore[valid-type]
    autoencoder: component(AUTOENCODERS)  # type: ignore[valid-type]
    quantizer: component(QUANTIZERS)  # type: ignore[valid-type]
    warm_start: WarmStart | None = None
    optimizer: OptimizerConfig
    training: TrainingConfig

    @model_validator(mode="after")
    def _sizes_fit(self) -> "TokenizerConfig":
        size = self.data["image_size"]
        factor = AUTOENCODERS[self.autoencoder["name"]].downsampling_of(self.autoencoder)
        if size % factor:
            raise refuse("data.image_size", size, f"a multiple of the autoencoder's downsampling factor {factor}")
        if self.warm_start is not None and self.warm_start.steps >= self.training.steps:
            raise refuse(
                "warm_start.steps", self.warm_start.steps, f"fewer than training.steps ({self.training.steps})"
            )
        return self

    def model_options(self, channels: int) -> dict[str, Any]:
        """The constructor arguments of the `VQTokenizer` for images with so many channels."""
        return {
            "autoencoder_config": self.autoencoder,
            "quantizer_config": self.quantizer,
            "image_size": self.data["image_size"],
            "channels": channels,
        }
