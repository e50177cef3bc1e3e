"""MoVQ's autoencoder: "MoVQ: Modulating Quantized Vectors for High-Fidelity Image Generation" (Zheng et al., 2022).

VQGAN's, but every normalisation of the decoder is modulated by the quantised vectors at its place:

    F_i = phi_gamma(z_q) (F_{i-1} - mu(F_{i-1})) / sigma(F_{i-1}) + phi_beta(z_q)

phi_gamma and phi_beta are 1x1 convolutions over z_q, enlarged to the size of F; mu and sigma are those of group
normalisation.
"""

from collections.abc import Mapping
from typing import Any

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


class MoVQ(Autoencoder):
    """Images [b, channels, H, W] <-> latents [b, latent_dim, H/f, W/f], f = 2^(levels - 1).

    Args:
        channels, latent_dim, width, multipliers, residual_blocks, attention_at, middle_attention, dropout: those of
            `VQGAN`.

    Raises:
        TwoStageError: attention at a factor that no level has.
    """

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
        self.encoder = pyramid.encoder(channels, latent_dim)
        self.quant_conv = nn.Conv2d(latent_dim, latent_dim, 1)
        self.post_quant_conv = nn.Conv2d(latent_dim, latent_dim, 1)
        self.decoder = pyramid.decoder(latent_dim, channels, norm="spatial")

    @classmethod
    def downsampling_of(cls, options: Mapping[str, Any]) -> int:
        return downsampling_factor(options["multipliers"], options["attention_at"])

    def encode(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents), latents)
