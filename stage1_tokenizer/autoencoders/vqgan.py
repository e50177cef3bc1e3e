"""VQGAN's autoencoder: "Taming Transformers for High-Resolution Image Synthesis" (Esser et al., 2021).

Also the first stage of "High-Resolution Image Synthesis with Latent Diffusion Models" (Rombach et al., 2022), Sec. 3.1.
1x1 convolutions stand between the networks and the quantiser: z = conv(E(x)), x_hat = G(conv(z_q)).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from stage1_tokenizer.autoencoders.base import Autoencoder
from stage1_tokenizer.autoencoders.pyramid import (
    COARSEST_OF_F16,
    F16,
    Multipliers,
    Pyramid,
    Width,
    downsampling_factor,
)
from twostage.config import Count, Fraction


class VQGAN(Autoencoder):
    """Images [b, channels, H, W] <-> latents [b, latent_dim, H/f, W/f], f = 2^(levels - 1).

    Presets: `f16` (taming; also latent diffusion's vq-f16), `f8`, `f4` and `f4-noattn` (latent diffusion's), and
    `beyond-stationarity`, the ImageNet network of "Beyond Stationarity" (2026), Supplement 12. That table halves the
    image three times and doubles it twice, which no autoencoder can; the preset is what its text says (taming's
    network, three resolution stages, no attention) and its released configuration: f = 4.

    Args:
        channels: of the images.
        latent_dim: d.
        width: channels at multiplier 1.
        multipliers: of `width`, one per level from the finest; every next level has half the resolution.
        residual_blocks: per level of the encoder; the decoder has one more.
        attention_at: downsampling factors of the levels that attend: [16] is where a 256 x 256 image is 16 x 16.
        middle_attention: whether the coarsest resolution attends between its last two blocks.
        z_channels: between the networks and the 1x1 convolutions; by default d.
        dropout: inside residual blocks.

    Raises:
        TwoStageError: attention at a factor that no level has.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "f16": {"multipliers": [1, 1, 2, 2, 4], "attention_at": [16]},
        "f8": {"multipliers": [1, 2, 2, 4], "attention_at": [8]},
        "f4": {"multipliers": [1, 2, 4], "attention_at": []},
        "f4-noattn": {"multipliers": [1, 2, 4], "attention_at": [], "middle_attention": False},
        "beyond-stationarity": {
            "multipliers": [1, 2, 4],
            "attention_at": [],
            "middle_attention": False,
            "z_channels": 3,
        },
    }

    def __init__(
        self,
        channels: Count,
        latent_dim: Count,
        *,
        width: Width = 128,
        multipliers: Multipliers = F16,
        residual_blocks: Count = 2,
        attention_at: list[Count] = COARSEST_OF_F16,
        middle_attention: bool = True,
        z_channels: Count | None = None,
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        pyramid = Pyramid(
            width=width,
            multipliers=multipliers,
            residual_blocks=residual_blocks,
            attention_at=attention_at,
            middle_attention=middle_attention,
            dropout=dropout,
        )
        self.downsampling = pyramid.downsampling
        between = z_channels or latent_dim
        self.encoder = pyramid.encoder(channels, between)
        self.quant_conv = nn.Conv2d(between, latent_dim, 1)
        self.post_quant_conv = nn.Conv2d(latent_dim, between, 1)
        self.decoder = pyramid.decoder(between, channels)

    @classmethod
    def downsampling_of(cls, options: Mapping[str, Any]) -> int:
        return downsampling_factor(options["multipliers"], options["attention_at"])

    def encode(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))
