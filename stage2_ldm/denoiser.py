"""LatentDenoiser: the network of stage two, with the statistics of the latents it was trained on."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from stage2_ldm.backbones import BACKBONES
from twostage.models import CheckedLoading


class LatentDenoiser(CheckedLoading, ModelMixin, ConfigMixin):
    """Predicts the noise (or what its objective asks for) in normalised latents, given a class.

    The scale of the latents belongs here and is applied here only: `normalize` before noise is added, `denormalize`
    before decoding.

    Args:
        backbone_config: `{name: ..., option: value}` of `BACKBONES`.
        latent_size, latent_dim: h = w and d of the latents.
        num_classes: N, or None for an unconditional model.
        prediction_type: what `forward` returns, in diffusers' terms.
        latents: `quantized` (looked up from codes) or `continuous` (before quantisation).
        latent_mean, latent_std: per channel, measured over the training latents.
        knows_no_class: whether it was also trained without a class, which guidance needs.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        backbone_config: dict[str, Any],
        latent_size: int,
        latent_dim: int,
        num_classes: int | None,
        prediction_type: str,
        latents: str,
        latent_mean: list[float],
        latent_std: list[float],
        knows_no_class: bool = True,
    ) -> None:
        super().__init__()
        # To bring it to a GPU in every step would be to wait for the one before.
        self._held: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self.backbone = BACKBONES.build(
            backbone_config, latent_size=latent_size, latent_dim=latent_dim, num_classes=num_classes
        )

    @property
    def null_class(self) -> int:
        """The class id that means "no class"."""
        return self.config["num_classes"]

    def forward(self, latents: Tensor, timesteps: Tensor, class_label: Tensor | None = None) -> Tensor:
        """Denoise.

        Args:
            latents: noisy and normalised, [b, d, h, w].
            timesteps: [b] or a scalar, integers or, for flows, real numbers.
            class_label: int64 [b] in 0..N, N meaning "no class"; None means "no class" for all.

        Returns:
            [b, d, h, w], see `prediction_type`.
        """
        timesteps = timesteps.to(latents.device).expand(len(latents))
        return self.backbone(latents, timesteps, self._classes(latents, class_label)).sample

    def _classes(self, latents: Tensor, class_label: Tensor | None) -> Tensor | None:
        if self.config["num_classes"] is None:
            return None
        if class_label is None:
            return torch.full((len(latents),), self.null_class, device=latents.device)
        return class_label

    def normalize(self, latents: Tensor) -> Tensor:
        """Latents [b, d, h, w] as the tokenizer has them -> mean 0, variance 1 per channel."""
        return (latents - self._per_channel("latent_mean", latents)) / self._per_channel("latent_std", latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return latents * self._per_channel("latent_std", latents) + self._per_channel("latent_mean", latents)

    def _per_channel(self, name: str, like: Tensor) -> Tensor:
        key = (name, like.dtype, like.device)
        if key not in self._held:
            self._held[key] = torch.tensor(self.config[name], dtype=like.dtype, device=like.device)[:, None, None]
        return self._held[key]


LatentDenoiser.__module__ = "stage2_ldm"
