"""The convolutional encoder and decoder of taming-transformers and latent diffusion, from diffusers' blocks.

"Taming Transformers for High-Resolution Image Synthesis" (Esser et al., 2021). Levels of residual blocks, each
level at half the resolution of the one before; some levels attend after every block; two more blocks with attention
between them at the coarsest resolution. The decoder mirrors the encoder with one block more per level.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from twostage.config import Count, Fraction
from twostage.errors import refuse

Width = Annotated[int, Field(ge=32, multiple_of=32)]
"""The 32 groups of every normalisation must divide it."""

Multipliers = Annotated[list[Count], Field(min_length=1)]

F16: list[int] = [1, 1, 2, 2, 4]
COARSEST_OF_F16: list[int] = [16]


def downsampling_factor(multipliers: list[int], attention_at: list[int]) -> int:
    """f = 2^(levels - 1).

    Raises:
        TwoStageError: attention at a factor that no level has.
    """
    factors = [2**level for level in range(len(multipliers))]
    if not set(attention_at) <= set(factors):
        allowed = f"of {factors}, the downsampling factors of {len(multipliers)} levels"
        raise refuse("autoencoder.attention_at", attention_at, allowed)
    return factors[-1]


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """The levels that an encoder and its decoder share.

    Attributes:
        width: channels at multiplier 1.
        multipliers: of `width`, per level, from the finest.
        residual_blocks: per level of the encoder.
        attention_at: downsampling factors of the levels that attend: [16] is where a 256 x 256 image is 16 x 16.
        middle_attention: whether the coarsest resolution attends between its last two blocks.
        dropout: inside residual blocks.
    """

    width: Width
    multipliers: Multipliers
    residual_blocks: Count
    attention_at: list[Count]
    middle_attention: bool
    dropout: Fraction

    @property
    def downsampling(self) -> int:
        """f."""
        return downsampling_factor(self.multipliers, self.attention_at)

    def encoder(self, channels: int, out_channels: int) -> nn.Module:
        """[b, channels, H, W] -> [b, out_channels, H/f, W/f]."""
        from diffusers.models.autoencoders.vae import Encoder

        return self._with_dropout(
            Encoder(
                in_channels=channels,
                out_channels=out_channels,
                double_z=False,
                down_block_types=self._blocks("AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
                block_out_channels=self._widths,
                layers_per_block=self.residual_blocks,
                mid_block_add_attention=self.middle_attention,
            )
        )

    def decoder(self, in_channels: int, channels: int, norm: Literal["group", "spatial"] = "group") -> nn.Module:
        """[b, in_channels, h, w] -> [b, channels, f h, f w].

        Args:
            norm: `spatial` normalisations are modulated by a second argument of the decoder, [b, in_channels, h, w].
        """
        from diffusers.models.autoencoders.vae import Decoder

        return self._with_dropout(
            Decoder(
                in_channels=in_channels,
                out_channels=channels,
                up_block_types=self._blocks("AttnUpDecoderBlock2D", "UpDecoderBlock2D")[::-1],
                block_out_channels=self._widths,
                layers_per_block=self.residual_blocks,
                norm_type=norm,
                mid_block_add_attention=self.middle_attention,
            )
        )

    @property
    def _widths(self) -> tuple[int, ...]:
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    def _blocks(self, attending: str, plain: str) -> tuple[str, ...]:
        levels = range(len(self.multipliers))
        return tuple(attending if 2**level in self.attention_at else plain for level in levels)

    def _with_dropout(self, network: nn.Module) -> nn.Module:
        from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D

        for block in network.modules():
            if isinstance(block, ResnetBlock2D | ResnetBlockCondNorm2D):
                block.dropout.p = self.dropout
        return network
