"""The UNets of latent diffusion: their settings, and ours."""

from typing import Any, Literal

from pydantic import Field, model_validator

from twostage.config import Count, Fraction, Section
from twostage.errors import refuse

NORM_GROUPS = 32
UNSET = -1
"""What the published code writes for a number that is not given."""


class UNetParams(Section):
    """`unet_config.params`.

    Attributes:
        attention_resolutions: not sizes but factors: 2 attends where the latents are halved once.
        channel_mult: widths in multiples of `model_channels`.
        num_heads, num_head_channels: one of them; the second wins.
        use_spatial_transformer, context_dim: whether it attends to a condition, of this width.
        image_size, use_checkpoint, use_fp16: of no effect on what the network computes here.
    """

    in_channels: Count
    out_channels: Count
    model_channels: Count
    num_res_blocks: Count
    attention_resolutions: list[Count]
    channel_mult: list[Count] = Field(min_length=1)
    num_heads: Count | Literal[-1] = UNSET
    num_head_channels: Count | Literal[-1] = UNSET
    dropout: Fraction = 0.0
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_spatial_transformer: bool = False
    context_dim: Count | None = None
    transformer_depth: Literal[1] = 1
    conv_resample: Literal[True] = True
    dims: Literal[2] = 2
    num_classes: None = None
    use_new_attention_order: Literal[False] = False
    legacy: Literal[True] = True
    image_size: int | None = None
    use_checkpoint: bool = False
    use_fp16: bool = False

    @model_validator(mode="after")
    def _has_a_counterpart(self) -> "UNetParams":
        if self.out_channels != self.in_channels:
            raise refuse("out_channels", self.out_channels, f"in_channels ({self.in_channels})")
        if self.channel_mult[0] != 1:
            raise refuse("channel_mult", self.channel_mult, "a list that starts with 1")
        if self.num_heads == self.num_head_channels == UNSET:
            raise refuse("num_heads", self.num_heads, "a number of heads, or num_head_channels")
        if self.use_spatial_transformer != (self.context_dim is not None):
            raise refuse("context_dim", self.context_dim, "a number with use_spatial_transformer, and only then")
        for key in ("use_scale_shift_norm", "resblock_updown"):
            if self.use_spatial_transformer and getattr(self, key):
                raise refuse(key, True, "False, with use_spatial_transformer")
        return self

    @property
    def attends(self) -> list[bool]:
        """Whether each resolution has attention, from the finest."""
        return [2**level in self.attention_resolutions for level in range(len(self.channel_mult))]

    def heads(self, width: int) -> int:
        """How many heads an attention of so many channels has."""
        return self.num_heads if self.num_head_channels == UNSET else width // self.num_head_channels

    def options(self) -> dict[str, Any]:
        """The same as our networks have it."""
        by_number = self.num_head_channels == UNSET
        common = {
            "widths": [self.model_channels * multiplier for multiplier in self.channel_mult],
            "layers": self.num_res_blocks,
            "attention": self.attends,
            "head_dim": None if by_number else self.num_head_channels,
            "heads": self.num_heads if by_number else None,
            "norm_groups": NORM_GROUPS,
            "dropout": self.dropout,
        }
        if self.use_spatial_transformer:
            return {"name": "cross_attention_unet", "context_dim": self.context_dim, **common}
        return {
            "name": "unet",
            "conditioning": "scale_shift" if self.use_scale_shift_norm else "shift",
            "resampling": "residual" if self.resblock_updown else "convolution",
            **common,
        }
