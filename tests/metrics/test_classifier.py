import pytest
import torch

from twostage.data.images import ArrayImages
from twostage.errors import TwoStageError
from twostage.metrics.classifier import accuracy, class_agreement, train_classifier


def everything(dataset):
    images = torch.stack([dataset[i]["images"] for i in range(len(dataset))])
    return images, torch.tensor([dataset[i]["class_label"] for i in range(len(dataset))])


def test_learns_what_tells_the_classes_apart(stripes):
    classifier = train_classifier(stripes(100), steps=60, batch_size=32)
    test = stripes(64, seed=1)
    images, labels = everything(test)
    assert accuracy(classifier, test, batch_size=24) >= 0.95
    assert class_agreement(classifier, images, labels) == pytest.approx(accuracy(classifier, test))
    assert class_agreement(classifier, images, 1 - labels) <= 0.05
    assert class_agreement(classifier, images.mean(dim=1, keepdim=True).bfloat16(), labels) >= 0.95


def test_depends_on_its_seed_and_leaves_the_global_one_alone(stripes):
    state = torch.get_rng_state()
    first, again, other = (train_classifier(stripes(20), steps=3, batch_size=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not first.training


def test_data_without_classes_is_refused(stripes):
    with pytest.raises(TwoStageError, match="at least 2 classes"):
        train_classifier(ArrayImages(stripes(4).arrays, []))


@pytest.mark.parametrize("n", [0, 3])
def test_one_label_an_image(stripes, n):
    classifier = train_classifier(stripes(8), steps=1, batch_size=4)
    with pytest.raises(TwoStageError, match="one label an image"):
        class_agreement(classifier, torch.zeros(n, 1, 16, 16), torch.zeros(0 if n == 0 else 2, dtype=torch.int64))


@pytest.mark.slow
def test_knows_the_embedded_shapes():
    """Ten classes of 32 x 32 images: measured 0.982 with the defaults."""
    from twostage.data import DATASETS

    train, test = (DATASETS.build({"name": "shapes"}, split=split) for split in ("train", "test"))
    assert accuracy(train_classifier(train), test) >= 0.95
