import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch.utils.data import Dataset

from twostage.errors import TwoStageError
from twostage.metrics.features import STANDARD_ROWS, Features, RowNames, load_network
from twostage.metrics.generation import feature_distance, feature_metrics, frechet_distance, generation_metrics
from twostage.metrics.weights import Missing


def gaussian(n, d, seed, shift=0.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) @ random.normal(size=(d, d)) + shift


def closed_form(x, y):
    covariance_x, covariance_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(covariance_x @ covariance_y).real
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(covariance_x + covariance_y - 2 * root)


def test_frechet_distance_is_its_closed_form():
    x, y = gaussian(200, 6, 0), gaussian(150, 6, 1, shift=0.5)
    found = frechet_distance(Features(features=torch.from_numpy(x)), Features(features=torch.from_numpy(y)))
    assert found == pytest.approx(closed_form(x, y), rel=1e-9)


def test_feature_distance_of_images_is_the_closed_form_of_their_features(network_file, noise_images):
    network = load_network(f"{network_file}:pooled")
    real, fake = noise_images(60), noise_images(50, brightness=90, seed=1)
    x, y = (network.extract(side).features.double().numpy() for side in (real, fake))
    rows = feature_distance(real, fake, network)
    assert rows["rFD-pooled"] == pytest.approx(closed_form(x, y), rel=1e-6)
    assert (rows["images_real"], rows["images_generated"]) == (60, 50)


def test_distance_of_a_set_to_itself_is_zero(network_file, noise_images):
    images = noise_images(40)
    assert feature_distance(images, images, load_network(f"{network_file}:pooled"))["rFD-pooled"] == pytest.approx(
        0, abs=1e-9
    )


def test_rows_equal_torch_fidelity_run_as_a_whole(network_file, noise_images):
    """`calculate_metrics` with the same network registered under a name of its own."""
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Pictures(Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index]

    network = load_network(f"{network_file}:classifying")

    class Registered(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("features", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "features"

        def forward(self, images):
            found = network.module(images)
            return tuple(getattr(found, name) for name in self.features_list)

    torch_fidelity.register_feature_extractor("classifying-test", Registered)
    real, fake = noise_images(30), noise_images(25, brightness=110, seed=1)
    expected = torch_fidelity.calculate_metrics(
        input1=Pictures(fake), input2=Pictures(real), feature_extractor="classifying-test",
        fid=True, kid=True, isc=True, prc=True, kid_subset_size=25,
        cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    rows = generation_metrics(real, fake, network)
    assert rows["FD-classifying"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert rows["KD-classifying"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert rows["IS-classifying"] == pytest.approx(expected["inception_score_mean"], rel=1e-4)
    assert rows["precision-classifying"] == expected["precision"]
    assert rows["recall-classifying"] == expected["recall"]


def test_precision_and_recall_are_not_swapped(network_file):
    """All generated images lie in one of the two modes of the real ones: precise, but half is missed."""
    random = torch.Generator().manual_seed(0)
    spread = torch.rand(60, 4, generator=random)
    real, fake = torch.cat([spread[:20], spread[20:40] + 9]), spread[:20].clone()
    rows = feature_metrics(Features(features=real), Features(features=fake), RowNames.of("toy"))
    assert (rows["precision-toy"], rows["recall-toy"]) == (1.0, 0.5)


def test_a_network_of_ones_own_never_gives_a_row_called_fid(network_file, noise_images):
    rows = generation_metrics(noise_images(8), noise_images(6, seed=1), load_network(f"{network_file}:pooled"))
    assert sorted(rows) == sorted(
        ["FD-pooled", "KD-pooled", "precision-pooled", "recall-pooled", "images_real", "images_generated"]
    )


def test_inception_score_by_hand():
    """Sure of one of four classes each, all four equally often: exp of the mutual information is 4."""
    sure = 100 * torch.eye(4).repeat(250, 1)
    features = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    spread = feature_metrics(Features(features=features), Features(features=features, logits=sure), STANDARD_ROWS)
    alike = feature_metrics(Features(features=features), Features(features=features, logits=sure * 0), STANDARD_ROWS)
    assert alike["IS"] == pytest.approx(1.0)
    assert spread["IS"] == pytest.approx(4.0, rel=0.03)


def test_missing_network_says_so_in_its_rows(hub, noise_images):
    network = load_network(None)
    rows = generation_metrics(noise_images(5), noise_images(6), network)
    for row in ("FID", "KID", "IS", "precision", "recall"):
        assert str(rows[row]).startswith("missing: ")
        assert str(hub) in str(rows[row])
    assert (rows["images_real"], rows["images_generated"]) == (5, 6)
    assert feature_distance(noise_images(5), noise_images(6), Missing("no file"))["rFID"] == "missing: no file"


def test_a_data_set_may_stand_for_the_real_images(network_file, stripes):
    dataset = stripes(12)
    rows = generation_metrics(dataset, torch.from_numpy(dataset.arrays.images), load_network(f"{network_file}:pooled"))
    assert rows["FD-pooled"] == pytest.approx(0, abs=1e-6)
    assert rows["precision-pooled"] == 1.0


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_are_refused(network_file, noise_images, n):
    network = load_network(f"{network_file}:pooled")
    with pytest.raises(TwoStageError, match=f"number of generated images: {n} is not allowed; allowed: at least 2"):
        feature_distance(noise_images(5), noise_images(n), network)
    with pytest.raises(TwoStageError, match=f"number of real images: {n} is not allowed; allowed: at least 4"):
        generation_metrics(noise_images(n), noise_images(5), network)
