import numpy as np
import pytest

from twostage.data import DATASETS
from twostage.data.shapes import SHAPES, Row, Shapes, draw
from twostage.errors import TwoStageError


def luminance(images: np.ndarray) -> np.ndarray:
    return np.tensordot(images.astype(np.float64), [0.299, 0.587, 0.114], axes=([1], [0])) / 255


def test_defaults() -> None:
    train, test = Shapes("train"), Shapes("test")
    assert (len(train), len(test)) == (8000, 1000)
    assert train.arrays.images.shape == (8000, 3, 32, 32) and train.arrays.images.dtype == np.uint8
    assert (train.image_size, train.channels, train.classes) == (32, 3, list(SHAPES))
    assert len(set(train.classes)) == 10


def test_the_seed_decides_every_byte() -> None:
    first, again, other = (Shapes("train", count=60, seed=seed).arrays.images for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).all()


def test_no_global_randomness() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    Shapes("train", count=10)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_the_first_images_do_not_depend_on_count_or_batches() -> None:
    few, many = Shapes("train", count=7), Shapes("train", count=300)
    np.testing.assert_array_equal(few.arrays.images, many.arrays.images[:7])
    np.testing.assert_array_equal(few.arrays.labels, many.arrays.labels[:7])


def test_train_and_test_share_no_image() -> None:
    images = [image.tobytes() for split in ("train", "test") for image in Shapes(split, count=500).arrays.images]
    assert len(set(images)) == 1000


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_balanced(split) -> None:
    assert np.bincount(Shapes(split).arrays.labels).tolist() == [len(Shapes(split)) // 10] * 10


def test_examples_are_floats_in_range() -> None:
    dataset = Shapes("test", count=40)
    images = np.stack([dataset[i]["images"].numpy() for i in range(40)])
    assert images.shape == (40, 3, 32, 32) and images.dtype == np.float32
    assert -1 <= images.min() < -0.8 and 0.8 < images.max() <= 1
    assert [dataset[i]["class_label"] for i in range(12)] == [*range(10), 0, 1]


@pytest.mark.parametrize("size", [16, 48])
def test_another_size_shows_the_same_picture(size: int) -> None:
    small, large = Shapes("train", count=20, image_size=size), Shapes("train", count=20, image_size=2 * size)
    assert small.arrays.images.shape == (20, 3, size, size)
    shrunk = large.arrays.images.reshape(20, 3, size, 2, size, 2).mean(axis=(3, 5))
    assert np.abs(shrunk - small.arrays.images).mean() < 5


def test_the_shape_stands_out_from_its_background() -> None:
    """The same numbers drawn as two shapes differ only where one of them is, and there by a clear step."""
    uniform = np.random.default_rng(0).random((200, Row.COLUMNS))
    names = list(SHAPES)
    discs = draw(uniform, np.full(200, names.index("circle")), 32)
    rings = draw(uniform, np.full(200, names.index("ring")), 32)
    step = np.abs(luminance(discs) - luminance(rings)).max(axis=(1, 2))
    assert step.min() > 0.15


def test_shapes_of_different_classes_differ() -> None:
    """With a plain white fill on black in the same place, every two classes disagree on many pixels."""
    axis = (np.arange(32, dtype=np.float32) - 15.5) / 16
    x, y = np.broadcast_arrays(axis[None, :], -axis[:, None])
    masks = np.stack([shape(x[None], y[None])[0] < 0 for shape in SHAPES.values()])
    area = masks.mean(axis=(1, 2))
    assert (area > 0.15).all() and (area < 0.7).all()
    for i in range(10):
        for j in range(i):
            both = (masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum()
            assert both < 0.83, (list(SHAPES)[i], list(SHAPES)[j])


def test_built_from_a_config() -> None:
    component = DATASETS.resolve({"name": "shapes", "count": 5}, "data")
    assert component == {"name": "shapes", "image_size": 32, "count": 5, "seed": 0}
    assert len(DATASETS.build(component, split="test")) == 5


@pytest.mark.parametrize(("key", "value"), [("image_size", 0), ("count", 0), ("seed", -1), ("count", "many")])
def test_a_bad_option_is_named(key: str, value: object) -> None:
    with pytest.raises(TwoStageError, match=rf"data\.{key}.*{value}"):
        DATASETS.resolve({"name": "shapes", key: value}, "data")
