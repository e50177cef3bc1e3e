"""Reference statistics: what they are of, when they are taken from the cache, and when not."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from twostage.errors import TwoStageError
from twostage.metrics import reference as room
from twostage.metrics.features import STANDARD_ROWS, FeatureNetwork, load_network
from twostage.metrics.gaussian import fit_gaussian
from twostage.metrics.outputs import Features
from twostage.metrics.reference import check_image_size, data_reference, default_cache
from twostage.metrics.reference_file import file_reference


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(room, "PART", 4)
    monkeypatch.setattr("twostage.metrics.reference_file.PART", 4)


@pytest.fixture
def data(tmp_path):
    """A folder of ten images of two classes, and the component for it."""
    random = np.random.default_rng(0)
    for i in range(10):
        path = tmp_path / "images" / "train" / ("a" if i < 6 else "b") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (10, 14, 3), dtype=np.uint8)).save(path)
    return {"name": "folder", "root": str(tmp_path / "images"), "image_size": 8, "channels": 3}


@pytest.fixture
def network(network_file):
    """A feature network that counts the images it has seen."""
    made = load_network(f"{network_file}:pooled")
    made.module.seen = 0
    made.module.register_forward_pre_hook(lambda module, inputs: setattr(module, "seen", module.seen + len(inputs[0])))
    return made


def seen(network):
    count, network.module.seen = network.module.seen, 0
    return count


def test_it_is_the_training_images_through_their_own_loader(data, network, tmp_path):
    from twostage.data import DATASETS

    reference = data_reference(data, "train", network, tmp_path / "cache")
    expected = network.extract(DATASETS.build(data, split="train"))
    assert torch.equal(reference.feature_set().features.features, expected.features)
    gaussian = fit_gaussian([expected.features])
    torch.testing.assert_close(reference.gaussian.covariance, gaussian.covariance, rtol=1e-9, atol=1e-12)
    assert reference.gaussian.count == 10
    assert reference.classes == ["a", "b"]
    assert reference.labels.tolist() == [0] * 6 + [1] * 4
    assert reference.describe()["split"] == "train"
    assert "root" not in reference.describe()["data"]


def test_the_second_time_nothing_is_decoded(data, network, tmp_path, monkeypatch):
    first = data_reference(data, "train", network, tmp_path / "cache")
    first_mean = first.gaussian.mean
    assert seen(network) == 10
    monkeypatch.setattr(room.DATASETS, "build", None)
    again = data_reference(data, "train", network, tmp_path / "cache")
    assert torch.equal(again.gaussian.mean, first_mean)
    assert again.describe() == first.describe()
    assert seen(network) == 0


def test_where_the_files_lie_does_not_matter(data, network, tmp_path):
    data_reference(data, "train", network, tmp_path / "cache")
    seen(network)
    moved = shutil.move(data["root"], tmp_path / "elsewhere")
    data_reference({**data, "root": str(moved)}, "train", network, tmp_path / "cache")
    assert seen(network) == 0


def test_a_name_is_not_a_place(data):
    """Two data sets of the Hub differ in their names alone."""
    assert "root" not in room.without_place(data)
    first, second = ({"name": "hf", "root": root} for root in ("someone/flowers", "someone/birds"))
    assert room.listing(first) == room.listing(second)
    assert room.without_place(first) != room.without_place(second)


def touch(data):
    file = next(path for path in sorted(os.scandir(f"{data['root']}/train/b"), key=lambda entry: entry.name))
    os.utime(file.path, ns=(0, 0))


CHANGES = {
    "a file touched": touch,
    "a file gone": lambda data: os.remove(f"{data['root']}/train/b/9.png"),
    "a file renamed": lambda data: os.rename(f"{data['root']}/train/b/9.png", f"{data['root']}/train/b/91.png"),
    "another size of image": lambda data: data.update(image_size=6),
    "another network": None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_numbers_is_computed_anew(data, network, network_file, tmp_path, change):
    data_reference(data, "train", network, tmp_path / "cache")
    seen(network)
    if CHANGES[change] is not None:
        CHANGES[change](data)
    else:
        network_file.write_text(network_file.read_text() + "\n# another file\n")
        hooks = network.module._forward_pre_hooks
        network = load_network(f"{network_file}:pooled")
        network.module.seen = 0
        network.module._forward_pre_hooks.update(hooks)
    reference = data_reference(data, "train", network, tmp_path / "cache")
    assert seen(network) == reference.parts.count > 0


def test_what_was_killed_goes_on_with_what_is_missing(data, network, tmp_path):
    whole = data_reference(data, "train", network, tmp_path / "cache")
    expected, covariance = seen(network), whole.gaussian.covariance
    (whole.parts.folder / "statistics.safetensors").unlink()
    whole.parts.path(range(4, 8)).unlink()
    again = data_reference(data, "train", network, tmp_path / "cache")
    assert (expected, seen(network)) == (10, 4)
    assert torch.equal(again.gaussian.covariance, covariance)


def test_nothing_is_written_beside_the_images(data, network, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    before = sorted(os.walk(data["root"]))
    data_reference(data, "train", network, default_cache())
    assert sorted(os.walk(data["root"])) == before
    assert (tmp_path / "xdg" / "twostage" / "references").is_dir()


def test_a_large_reference_is_seen_in_part_by_precision_and_whole_by_fid(data, network, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "KEPT", 4)
    known = data_reference(data, "train", network, tmp_path / "cache").feature_set()
    assert (len(known.features), known.gaussian.count) == (4, 10)


def test_samples_of_another_size_are_refused(data, network, tmp_path):
    reference = data_reference(data, "train", network, tmp_path / "cache")
    check_image_size(reference, 8)
    with pytest.raises(TwoStageError, match="size of the reference images: 8 is not allowed; allowed: 16"):
        check_image_size(reference, 16)


@pytest.fixture
def radii_taken(monkeypatch):
    """Of how many features radii were computed, each time that they were."""
    taken = []
    monkeypatch.setattr(room, "neighbour_radii", lambda features: taken.append(len(features)) or radii(features))
    return taken


def radii(features):
    return torch.cdist(features, features).sort(1).values[:, 3].contiguous()


def test_radii_are_computed_once(data, network, tmp_path, radii_taken):
    for _ in range(3):
        known = data_reference(data, "train", network, tmp_path / "cache").feature_set()
        torch.testing.assert_close(known.radii, radii(known.features.features))
    assert radii_taken == [10]


def test_radii_belong_to_the_rows_that_are_kept(data, network, tmp_path, radii_taken, monkeypatch):
    for kept in (10, 6, 4, 6):
        monkeypatch.setattr(room, "KEPT", kept)
        known = data_reference(data, "train", network, tmp_path / "cache").feature_set()
        torch.testing.assert_close(known.radii, radii(known.features.features))
    assert radii_taken == [10, 6, 4]


def test_radii_go_with_the_features(data, network, tmp_path, radii_taken):
    data_reference(data, "train", network, tmp_path / "cache").feature_set()
    Image.fromarray(np.full((10, 14, 3), 7, dtype=np.uint8)).save(f"{data['root']}/train/b/9.png")
    known = data_reference(data, "train", network, tmp_path / "cache").feature_set()
    torch.testing.assert_close(known.radii, radii(known.features.features))
    assert radii_taken == [10, 10]


# Published files


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def inception(network):
    """What passes for the standard network."""
    return FeatureNetwork(name="Inception", module=network.module, rows=STANDARD_ROWS)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_file_of_images(images, network, tmp_path, write):
    write(tmp_path / "images.npz", images)
    reference = file_reference(tmp_path / "images.npz", network, tmp_path / "cache")
    expected = network.extract(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert torch.equal(reference.feature_set().features.features, expected.features)
    assert reference.describe()["image_size"] == 8
    seen(network)
    (reference.parts.folder / "features-00000004-00000008.safetensors").unlink()
    file_reference(tmp_path / "images.npz", network, tmp_path / "cache")
    assert seen(network) == 4
    assert torch.equal(reference.feature_set().features.features, expected.features)


def test_published_statistics_stand_for_the_images_beside_them(images, inception, tmp_path):
    mean, covariance = np.arange(12.0), np.eye(12, dtype=np.float32)
    np.savez(tmp_path / "both.npz", arr_0=images, mu=mean, sigma=covariance)
    known = file_reference(tmp_path / "both.npz", inception, tmp_path / "cache").feature_set()
    assert known.gaussian.mean.tolist() == mean.tolist()
    assert known.gaussian.covariance.dtype == torch.float64
    assert known.gaussian.count is None
    assert len(known.features) == 10


def test_statistics_alone_are_for_inception_alone(inception, network, tmp_path):
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(12), sigma=np.eye(12))
    known = file_reference(tmp_path / "statistics.npz", inception, tmp_path / "cache").feature_set()
    assert known.features is None
    with pytest.raises(TwoStageError, match=r"feature network: 'pooled' is not allowed; .* holds no images"):
        file_reference(tmp_path / "statistics.npz", network, tmp_path / "cache")


def test_statistics_beside_images_are_not_anothers_networks(images, network, tmp_path):
    np.savez(tmp_path / "both.npz", arr_0=images, mu=np.zeros(12), sigma=np.eye(12))
    assert file_reference(tmp_path / "both.npz", network, tmp_path / "cache").published is None


def test_two_files_of_one_name_are_two_references(images, network, tmp_path):
    np.savez(tmp_path / "images.npz", images)
    first = file_reference(tmp_path / "images.npz", network, tmp_path / "cache")
    np.savez(tmp_path / "images.npz", 255 - images)
    second = file_reference(tmp_path / "images.npz", network, tmp_path / "cache")
    assert first.parts.folder != second.parts.folder
    assert first.describe()["pixels"] != second.describe()["pixels"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros(3)}, r"arrays: \['images'\] is not allowed; allowed: arr_0, or mu and sigma"),
        ({"arr_0": np.zeros((4, 8, 8, 3))}, r"arr_0: 'float64 \(4, 8, 8, 3\)' is not allowed"),
        ({"arr_0": np.zeros((4, 3, 8, 8), dtype=np.uint8)}, r"uint8 \[n, H, H, 1 or 3\]"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mu and sigma: '\[3\] and \[4, 4\]' is not allowed"),
    ],
)
def test_files_of_another_kind_are_refused(inception, tmp_path, arrays, message):
    np.savez(tmp_path / "reference.npz", **arrays)
    with pytest.raises(TwoStageError, match=message):
        file_reference(tmp_path / "reference.npz", inception, tmp_path / "cache")


@pytest.mark.parametrize(("content", "reason"), [(None, "could not be read"), (b"text", r"not an \.npz file")])
def test_what_is_no_npz_file_is_refused(inception, tmp_path, content, reason):
    if content:
        (tmp_path / "reference.npz").write_bytes(content)
    with pytest.raises(TwoStageError, match=rf"reference\.npz: {reason}"):
        file_reference(tmp_path / "reference.npz", inception, tmp_path / "cache")


def test_an_entry_says_what_it_is_of(data, network, tmp_path):
    folder = data_reference(data, "train", network, tmp_path / "cache").parts.folder
    said = json.loads((folder / "identity.json").read_text())
    assert said["network"] == network.fingerprint
    assert said["split"] == "train"


def test_features_of_a_network_with_logits_are_features_only(data, network_file, tmp_path):
    reference = data_reference(data, "train", load_network(f"{network_file}:classifying"), tmp_path / "cache")
    assert isinstance(reference.feature_set().features, Features)
    assert reference.feature_set().features.logits is None
