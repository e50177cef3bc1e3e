"""The Inception of 2015 that FID, KID and IS are defined on, as torch-fidelity has it, behind one of two resizes.

`tensorflow`: TensorFlow 1's bilinear interpolation, inside the network as published: the original FID and IS,
torch-fidelity, latent diffusion, guided-diffusion. It does not smooth before it shrinks.
`pillow`: bicubic with antialiasing, in float, neither rounded nor clipped. Parmar, Zhang, Zhu, "On aliased resizing and
surprising subtleties in GAN evaluation", 2022 (clean-fid), which resizes each channel so with Pillow.
"""

from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from twostage.metrics.outputs import Features

Resize = Literal["tensorflow", "pillow"]

INPUT_SIZE = 299


class Inception(nn.Module):
    """2048 pooled features, and the 1008 logits without bias that IS is defined on.

    Args:
        weights: torch-fidelity's file.
        resize: how images become `INPUT_SIZE` pixels wide and high.
    """

    def __init__(self, weights: Path, resize: Resize) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        super().__init__()
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
        )
        layers = list(network.children())  # in the order in which the network applies them, `fc` last
        self.body, self.head = nn.Sequential(*layers[:-1]), layers[-1]
        self.resize = RESIZES[resize]

    def forward(self, images: Tensor) -> Features:
        """images uint8 [b, 3, H, W] in 0..255 -> features."""
        features = self.body((self.resize(images.float()) - 128) / 128).flatten(1)
        return Features(features=features, logits=features @ self.head.weight.T)


def resize_like_tensorflow(images: Tensor) -> Tensor:
    """float [b, c, H, W] -> [b, c, 299, 299]."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(images, size=(INPUT_SIZE, INPUT_SIZE), align_corners=False)


def resize_like_pillow(images: Tensor) -> Tensor:
    """float [b, c, H, W] -> [b, c, 299, 299], which may overshoot 0..255."""
    return F.interpolate(images, size=(INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True)


RESIZES = {"tensorflow": resize_like_tensorflow, "pillow": resize_like_pillow}
