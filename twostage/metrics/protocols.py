"""How reconstructions are compared: on the numbers as they are, or as a paper did it."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from twostage.data.images import from_uint8, to_uint8
from twostage.metrics.reconstruction import MEASURES, Measure, l1, psnr, ssim_uniform


@dataclass(frozen=True)
class Protocol:
    """What happens to images [b, c, H, W] in [-1, 1] before they are measured, and which measures are taken."""

    prepare: Callable[[Tensor], Tensor]
    measures: Mapping[str, Measure]


def as_jpeg(images: Tensor) -> Tensor:
    """The images as they come back from JPEG files of Pillow's default quality, three channels each."""
    pixels = to_uint8(images).cpu().expand(-1, 3, -1, -1)
    return from_uint8(torch.stack([_through_jpeg(image) for image in pixels])).to(images.device)


def _through_jpeg(image: Tensor) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format="JPEG")
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "default": Protocol(prepare=lambda images: images, measures=MEASURES),
        # "Online Clustered Codebook" (2023): its tables are computed on pairs saved as JPEG, SSIM with equal weights.
        "cvq": Protocol(prepare=as_jpeg, measures={"L1": l1, "PSNR": psnr, "SSIM": ssim_uniform}),
    }
)
