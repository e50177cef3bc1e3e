import math
import warnings

import lpips
import pytest
import torch

from twostage.errors import TwoStageError
from twostage.metrics import weights
from twostage.metrics.reconstruction import (
    MEASURES,
    ReconstructionMetrics,
    l1,
    lpips_distance,
    psnr,
    ssim,
    ssim_uniform,
)
from twostage.metrics.weights import Missing


def ssim_by_hand(x, y):
    """Wang et al. 2004, Eqs. 13-16, window by window; x and y are lists of rows in 0..1."""
    size, sigma = 11, 1.5
    weight = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * sigma**2)) for j in range(size)] for i in range(size)]
    total = sum(map(sum, weight))
    values = []
    for top in range(len(x) - size + 1):
        for left in range(len(x[0]) - size + 1):
            places = [(i, j, weight[i][j] / total) for i in range(size) for j in range(size)]
            mu_x = sum(w * x[top + i][left + j] for i, j, w in places)
            mu_y = sum(w * y[top + i][left + j] for i, j, w in places)
            var_x = sum(w * (x[top + i][left + j] - mu_x) ** 2 for i, j, w in places)
            var_y = sum(w * (y[top + i][left + j] - mu_y) ** 2 for i, j, w in places)
            cov = sum(w * (x[top + i][left + j] - mu_x) * (y[top + i][left + j] - mu_y) for i, j, w in places)
            luminance = (2 * mu_x * mu_y + 1e-4) / (mu_x**2 + mu_y**2 + 1e-4)
            values.append(luminance * (2 * cov + 9e-4) / (var_x + var_y + 9e-4))
    return sum(values) / len(values)


def pair(generator, b=2, c=3, size=14):
    images = torch.rand(b, c, size, size, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    return images, (images * 0.7 + 0.2 * noise).clamp(-1, 1)


def test_l1_is_measured_on_zero_to_one():
    images = torch.zeros(2, 1, 4, 4)
    reconstructions = images.clone()
    reconstructions[1] += 0.5
    assert torch.allclose(l1(images, reconstructions), torch.tensor([0.0, 0.25]))


def test_psnr_by_hand():
    images, reconstructions = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.2)
    assert psnr(images, reconstructions).item() == pytest.approx(20.0, abs=1e-4)  # MSE 0.1^2 on 0..1


def test_psnr_of_an_exact_reconstruction_is_the_limit():
    images = torch.rand(3, 1, 4, 4)
    assert psnr(images, images).tolist() == [100.0] * 3


def test_ssim_equals_a_literal_transcription(generator):
    images, reconstructions = pair(generator)
    x, y = (images + 1) / 2, (reconstructions + 1) / 2
    expected = [sum(ssim_by_hand(x[i, c].tolist(), y[i, c].tolist()) for c in range(3)) / 3 for i in range(len(images))]
    assert ssim(images, reconstructions).tolist() == pytest.approx(expected, abs=1e-12)
    assert ssim(images.float(), reconstructions.float()).tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_of_equal_images_is_one_and_symmetric(generator):
    images, reconstructions = pair(generator)
    assert torch.allclose(ssim(images, images), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(ssim(images, reconstructions), ssim(reconstructions, images))


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(TwoStageError, match=r"\(10, 12\).*11 x 11"):
        ssim(torch.zeros(1, 1, 10, 12), torch.zeros(1, 1, 10, 12))


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_reconstructions_are_clipped(measure, generator):
    images, reconstructions = pair(generator)
    wild = reconstructions * 3
    assert torch.equal(measure(images, wild), measure(images, wild.clamp(-1, 1)))


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_bf16_is_measured_in_fp32(measure, generator):
    images, reconstructions = (side.bfloat16() for side in pair(generator))
    assert torch.equal(measure(images, reconstructions), measure(images.float(), reconstructions.float()))


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_shapes_that_would_broadcast_are_refused(measure):
    with pytest.raises(TwoStageError, match=r"reconstructions.shape: \(1, 1, 16, 16\)"):
        measure(torch.zeros(2, 1, 16, 16), torch.zeros(1, 1, 16, 16))


def test_means_do_not_depend_on_batching(generator):
    images, reconstructions = pair(generator, b=5)
    whole, parts = ReconstructionMetrics(), ReconstructionMetrics()
    whole.update(images, reconstructions)
    for chosen in (slice(0, 1), slice(1, 5)):
        parts.update(images[chosen], reconstructions[chosen])
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert whole.compute()["n"] == 5
    assert whole.compute()["PSNR"] == pytest.approx(psnr(images, reconstructions).mean().item())


def test_no_images_have_no_mean():
    with pytest.raises(TwoStageError, match="0 images"):
        ReconstructionMetrics().compute()


def test_missing_lpips_weights_are_named_with_their_place(hub):
    distance = lpips_distance()
    assert isinstance(distance, Missing)
    assert str(hub / "vgg16-397923af.pth") in distance.reason
    assert str(distance).startswith("missing: LPIPS")


def test_unknown_lpips_network_is_refused():
    with pytest.raises(TwoStageError, match=r"'resnet'.*vgg, alex, squeeze"):
        lpips_distance("resnet")


def test_weights_that_are_not_the_published_ones_are_refused(hub):
    (hub / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"half a download")
    with pytest.raises(TwoStageError, match=r"SHA-256 starts with .*; allowed: b8a52dc0"):
        lpips_distance("squeeze")


def test_lpips_with_local_weights(hub, monkeypatch, generator):
    import torchvision

    torch.manual_seed(0)
    trunk = torchvision.models.squeezenet1_1(weights=None)
    torch.save(trunk.state_dict(), hub / "squeezenet1_1-b8a52dc0.pth")
    monkeypatch.setattr(weights, "digest", lambda path: "b8a52dc0" + "0" * 56)
    distance = lpips_distance("squeeze")
    assert not isinstance(distance, Missing)
    images, reconstructions = (side.float() for side in pair(generator, c=1, size=32))
    with warnings.catch_warnings(action="ignore"):
        network = lpips.LPIPS(net="squeeze", verbose=False)
    expected = network(images.repeat(1, 3, 1, 1), reconstructions.repeat(1, 3, 1, 1)).flatten()
    assert torch.allclose(distance(images, reconstructions), expected, atol=1e-6)
    assert not distance(images, reconstructions).requires_grad
    metrics = ReconstructionMetrics({**MEASURES, "LPIPS": distance})
    metrics.update(images, images)
    assert metrics.compute()["LPIPS"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_and_ssim_are_those_of_scikit_image(generator, channels):
    """On images in [0, 1], colours as they are, SSIM with the window of Wang et al. and with scikit-image's own."""
    skimage = pytest.importorskip("skimage.metrics")
    images, reconstructions = pair(generator, c=channels, size=24)
    for i in range(len(images)):
        x, y = (((side[i] + 1) / 2).permute(1, 2, 0).numpy() for side in (images, reconstructions))
        form = {"data_range": 1, "win_size": 11, "channel_axis": 2}
        gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        one = slice(i, i + 1)
        assert psnr(images[one], reconstructions[one]).item() == pytest.approx(
            skimage.peak_signal_noise_ratio(x, y, data_range=1)
        )
        assert ssim(images[one], reconstructions[one]).item() == pytest.approx(
            skimage.structural_similarity(x, y, **form, **gaussian), abs=1e-12
        )
        assert ssim_uniform(images[one], reconstructions[one]).item() == pytest.approx(
            skimage.structural_similarity(x, y, **form), abs=1e-12
        )
