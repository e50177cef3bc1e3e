"""What every autoencoder is: images to latents that are f times smaller, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Images [b, channels, H, W] in [-1, 1] <-> latents [b, latent_dim, H/f, W/f]; f divides H and W.

    A subclass takes `channels` and `latent_dim` and then its own options by keyword, and has an `encoder` and a
    `decoder`, whose last layer makes the image.

    Attributes:
        downsampling: f.
    """

    downsampling: int

    @classmethod
    def downsampling_of(cls, options: Mapping[str, Any]) -> int:
        """f with these options, every default written out; nothing is built.

        Raises:
            TwoStageError: the options do not fit each other.
        """
        return cls.downsampling

    def encode(self, images: Tensor) -> Tensor:
        """Images [b, channels, H, W] -> latents [b, latent_dim, H/f, W/f]."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [b, latent_dim, h, w] -> images [b, channels, f h, f w], about in [-1, 1]."""
        raise NotImplementedError
