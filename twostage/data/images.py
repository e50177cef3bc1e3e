"""What every image data set is: images in [-1, 1] with a class, named classes, one size; and how an image gets there.

An image is cropped to its centre square, then resized with Pillow's bicubic filter, which is antialiased (when an image
shrinks, the filter grows by the same factor): what LSUN's loader in latent diffusion and score-sde does, and what
published FIDs of LSUN and ImageNet refer to. The orientation that a camera noted in a file is not heeded there either.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Literal, TypedDict

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from twostage.errors import TwoStageError

Split = Literal["train", "test"]
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation")}
"""What the folders of a split are called."""


class MissingSplit(TwoStageError):
    """The data is there, but not the images of the split asked for."""


class ImageExample(TypedDict):
    """One example; a loader stacks them into [b, c, H, W] and [b]."""

    images: Tensor
    """float32 [c, H, W] in [-1, 1]"""
    class_label: int


class ImageDataset(Dataset[ImageExample]):
    """A map-style data set of square images.

    Attributes:
        classes: class names; `class_label` i belongs to `classes[i]`. Empty when the data has no labels.
        image_size: H = W.
        channels: 1 or 3.
    """

    classes: list[str]
    image_size: int
    channels: int

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> ImageExample:
        raise NotImplementedError

    def spread(self, count: int) -> list[int]:
        """Indices of `count` images, or all, that stand for the others."""
        return torch.linspace(0, len(self) - 1, min(count, len(self)), dtype=torch.float64).long().tolist()


@dataclass(frozen=True)
class LabelledArrays:
    """Images as uint8 [n, c, H, W] and their class labels as int64 [n]."""

    images: np.ndarray
    labels: np.ndarray


class ArrayImages(ImageDataset):
    """A data set that fits in memory: uint8 there, float when asked for."""

    def __init__(self, arrays: LabelledArrays, classes: list[str]) -> None:
        self.arrays, self.classes = arrays, classes
        _, self.channels, self.image_size, _ = arrays.images.shape

    def __len__(self) -> int:
        return len(self.arrays.labels)

    def __getitem__(self, index: int) -> ImageExample:
        image = torch.from_numpy(self.arrays.images[index])
        return {"images": from_uint8(image), "class_label": int(self.arrays.labels[index])}


def opened(data: bytes) -> Image.Image:
    """The image in a file's contents, of any format that Pillow knows, not decoded yet.

    The contents may also be those of a .npy file: uint8 [H, W], [H, W, c] or [c, H, W], or the same with a 1 before, as
    CelebA-HQ is often kept.

    Raises:
        Exception: of any kind; decoders of broken files raise whatever they stumble over.
    """
    if data.startswith(np.lib.format.MAGIC_PREFIX):
        return _from_array(np.lib.format.read_array(BytesIO(data), allow_pickle=False))
    try:
        image = Image.open(BytesIO(data))
    except UnidentifiedImageError:
        raise ValueError("no image of a known format") from None
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode}: more than 8 bits a channel")
    return image


def _from_array(array: np.ndarray) -> Image.Image:
    shape, dtype = array.shape, array.dtype
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))):
        raise ValueError(f"an array {dtype} {list(shape)}; allowed: one image, uint8")
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else np.ascontiguousarray(array))


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square of an image, resized to size x size, bicubic with antialiasing."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n, c, H, W] -> [n, c, size, size], each plane as `square` does it."""
    if images.shape[2:] == (size, size):
        return images
    planes = (Image.fromarray(plane) for image in images for plane in image)
    return np.stack([np.asarray(square(plane, size)) for plane in planes]).reshape(*images.shape[:2], size, size)


def to_tensor(image: Image.Image) -> Tensor:
    """A gray or RGB image -> float32 [c, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1)
    return from_uint8(pixels.permute(2, 0, 1).contiguous())


def from_uint8(images: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """float in [-1, 1], clipped there -> uint8 in 0..255, rounded."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
