import os
import pickle

import numpy as np
import pytest
import torch

from twostage.data import DATASETS
from twostage.data.check import check_dataset
from twostage.data.cifar10 import BATCHES, CLASSES, FOLDER, read_batch
from twostage.errors import TwoStageError


@pytest.fixture
def root(tmp_path):
    """The published layout with 20 images a batch; image i of a batch has the value i everywhere and label i % 10."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    data = np.repeat(np.arange(20, dtype=np.uint8)[:, None], 3072, axis=1)
    data[:, 0] = 200  # red, first row, first column
    data[:, 2 * 1024 + 32] = 100  # blue, second row, first column
    batch = {b"batch_label": b"some", b"data": data, b"labels": [i % 10 for i in range(20)]}
    for name in (*BATCHES["train"], *BATCHES["test"]):
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return tmp_path


@pytest.mark.parametrize("inner", ["", FOLDER])
def test_both_splits_from_either_folder(root, inner):
    options = {"name": "cifar10", "root": str(root / inner)}
    train, test = (DATASETS.build(options, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (100, 20)
    assert train.classes == CLASSES
    assert (train.image_size, train.channels) == (32, 3)
    assert [train[i]["class_label"] for i in (0, 9, 10, 99)] == [0, 9, 0, 9]


def test_planes_and_rows_lie_where_they_belong(root):
    image = (DATASETS.build({"name": "cifar10", "root": str(root)}, split="test")[7]["images"] + 1) * 127.5
    assert image[0, 0, 0] == pytest.approx(200)
    assert image[2, 1, 0] == pytest.approx(100)
    assert image[1].unique().tolist() == pytest.approx([7])


def test_another_size_is_resized(root):
    example = DATASETS.build({"name": "cifar10", "root": str(root), "image_size": 16}, split="test")[3]
    assert example["images"].shape == (3, 16, 16)
    assert torch.equal(example["images"][1], torch.full((16, 16), 3 / 127.5 - 1))


@pytest.mark.parametrize("inner", ["", FOLDER])
def test_check(root, inner):
    (report,) = check_dataset(root / inner)
    assert report.component == {"name": "cifar10", "root": str(root / inner), "image_size": 32}
    assert report.splits["test"].classes == dict.fromkeys(CLASSES, 2)


class Call:
    """What a pickle can do to those who trust it."""

    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({b"data": Call(), b"labels": []}), "it asks for posix.mkdir"),
        (b"not a pickle", "not a batch"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, protocol=2), "do not fit"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, protocol=2), "do not fit"),
        (pickle.dumps({b"data": np.zeros((1, 30), np.uint8), b"labels": [1]}, protocol=2), "reshape"),
        (pickle.dumps([1, 2]), "not a batch"),
    ],
)
def test_what_is_no_batch_is_refused_and_nothing_is_run(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(TwoStageError, match=rf"data_batch_1: not a batch of CIFAR-10.*{reason}|{reason}"):
        read_batch(path)
    assert not (tmp_path / "made_by_a_pickle").exists()


def test_a_missing_batch_or_folder_is_named(root):
    (root / FOLDER / "data_batch_4").unlink()
    with pytest.raises(TwoStageError, match=r"data_batch_4: could not be read \(No such file"):
        DATASETS.build({"name": "cifar10", "root": str(root)}, split="train")
    with pytest.raises(TwoStageError, match="nowhere: no such folder"):
        DATASETS.build({"name": "cifar10", "root": str(root / "nowhere")}, split="train")
