"""DiT: "Scalable Diffusion Models with Transformers" (Peebles and Xie, 2023).

Patches of the latents are tokens. In every block c, the sum of a time and a class embedding, gives a scale gamma and a
shift beta after each normalisation and a gate alpha on each branch (adaLN-Zero, Sec. 3.2, Fig. 3):

    h <- h + alpha_1 attention((1 + gamma_1) LN(h) + beta_1),   h <- h + alpha_2 mlp((1 + gamma_2) LN(h) + beta_2)

All six come from one linear layer that starts at zero, so that every block starts as the identity.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from stage2_ldm.backbones.classes import ClassEmbedding
from twostage.config import Count
from twostage.errors import refuse

FREQUENCIES = 256
"""Sines and cosines of the time."""


class DiT(nn.Module):
    """diffusers' DiTTransformer2DModel, with one embedding of time and class for all blocks as in the paper.

    It predicts d channels; the paper's other d, the variance of the noise, are left out.

    Args:
        latent_size, latent_dim: h = w and d of the latents.
        num_classes: N; the class embedding has N + 1 rows, the last for "no class". None: that one only.
        patch: height and width of a token, in latents.
        layers: blocks.
        width: channels of a token.
        heads: of attention.

    Raises:
        TwoStageError: a latent size that is not a multiple of `patch`; a width that is not one of `heads`, or not of
            4, which the sines and cosines of two coordinates need.
    """

    PRESETS: ClassVar[dict[str, dict[str, int]]] = {
        "S": {"layers": 12, "width": 384, "heads": 6},
        "B": {"layers": 12, "width": 768, "heads": 12},
        "L": {"layers": 24, "width": 1024, "heads": 16},
        "XL": {"layers": 28, "width": 1152, "heads": 16},
    }

    def __init__(
        self,
        latent_size: Count,
        latent_dim: Count,
        num_classes: int | None,
        *,
        patch: Count = 2,
        layers: Count = 12,
        width: Count = 384,
        heads: Count = 6,
    ) -> None:
        super().__init__()
        if latent_size % patch:
            raise refuse("denoiser.patch", patch, f"a divisor of the latents' size, {latent_size}")
        if width % 4:
            raise refuse("denoiser.width", width, "a multiple of 4")
        if width % heads:
            raise refuse("denoiser.heads", heads, f"a divisor of denoiser.width ({width})")
        from diffusers import DiTTransformer2DModel
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps

        self.frequencies = Timesteps(FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(FREQUENCIES, width)
        self.classes = ClassEmbedding(num_classes, width)
        self.transformer = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=latent_dim,
            num_layers=layers,
            sample_size=latent_size,
            patch_size=patch,
            num_embeds_ada_norm=1,
            norm_eps=1e-6,
        )
        for block in self.transformer.transformer_blocks:
            block.norm1.emb = Embedded()
        self._initialize()

    def forward(self, latents: Tensor, timesteps: Tensor, class_label: Tensor | None) -> Any:
        """Noisy latents [b, d, h, w], times [b] and class ids [b] -> `.sample`, the prediction [b, d, h, w]."""
        times = self.time(self.frequencies(timesteps).to(latents.dtype))
        return self.transformer(latents, timestep=times + self.classes(class_label, len(latents)))

    def _initialize(self) -> None:
        """The weights before training: ViT's, with blocks that are the identity and a prediction that is zero."""
        patches = self.transformer.pos_embed.proj
        linear = [module for module in self.modules() if isinstance(module, nn.Linear)]
        for layer in [*linear, patches]:
            nn.init.xavier_uniform_(layer.weight.flatten(1))
            nn.init.zeros_(layer.bias)
        for weight in (self.classes.weight, self.time.linear_1.weight, self.time.linear_2.weight):
            nn.init.normal_(weight, std=0.02)
        modulations = [block.norm1.linear for block in self.transformer.transformer_blocks]
        for layer in (*modulations, self.transformer.proj_out_1, self.transformer.proj_out_2):
            nn.init.zeros_(layer.weight)


class Embedded(nn.Module):
    """Stands in each block where diffusers embeds time and class again, and randomly drops the class on its own."""

    def forward(self, timestep: Tensor, class_labels: None, hidden_dtype: Any = None) -> Tensor:
        """c [b, width], given to the transformer in place of the time."""
        return timestep
