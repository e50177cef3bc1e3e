"""The CelebA-HQ network of "Beyond Stationarity: Rethinking Codebook Collapse in Vector Quantization" (2026), Tab. 1.

Two stride-2 convolutions, residual layers, a 1x1 convolution to d = 64; the decoder mirrors it. As the table has it,
the latents pass through a LeakyReLU and the images through a Tanh. What a residual layer is, the table leaves to the
released code: x + conv1x1(relu(conv3x3(x))), without biases.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from stage1_tokenizer.autoencoders.base import Autoencoder
from twostage.config import Count, NonNegativeInt


class ResidualLayer(nn.Module):
    """x + conv1x1(relu(conv3x3(x))) on [b, width, h, w]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class CelebAHQ(Autoencoder):
    """Images [b, channels, H, W] <-> latents [b, latent_dim, H/4, W/4].

    Args:
        channels: of the images.
        latent_dim: d.
        width: channels inside; half of it at half resolution.
        residual_layers: on either side.
    """

    downsampling = 4

    def __init__(
        self,
        channels: Count,
        latent_dim: Count,
        *,
        width: Annotated[int, Field(ge=2)] = 256,
        residual_layers: NonNegativeInt = 6,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width // 2, 4, stride=2, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(),
            *(ResidualLayer(width) for _ in range(residual_layers)),
            nn.LeakyReLU(),
            nn.Conv2d(width, latent_dim, 1),
            nn.LeakyReLU(),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_dim, width, 3, padding=1),
            nn.LeakyReLU(),
            *(ResidualLayer(width) for _ in range(residual_layers)),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(width // 2, channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)
