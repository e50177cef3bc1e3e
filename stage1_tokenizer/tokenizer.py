"""VQTokenizer: images <-> codes. An autoencoder with a quantiser between its halves."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput
from twostage.models import CheckedLoading


class VQTokenizer(CheckedLoading, ModelMixin, ConfigMixin):
    """A discrete image tokenizer, saved as config.json and safetensors.

    Args:
        autoencoder_config: `{name: ..., option: value}` of `AUTOENCODERS`.
        quantizer_config: `{name: ..., option: value}` of `QUANTIZERS`.
        image_size: H = W of the images it was trained on.
        channels: of the images, 1 or 3.
    """

    _keep_in_fp32_modules = ("quantizer",)

    @register_to_config
    def __init__(
        self, autoencoder_config: dict[str, Any], quantizer_config: dict[str, Any], image_size: int, channels: int
    ) -> None:
        super().__init__()
        self.quantizer: Quantizer = QUANTIZERS.build(quantizer_config)
        self.autoencoder = AUTOENCODERS.build(autoencoder_config, channels=channels, latent_dim=self.quantizer.dim)

    @property
    def downsampling(self) -> int:
        """f: images [.., H, W] have latents [.., H/f, W/f]."""
        return self.autoencoder.downsampling

    @property
    def latent_size(self) -> int:
        """h = w of the latents of an image of `image_size`."""
        return self.config["image_size"] // self.downsampling

    def encode_latents(self, images: Tensor) -> Tensor:
        """The encoder's output before quantisation: images [b, c, H, W] in [-1, 1] -> z [b, d, h, w]."""
        return self.autoencoder.encode(images)

    def quantize(self, z: Tensor) -> QuantizerOutput:
        """z [b, d, h, w] -> codes and the vectors the decoder gets."""
        return self.quantizer(z)

    def encode(self, images: Tensor) -> QuantizerOutput:
        """Images [b, c, H, W] in [-1, 1] -> codes [b, h, w] and z_q [b, d, h, w]."""
        return self.quantize(self.encode_latents(images))

    def decode(self, z_q: Tensor) -> Tensor:
        """Vectors [b, d, h, w] -> images [b, c, H, W], about in [-1, 1]."""
        return self.autoencoder.decode(z_q)

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Codes, int [b, h, w] in 0..K-1 -> images [b, c, H, W], about in [-1, 1]."""
        return self.decode(self.quantizer.decode(codes).to(self.dtype))

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction of images [b, c, H, W] in [-1, 1]."""
        return self.decode(self.encode(images).z_q)

    def compile(self, *args: Any, **options: Any) -> None:
        """`torch.compile` for what `encode` and `decode` call, which is never the tokenizer itself."""
        self.autoencoder.encoder.compile(*args, **options)
        self.autoencoder.decoder.compile(*args, **options)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """`decode(encode(images))` clipped to [-1, 1]."""
        return self(images).clamp(-1, 1)


# Saved pipelines name a component by its package, so that files can move inside the package.
VQTokenizer.__module__ = "stage1_tokenizer"
