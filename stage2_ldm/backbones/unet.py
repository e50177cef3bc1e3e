"""The UNet of "High-Resolution Image Synthesis with Latent Diffusion Models" (Rombach et al., 2022).

Unconditional there (LSUN, FFHQ, CelebA-HQ); here a class may be added to the time embedding.
"""

from typing import Any, Literal

from torch import nn

from stage2_ldm.backbones.levels import check_levels
from twostage.config import Count, Fraction

DOWN = {"convolution": "DownBlock2D", "residual": "ResnetDownsampleBlock2D"}
UP = {"convolution": "UpBlock2D", "residual": "ResnetUpsampleBlock2D"}
"""diffusers' blocks without attention, by how they change the resolution; those with attention take it as an option."""


def unet(
    latent_size: Count,
    latent_dim: Count,
    num_classes: int | None,
    *,
    widths: list[Count],
    layers: Count = 2,
    attention: list[bool] | None = None,
    head_dim: Count | None = 32,
    heads: Count | None = None,
    norm_groups: Count = 32,
    conditioning: Literal["shift", "scale_shift"] = "shift",
    resampling: Literal["convolution", "residual"] = "convolution",
    dropout: Fraction = 0.0,
) -> nn.Module:
    """diffusers' UNet2DModel. The defaults are those of LDM's bedrooms, FFHQ and CelebA-HQ models.

    Args:
        latent_size, latent_dim: h = w and d of the latents.
        num_classes: N; the class embedding has N + 1 rows, the last for "no class". None: no class embedding.
        widths: channels at each resolution, from the finest; every next resolution is half of it.
        layers: residual blocks per resolution.
        attention: whether each resolution has self-attention; by default all but the finest.
        head_dim, heads: channels of an attention head, or the number of heads at every width; the other is null.
        norm_groups: of group normalisation.
        conditioning: whether the time and class embeddings are added before the second normalisation of a residual
            block, or scale and shift its result.
        resampling: from one resolution to the next by a convolution or a residual block.

    Raises:
        TwoStageError: widths, attention or heads that do not fit; see `check_levels`.
    """
    levels = check_levels(latent_size, widths, attention, head_dim, heads, norm_groups)
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=latent_size,
        in_channels=latent_dim,
        out_channels=latent_dim,
        block_out_channels=levels.widths,
        layers_per_block=layers,
        down_block_types=tuple("AttnDownBlock2D" if a else DOWN[resampling] for a in levels.attends),
        up_block_types=tuple("AttnUpBlock2D" if a else UP[resampling] for a in reversed(levels.attends)),
        downsample_type="resnet" if resampling == "residual" else "conv",
        upsample_type="resnet" if resampling == "residual" else "conv",
        attention_head_dim=head_dim,
        norm_num_groups=norm_groups,
        attn_norm_num_groups=norm_groups,  # else the middle does not normalise with scale_shift
        resnet_time_scale_shift="scale_shift" if conditioning == "scale_shift" else "default",
        dropout=dropout,
        num_class_embeds=None if num_classes is None else num_classes + 1,
    )
    if heads is not None:
        _split_attention(network, heads)
    return network


def _split_attention(network: nn.Module, heads: int) -> None:
    """So many heads at every width, where diffusers knows one width of heads for all."""
    from diffusers.models.attention_processor import Attention

    for module in network.modules():
        if isinstance(module, Attention):
            module.heads = module.sliceable_head_dim = heads
            module.scale = (module.inner_dim // heads) ** -0.5


FACES_AND_BEDROOMS: dict[str, Any] = {"widths": [224, 448, 672, 896], "attention": [False, True, True, True]}
unet.PRESETS = {  # type: ignore[attr-defined]
    "lsun_churches": {
        "widths": [192, 384, 384, 768, 768],
        "attention": [True, True, True, True, False],
        "head_dim": None,
        "heads": 8,
        "conditioning": "scale_shift",
        "resampling": "residual",
    },
    "lsun_bedrooms": FACES_AND_BEDROOMS,
    "ffhq": FACES_AND_BEDROOMS,
    "celebahq": FACES_AND_BEDROOMS,
}
