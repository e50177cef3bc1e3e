import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch.utils.data import Dataset

from twostage.errors import TwoStageError
from twostage.metrics.features import STANDARD_ROWS, RowNames, load_network
from twostage.metrics.gaussian import fit_gaussian, frechet_distance
from twostage.metrics.generation import FeatureSet, feature_distance, feature_metrics, generation_metrics
from twostage.metrics.outputs import Features
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
    found = frechet_distance(*(fit_gaussian([torch.from_numpy(side)]) for side in (x, y)))
    assert found == pytest.approx(closed_form(x, y), rel=1e-9)


def test_feature_distance_of_images_is_the_closed_form_of_their_features(network_file, noise_images):
    network = load_network(f"{network_file}:pooled")
    real, fake = noise_images(60), noise_images(50, brightness=90, seed=1)
    x, y = (network.extract(side).features.double().numpy() for side in (real, fake))
    rows = feature_distance(real, fake, network)
    assert rows["rFD-pooled@50"] == pytest.approx(closed_form(x, y), rel=1e-6)
    assert (rows["n_reference"], rows["n"]) == (60, 50)


def test_distance_of_a_set_to_itself_is_zero(network_file, noise_images):
    images = noise_images(40)
    rows = feature_distance(images, images, load_network(f"{network_file}:pooled"))
    assert rows["rFD-pooled@40"] == pytest.approx(0, abs=1e-9)


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
    assert rows["FD-classifying@25"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert rows["KD-classifying@25"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert rows["IS-classifying@25"] == pytest.approx(expected["inception_score_mean"], rel=1e-4)
    assert rows["precision-classifying@25"] == expected["precision"]
    assert rows["recall-classifying@25"] == expected["recall"]


def test_precision_and_recall_are_not_swapped(network_file):
    """All generated images lie in one of the two modes of the real ones: precise, but half is missed."""
    random = torch.Generator().manual_seed(0)
    spread = torch.rand(60, 4, generator=random)
    real, fake = torch.cat([spread[:20], spread[20:40] + 9]), spread[:20].clone()
    rows = feature_metrics(*(FeatureSet.of(Features(features=side)) for side in (real, fake)), RowNames.of("toy"))
    assert (rows["precision-toy@20"], rows["recall-toy@20"]) == (1.0, 0.5)


def test_a_network_of_ones_own_never_gives_a_row_called_fid(network_file, noise_images):
    rows = generation_metrics(noise_images(8), noise_images(6, seed=1), load_network(f"{network_file}:pooled"))
    assert sorted(rows) == sorted(
        ["FD-pooled@6", "KD-pooled@6", "precision-pooled@6", "recall-pooled@6", "n", "n_reference"]
    )


def test_inception_score_by_hand():
    """Sure of one of four classes each, all four equally often: exp of the mutual information is 4."""
    sure = 100 * torch.eye(4).repeat(250, 1)
    features = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    real, spread, alike = (
        FeatureSet.of(Features(features=features, logits=logits)) for logits in (None, sure, sure * 0)
    )
    assert feature_metrics(real, alike, STANDARD_ROWS)["IS@1000"] == pytest.approx(1.0)
    assert feature_metrics(real, spread, STANDARD_ROWS)["IS@1000"] == pytest.approx(4.0, rel=0.03)


def test_missing_network_says_so_in_its_rows(hub, noise_images):
    network = load_network(None)
    rows = generation_metrics(noise_images(5), noise_images(6), network)
    for row in ("FID@6", "KID@6", "IS@6", "precision@6", "recall@6"):
        assert str(rows[row]).startswith("missing: ")
        assert str(hub) in str(rows[row])
    assert (rows["n_reference"], rows["n"]) == (5, 6)
    assert feature_distance(noise_images(5), noise_images(6), Missing("no file"))["rFID@6"] == "missing: no file"


def test_a_data_set_may_stand_for_the_real_images(network_file, stripes):
    dataset = stripes(12)
    rows = generation_metrics(dataset, torch.from_numpy(dataset.arrays.images), load_network(f"{network_file}:pooled"))
    assert rows["FD-pooled@12"] == pytest.approx(0, abs=1e-6)
    assert rows["precision-pooled@12"] == 1.0


@pytest.mark.parametrize(
    ("names", "n", "expected"),
    [
        (STANDARD_ROWS, 50_000, "FID-50k"),
        (STANDARD_ROWS, 10_000, "FID@10000"),
        (STANDARD_ROWS, 49_999, "FID@49999"),
        (RowNames.of("toy"), 50_000, "FD-toy@50000"),
    ],
)
def test_only_fifty_thousand_images_and_inception_make_an_fid_50k(names, n, expected):
    assert names.of_number(n).frechet == expected


def test_statistics_without_images_give_an_fid_and_say_what_else_is_missing():
    features = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    known = FeatureSet.of(Features(features=features))
    rows = feature_metrics(FeatureSet(gaussian=known.gaussian, features=None), known, STANDARD_ROWS)
    assert rows["FID@40"] == pytest.approx(0, abs=1e-9)
    for row in ("KID@40", "precision@40", "recall@40"):
        assert str(rows[row]).startswith("missing: the reference holds statistics")


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_are_refused(network_file, noise_images, n):
    network = load_network(f"{network_file}:pooled")
    with pytest.raises(TwoStageError, match=f"number of generated images: {n} is not allowed; allowed: at least 2"):
        feature_distance(noise_images(5), noise_images(n), network)
    with pytest.raises(TwoStageError, match=f"number of real images: {n} is not allowed; allowed: at least 4"):
        generation_metrics(noise_images(n), noise_images(5), network)
