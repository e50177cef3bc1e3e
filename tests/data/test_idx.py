import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from twostage.data import DATASETS
from twostage.data.check import check_dataset
from twostage.data.idx import Idx
from twostage.errors import TwoStageError

FASHION = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fashion_mnist"


def encode(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.array([5, 0, 4, 1, 9, 2], dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """A data set with plain training files and gzipped test files."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(encode(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encode(labels))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(images[:2])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode(labels[:2])))
    return tmp_path


def test_plain_files(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    dataset = Idx("train", root=str(root))
    assert (len(dataset), dataset.channels, dataset.image_size) == (6, 1, 28)
    assert dataset.classes == list("0123456789")
    np.testing.assert_array_equal(dataset.arrays.images[:, 0], images)
    assert [dataset[i]["class_label"] for i in range(6)] == labels.tolist()
    np.testing.assert_allclose(dataset[3]["images"][0].numpy(), images[3] / 127.5 - 1, atol=1e-6)


def test_gzipped_files(root: Path, images: np.ndarray) -> None:
    dataset = Idx("test", root=str(root))
    np.testing.assert_array_equal(dataset.arrays.images[:, 0], images[:2])


def test_resized(root: Path, images: np.ndarray) -> None:
    dataset = Idx("train", root=str(root), image_size=7)
    assert dataset[0]["images"].shape == (1, 7, 7)
    blocks = images.reshape(6, 7, 4, 7, 4).mean(axis=(2, 4))
    assert np.corrcoef(blocks.ravel(), dataset.arrays.images.ravel())[0, 1] > 0.8  # antialiased, not sampled


def test_built_from_a_config(root: Path) -> None:
    names = [f"class {i}" for i in range(10)]
    component = DATASETS.resolve({"name": "idx", "root": str(root), "classes": names}, "data")
    assert DATASETS.build(component, split="test").classes == names


def test_check(root: Path) -> None:
    (report,) = check_dataset(root)
    assert (report.component["name"], list(report.splits), report.corrupt) == ("idx", ["train", "test"], 0)
    assert report.splits["train"].sizes == {(28, 28): 6}
    counts = report.splits["test"].classes
    assert {name: count for name, count in counts.items() if count} == {"0": 1, "5": 1}
    assert "6 images, channels 1" in report.describe()
    assert report.describe().endswith(f"data: {{name: idx, root: {root}, image_size: 28}}")


def test_check_of_one_split(root: Path) -> None:
    for path in root.glob("t10k*"):
        path.unlink()
    (report,) = check_dataset(root)
    assert list(report.splits) == ["train"] and "t10k-images-idx3-ubyte" in report.missing["test"]
    (root / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(TwoStageError, match="t10k-images-idx3-ubyte"):
        check_dataset(root)


def refused(root: Path, *parts: str, **options: object) -> None:
    with pytest.raises(TwoStageError) as error:
        Idx("train", root=str(root), **options)  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "no such folder")


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), "train-images-idx3-ubyte.gz")


def test_missing_file(root: Path) -> None:
    (root / "train-labels-idx1-ubyte").unlink()
    refused(root, "train-labels-idx1-ubyte")


@pytest.mark.parametrize("length", [0, 3, 10, 500])
def test_truncated_plain_file(root: Path, length: int) -> None:
    path = root / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:length])
    refused(root, str(path), "truncated")


def test_too_many_bytes(root: Path) -> None:
    path = root / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes() + b"x")
    refused(root, str(path), "corrupt")


@pytest.mark.parametrize("broken", ["truncated", "flipped", "not gzip", "empty"])
def test_broken_gzip(root: Path, images: np.ndarray, broken: str) -> None:
    (root / "train-images-idx3-ubyte").unlink()
    good = gzip.compress(encode(images))
    middle = len(good) // 2
    contents = {
        "truncated": good[:middle],
        "flipped": good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :],
        "not gzip": encode(images),
        "empty": b"",
    }
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(contents[broken])
    refused(root, str(path), "truncated or corrupt")


def test_wrong_magic_number(root: Path, labels: np.ndarray) -> None:
    path = root / "train-images-idx3-ubyte"
    path.write_bytes(encode(labels))
    refused(root, str(path), "0x00000801", "0x00000803")


def test_counts_that_differ(root: Path, labels: np.ndarray) -> None:
    (root / "train-labels-idx1-ubyte").write_bytes(encode(labels[:5]))
    refused(root, "train-labels-idx1-ubyte", "5 labels for 6 images")


def test_no_images(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    (root / "train-images-idx3-ubyte").write_bytes(encode(images[:0]))
    (root / "train-labels-idx1-ubyte").write_bytes(encode(labels[:0]))
    refused(root, "train-images-idx3-ubyte", "no images")


def test_too_few_class_names(root: Path) -> None:
    refused(root, "data.classes", "3 names", "need 10", classes=["a", "b", "c"])


def test_images_that_are_not_square(root: Path, images: np.ndarray) -> None:
    (root / "train-images-idx3-ubyte").write_bytes(encode(np.ascontiguousarray(images[:, :, :20])))
    refused(root, "20x28", "square")


def test_fashion_mnist() -> None:
    if not FASHION.is_dir():
        pytest.skip(f"needs the Fashion-MNIST files in {FASHION}")
    dataset = Idx("test", root=str(FASHION), image_size=28)
    assert len(dataset) == 10_000
    assert np.bincount(dataset.arrays.labels).tolist() == [1000] * 10
    assert [dataset[i]["class_label"] for i in range(5)] == [9, 2, 1, 1, 6]
    assert abs(dataset.arrays.images.mean() / 255 - 0.2868) < 1e-3
