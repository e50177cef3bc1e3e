"""What every image data set is: images in [-1, 1] with a class, named classes, one size."""

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

Split = Literal["train", "test"]


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


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n, c, H, W] -> [n, c, size, size], bicubic with antialiasing."""
    if images.shape[2:] == (size, size):
        return images
    planes = (Image.fromarray(plane) for image in images for plane in image)
    resized = [np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(resized).reshape(*images.shape[:2], size, size)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """float in [-1, 1], clipped there -> uint8 in 0..255, rounded."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
