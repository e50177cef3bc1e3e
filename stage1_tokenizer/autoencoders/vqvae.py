"""The small convolutional autoencoder of "Neural Discrete Representation Learning" (2017), f = 4.

The network of CVQ's experiments on MNIST, Fashion-MNIST and CIFAR-10 (Sec. 4.1): two stride-2 convolutions, a 3x3
convolution and a stack of residual blocks; the decoder mirrors it.
"""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stage1_tokenizer.autoencoders.base import Autoencoder
from twostage.config import Count, NonNegativeInt


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))) on [b, width, h, w]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.pointwise = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(F.relu(self.spatial(F.relu(x))))


class VQVAE(Autoencoder):
    """Images [b, channels, H, W] <-> latents [b, latent_dim, H/4, W/4].

    Args:
        channels: of the images.
        latent_dim: d.
        width: channels inside; half of it at half resolution.
        residual_blocks: on either side.
        residual_width: channels inside a residual block.
    """

    downsampling = 4

    def __init__(
        self,
        channels: Count,
        latent_dim: Count,
        *,
        width: Annotated[int, Field(ge=2)] = 128,
        residual_blocks: NonNegativeInt = 2,
        residual_width: Count = 32,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            *(ResidualBlock(width, residual_width) for _ in range(residual_blocks)),
            nn.ReLU(),
            nn.Conv2d(width, latent_dim, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_dim, width, 3, padding=1),
            *(ResidualBlock(width, residual_width) for _ in range(residual_blocks)),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width // 2, channels, 4, stride=2, padding=1),
        )

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)
