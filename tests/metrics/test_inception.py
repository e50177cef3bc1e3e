"""The standard network against torch-fidelity's own, and clean-fid's resize against Pillow; weights of no meaning."""

import numpy as np
import pytest
import torch
from PIL import Image

from twostage.metrics.inception import Inception, resize_like_pillow, resize_like_tensorflow


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file that leaves the network as it was drawn."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: torch.manual_seed(0))
    torch.save({}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_with_its_own_resize_it_is_torch_fidelitys(weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(1)
    ours = Inception(weights, "tensorflow").eval()
    torch.manual_seed(1)
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    images = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8)
    with torch.no_grad():
        found, expected = ours(images), theirs(images)
    assert torch.equal(found.features, expected[0])
    assert torch.equal(found.logits, expected[1])


@pytest.mark.parametrize("size", [32, 256, 400])
def test_the_other_resize_is_pillows_in_float(generator, size):
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator)
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in image]
    expected = np.stack([np.asarray(channel.resize((299, 299), Image.Resampling.BICUBIC)) for channel in channels])
    np.testing.assert_allclose(resize_like_pillow(image[None].float())[0], expected, atol=0.01)


def test_only_one_of_them_smooths_before_it_shrinks():
    """Of stripes of which every third is white, TensorFlow's picks the white ones."""
    stripes = (torch.arange(897) % 3 == 0).float().mul(255).expand(1, 1, 897, 897)
    assert resize_like_tensorflow(stripes).mean() > 250
    assert resize_like_pillow(stripes).mean().item() == pytest.approx(85, abs=1)
