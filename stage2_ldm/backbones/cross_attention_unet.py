"""The class-conditional UNet of "High-Resolution Image Synthesis with Latent Diffusion Models" (2022, Sec. 3.3).

Where it attends to itself it also attends to the class: one token y, a learned vector.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(width of a head)) V,   Q = W_Q h,  K = W_K y,  V = W_V y

Over a single token the softmax is 1: queries and keys are there as published, but only V acts.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from stage2_ldm.backbones.classes import ClassEmbedding
from stage2_ldm.backbones.levels import check_levels
from twostage.config import Count, Fraction


class CrossAttentionUNet(nn.Module):
    """diffusers' UNet2DConditionModel over one class token.

    Args:
        latent_size, latent_dim: h = w and d of the latents.
        num_classes: N; there are N + 1 tokens, the last for "no class". None: that one only.
        widths: channels at each resolution, from the finest; every next resolution is half of it.
        layers: residual blocks per resolution.
        attention: whether each resolution attends; by default all but the finest.
        head_dim, heads: channels of an attention head, or the number of heads at every width; the other is null.
        context_dim: width of the class token.
        norm_groups: of group normalisation.

    Raises:
        TwoStageError: widths, attention or heads that do not fit; see `check_levels`.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "imagenet": {"widths": [256, 512, 1024], "attention": [True, True, True]},
        "imagenet_f4": {
            "widths": [192, 384, 576, 960],
            "attention": [False, True, True, True],
            "head_dim": None,
            "heads": 1,
        },
    }

    def __init__(
        self,
        latent_size: Count,
        latent_dim: Count,
        num_classes: int | None,
        *,
        widths: list[Count],
        layers: Count = 2,
        attention: list[bool] | None = None,
        head_dim: Count | None = 32,
        heads: Count | None = None,
        context_dim: Count = 512,
        norm_groups: Count = 32,
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        levels = check_levels(latent_size, widths, attention, head_dim, heads, norm_groups)
        from diffusers import UNet2DConditionModel

        self.classes = ClassEmbedding(num_classes, context_dim)
        self.unet = UNet2DConditionModel(
            sample_size=latent_size,
            in_channels=latent_dim,
            out_channels=latent_dim,
            block_out_channels=levels.widths,
            layers_per_block=layers,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in levels.attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(levels.attends)),
            attention_head_dim=levels.heads,  # that is what diffusers calls the number of heads here
            cross_attention_dim=context_dim,
            norm_num_groups=norm_groups,
            dropout=dropout,
        )

    def forward(self, latents: Tensor, timesteps: Tensor, class_label: Tensor | None) -> Any:
        """Noisy latents [b, d, h, w], times [b] and class ids [b] -> `.sample`, the prediction [b, d, h, w]."""
        return self.unet(latents, timesteps, self.classes(class_label, len(latents))[:, None])
