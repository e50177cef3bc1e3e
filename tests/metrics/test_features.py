import subprocess
import sys
from pathlib import Path

import pytest
import torch

from twostage.errors import TwoStageError
from twostage.metrics import features as room
from twostage.metrics.features import INCEPTION_WEIGHTS, FeatureNetwork, RowNames, load_network
from twostage.metrics.outputs import Features
from twostage.metrics.weights import Missing

REPOSITORY = Path(__file__).parents[2]
MOBILENET = REPOSITORY.parent / "shared" / "data" / "mobilenet_v2"


def test_importing_the_room_imports_no_metric_library():
    modules = "reconstruction, codebook, features, generation, classifier, inception, reference, neighbours"
    heavy = "{'torch_fidelity', 'lpips', 'torchvision', 'scipy'}"
    code = f"import sys; from twostage.metrics import {modules}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_missing_inception_is_named_with_its_place(hub):
    network = load_network(None)
    assert isinstance(network, Missing)
    assert str(hub / INCEPTION_WEIGHTS) in network.reason
    assert "FID" in network.reason


def test_inception_that_is_not_the_published_one_is_refused(hub):
    (hub / INCEPTION_WEIGHTS).write_bytes(b"half a download")
    with pytest.raises(TwoStageError, match="allowed: 6726825d"):
        load_network(None)


def test_inception_is_built_from_its_local_file(hub, monkeypatch, noise_images):
    """The network of torch-fidelity with weights of no meaning: 2048 features, logits without bias."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from twostage.metrics import weights

    monkeypatch.setattr(weights, "digest", lambda path: "6726825d" + "0" * 56)
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    torch.save({}, hub / INCEPTION_WEIGHTS)
    network = load_network(None)
    assert isinstance(network, FeatureNetwork)
    assert network.rows.frechet == "FID"
    found = network.extract(noise_images(2))
    assert found.features.shape == (2, 2048)
    assert found.logits is not None
    assert found.logits.shape == (2, 1008)


def test_custom_network_is_called_by_its_factory(network_file):
    network = load_network(f"{network_file}:pooled")
    assert isinstance(network, FeatureNetwork)
    assert network.name == "pooled"
    assert not network.module.training


def test_custom_network_may_name_itself(network_file):
    assert load_network(f"{network_file}:named").name == "corners"


def test_rows_of_a_custom_network_carry_its_name():
    rows = vars(RowNames.of("corners"))
    assert all(row.endswith("-corners") for row in rows.values())
    assert not any("FID" in row or "KID" in row for row in rows.values())


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (":absent", "has no function 'absent'"),
        (":not_a_module", "'int' is not allowed; allowed: a torch.nn.Module"),
        ("", "allowed: path/to/file.py:factory"),
    ],
)
def test_specs_that_name_no_network_are_refused(network_file, tail, message):
    with pytest.raises(TwoStageError, match=message):
        load_network(f"{network_file}{tail}")


def test_absent_file_is_refused(tmp_path):
    with pytest.raises(TwoStageError, match=r"absent\.py: no such file"):
        load_network(f"{tmp_path / 'absent.py'}:pooled")


def test_file_that_fails_is_reported_with_its_error(tmp_path):
    (tmp_path / "bad.py").write_text("import a_library_that_is_not_there")
    with pytest.raises(TwoStageError, match=r"bad\.py: could not be imported \(ModuleNotFoundError"):
        load_network(f"{tmp_path / 'bad.py'}:pooled")


def test_features_do_not_depend_on_batching(network_file, noise_images):
    network, images = load_network(f"{network_file}:pooled"), noise_images(7)
    assert torch.equal(network.extract(images, batch_size=3).features, network.extract(images).features)
    assert network.extract(images).logits is None


def test_grey_images_are_repeated(network_file, noise_images):
    network, grey = load_network(f"{network_file}:classifying"), noise_images(3)[:, :1]
    found, expected = network.extract(grey), network.extract(grey.repeat(1, 3, 1, 1))
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.logits, expected.logits)


def test_a_data_set_gives_what_its_bytes_give(network_file, stripes):
    network, dataset = load_network(f"{network_file}:pooled"), stripes(9)
    whole, state = torch.from_numpy(dataset.arrays.images), torch.get_rng_state()
    assert torch.equal(network.extract(dataset, batch_size=4).features, network.extract(whole).features)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("factory", "message"), [("maps", r"output shape: \(3, 3, 8, 8\).*\[3, d\]"), ("broken", "NaN or infinite")]
)
def test_wrong_answers_are_refused(network_file, noise_images, factory, message):
    with pytest.raises(TwoStageError, match=message):
        load_network(f"{network_file}:{factory}").extract(noise_images(3))


@pytest.mark.parametrize("images", [torch.zeros(4, 3, 8, 8), torch.zeros(4, 2, 8, 8, dtype=torch.uint8)])
def test_images_that_are_not_uint8_pictures_are_refused(network_file, images):
    with pytest.raises(TwoStageError, match=r"torch.uint8 \[n, 1 or 3, H, W\]"):
        load_network(f"{network_file}:pooled").extract(images)


def test_features_know_their_number():
    assert len(Features(features=torch.zeros(5, 2))) == 5
    assert room.STANDARD_ROWS.frechet_reconstruction == "rFID"


def test_a_real_network_ranks_blur(tmp_path, generator):
    """MobileNetV2, trained on ImageNet, on real photographs: more blur, farther away."""
    photographs = sorted((MOBILENET.parent / "cifar10").glob("train_*.webp"))[:24]
    if not (MOBILENET / "mobilenet_v2_tf.py").is_file() or not photographs:
        pytest.skip(f"no MobileNetV2 weights in {MOBILENET}, or no CIFAR-10 sample beside them")
    import numpy as np
    from PIL import Image
    from torch.nn import functional as F

    from twostage.metrics.gaussian import fit_gaussian, frechet_distance

    (tmp_path / "adapter.py").write_text(
        f"""
import sys
from torch import nn
from torch.nn import functional as F
sys.path.insert(0, {str(MOBILENET)!r})
from mobilenet_v2_tf import MobileNetV2TF


class Adapter(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = MobileNetV2TF.load({str(MOBILENET / "mobilenet_v2_tf2ptq_int8.pt")!r})

    def forward(self, images):
        resized = F.interpolate(images.float() / 255, size=(224, 224), mode="bilinear", antialias=True)
        return self.network(resized)[0][:, :256]  # of 1280, for time


def mobilenet_v2():
    return Adapter()
"""
    )
    network = load_network(f"{tmp_path / 'adapter.py'}:mobilenet_v2")
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in photographs]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)[:, :, :32, :32].contiguous()
    blurred = [F.avg_pool2d(images.float(), k, 1, k // 2, count_include_pad=False).to(torch.uint8) for k in (3, 7)]
    sides = (network.extract(side, batch_size=8).features for side in (images, *blurred))
    real, near, far = (fit_gaussian([side]) for side in sides)
    assert network.rows.frechet == "FD-mobilenet_v2"
    assert 0 < frechet_distance(real, near) < frechet_distance(real, far)
