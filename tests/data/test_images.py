import numpy as np
import pytest
import torch

from twostage.data.images import ArrayImages, LabelledArrays, from_uint8, to_uint8


def test_every_byte_survives_the_round_trip() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    images = from_uint8(values)
    assert images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    assert torch.equal(to_uint8(images), values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_end_at_the_same_bytes(dtype: torch.dtype) -> None:
    ends = torch.tensor([-1.0, 1.0], dtype=dtype)
    assert to_uint8(ends).tolist() == [0, 255]


def test_to_uint8_clips_and_rounds() -> None:
    images = torch.tensor([-7.0, -1.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1.0, 1.5])
    assert to_uint8(images).tolist() == [0, 0, 0, 1, 255, 255]


def test_from_uint8_leaves_its_input_alone() -> None:
    values = torch.tensor([0, 255], dtype=torch.uint8)
    from_uint8(values)
    assert values.tolist() == [0, 255]


def test_array_images_gives_floats_and_plain_labels() -> None:
    pixels = np.array([[[[0, 255], [255, 0]]], [[[255, 255], [0, 0]]]], dtype=np.uint8)
    dataset = ArrayImages(LabelledArrays(pixels, np.array([1, 0])), ["a", "b"])
    assert (len(dataset), dataset.channels, dataset.image_size, dataset.classes) == (2, 1, 2, ["a", "b"])
    example = dataset[0]
    assert example["images"].tolist() == [[[-1, 1], [1, -1]]]
    assert type(example["class_label"]) is int and example["class_label"] == 1
