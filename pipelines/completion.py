"""Image completion: what both pipelines do with an image and a mask of what to draw anew."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.errors import TwoStageError, refuse


@dataclass(frozen=True, kw_only=True)
class Known:
    """An image of which a part is to be drawn anew.

    Attributes:
        images: [b, c, H, W] in [-1, 1].
        mask: bool [b, 1, H, W], true where pixels are to be drawn.
    """

    images: Tensor
    mask: Tensor

    def blanked(self) -> Tensor:
        """The images with the mean of what is known in place of what is not, so that nothing of it is encoded."""
        kept = (~self.mask).to(self.images)
        mean = (self.images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.where(self.mask, mean, self.images)

    def latent_mask(self, downsampling: int) -> Tensor:
        """bool [b, 1, h, w]: true where any pixel under a latent position is to be drawn."""
        return F.max_pool2d(self.mask.float(), downsampling) > 0

    def paste(self, drawn: Tensor) -> Tensor:
        """Images [b, c, H, W] with the known pixels put back."""
        return torch.where(self.mask.to(drawn.device), drawn, self.images.to(drawn))


def known_part(image: Any, mask: Any, count: int, tokenizer: VQTokenizer) -> Known | None:
    """The image and mask of a call, as many as there are samples; None without either.

    Args:
        image: PIL, array or tensor in [0, 1], one or a list of `count`.
        mask: the same for one channel; above 0.5 (white) is drawn anew, below (black) is kept.

    Raises:
        TwoStageError: one without the other, another size than the tokenizer's, or another number.
    """
    if image is None and mask is None:
        return None
    if image is None or mask is None:
        raise TwoStageError("image and mask belong together: give both, or neither")
    channels, size = tokenizer.config["channels"], tokenizer.config["image_size"]
    images = _read("image", image, count, size, convert_gray=channels == 1, convert_rgb=channels == 3)
    masks = _read("mask", mask, count, size, convert_gray=True)
    if images.shape[1] != channels:
        raise refuse("image", f"{images.shape[1]} channels", f"{channels}, as the tokenizer has them")
    return Known(images=images * 2 - 1, mask=masks[:, :1] > 0.5)


def _read(what: str, value: Any, count: int, size: int, *, convert_gray: bool, convert_rgb: bool = False) -> Tensor:
    processor = VaeImageProcessor(
        do_resize=False,
        do_normalize=False,
        vae_scale_factor=1,
        do_convert_grayscale=convert_gray,
        do_convert_rgb=convert_rgb,
    )
    read = processor.preprocess(value)
    if read.shape[-2:] != (size, size):
        raise refuse(what, f"{read.shape[-1]}x{read.shape[-2]} pixels", f"{size}x{size}, the tokenizer's size")
    if len(read) not in (1, count):
        raise refuse(what, f"{len(read)} of them", f"one, or one per sample ({count})")
    return read.expand(count, -1, -1, -1)
