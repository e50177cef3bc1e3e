"""Denoising networks by name. The signature is the schema of the options; diffusers is imported when one is built."""

from torch import nn

from twostage.config import Count, Fraction
from twostage.errors import refuse
from twostage.registry import Registry

BACKBONES = Registry(
    "denoiser",
    {"unet": "stage2_ldm.backbones:unet"},
    provided=("latent_size", "latent_dim", "num_classes"),
)


def unet(
    latent_size: Count,
    latent_dim: Count,
    num_classes: int | None,
    *,
    widths: list[Count],
    layers: Count = 2,
    attention: list[bool] | None = None,
    head_dim: Count = 32,
    norm_groups: Count = 32,
    dropout: Fraction = 0.0,
) -> nn.Module:
    """The UNet of "High-Resolution Image Synthesis with Latent Diffusion Models" (2022), as diffusers builds it.

    Args:
        latent_size, latent_dim: h = w and d of the latents.
        num_classes: N; the class embedding has N + 1 rows, the last for "no class". None: no class embedding.
        widths: channels at each resolution, from the finest; every next resolution is half of it.
        layers: residual blocks per resolution.
        attention: whether each resolution has self-attention; by default all but the finest.
        head_dim: channels of an attention head.
        norm_groups: of group normalisation; must divide every width. A group of one channel would normalise the
            time and class embeddings away, which are added per channel.

    Raises:
        TwoStageError: a width that `norm_groups` does not divide at least twice, or has attention and is not a
            multiple of `head_dim`; another number of `attention` than of widths; or a latent size that cannot be
            halved so often.
    """
    if not widths:
        raise refuse("denoiser.widths", widths, "one number of channels per resolution, at least one")
    if any(width % norm_groups or width < 2 * norm_groups for width in widths):
        raise refuse("denoiser.widths", widths, f"multiples of denoiser.norm_groups ({norm_groups}), at least twice it")
    halvings = len(widths) - 1
    if latent_size % 2**halvings:
        raise refuse("denoiser.widths", widths, f"so few that latents of {latent_size} can be halved between them")
    attends = [False] + [True] * halvings if attention is None else attention
    if len(attends) != len(widths):
        raise refuse("denoiser.attention", attention, f"one of true or false for each of the {len(widths)} widths")
    attended = [width for width, attend in zip(widths, attends) if attend] + [widths[-1]]  # the middle always attends
    if any(width % head_dim for width in attended):
        raise refuse("denoiser.head_dim", head_dim, f"a divisor of every width with attention, here {attended}")
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=latent_size,
        in_channels=latent_dim,
        out_channels=latent_dim,
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        attention_head_dim=head_dim,
        norm_num_groups=norm_groups,
        dropout=dropout,
        num_class_embeds=None if num_classes is None else num_classes + 1,
    )
