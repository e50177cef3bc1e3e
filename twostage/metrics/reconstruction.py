"""How close reconstructions are to their images: L1, PSNR, SSIM and LPIPS, one value an image.

Everything takes `images` and `reconstructions` as float [b, c, H, W] in [-1, 1], clips both there and measures them on
[0, 1], as the papers do (an L1 taken on [-1, 1] would be twice as large). bf16 and fp16 are measured in fp32.

SSIM: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004:
    SSIM = (2 mu_x mu_y + C1) (2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1) (s_x^2 + s_y^2 + C2))      (Eq. 13)
LPIPS: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018.
"""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twostage.errors import TwoStageError, refuse
from twostage.metrics.weights import Missing, hub_weights

Measure = Callable[[Tensor, Tensor], Tensor]
"""(images, reconstructions), each [b, c, H, W] in [-1, 1] -> [b]"""

PSNR_LIMIT = 100.0
"""dB; what an image reconstructed exactly counts for, so that one such image does not make a mean infinite."""

WINDOW_SIZE, WINDOW_SIGMA = 11, 1.5
"""SSIM's Gaussian window, in pixels (Wang et al. 2004, Sec. III-C)."""

LPIPS_TRUNKS = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""LPIPS network -> torchvision's file for its trunk."""


def _unit(images: Tensor) -> Tensor:
    """[-1, 1], clipped there -> [0, 1], at least fp32."""
    return images.to(torch.promote_types(images.dtype, torch.float32)).clamp(-1, 1).add(1).div(2)


def _unit_pair(images: Tensor, reconstructions: Tensor) -> tuple[Tensor, Tensor]:
    if images.ndim != 4 or images.shape != reconstructions.shape:
        raise refuse("reconstructions.shape", tuple(reconstructions.shape), f"that of images, {tuple(images.shape)}")
    return _unit(images), _unit(reconstructions)


def l1(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Mean absolute difference over pixels and channels of [0, 1], in 0..1 -> [b]."""
    x, y = _unit_pair(images, reconstructions)
    return (x - y).abs().mean(dim=(1, 2, 3))


def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, -10 log10(MSE), in dB, at most `PSNR_LIMIT` -> [b].

    The peak (data range) is 1, and the MSE is over pixels and channels together, of one image: a mean of PSNRs, not the
    PSNR of a mean error. Colours are taken as they are, with no change to luminance.
    """
    x, y = _unit_pair(images, reconstructions)
    error = (x - y).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=10 ** (-PSNR_LIMIT / 10)).log10()


def ssim(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Structural similarity, in -1..1: the mean over channels and over the places where the whole window fits -> [b].

    Data range 1, K1 = 0.01, K2 = 0.03; a Gaussian window of 11 x 11 pixels and deviation 1.5, with (co)variances of the
    population; each channel by itself, with no change to luminance. scikit-image calls this `gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False, data_range=1`.

    Raises:
        TwoStageError: an image is smaller than the window.
    """
    offsets = torch.arange(WINDOW_SIZE, dtype=torch.float64) - WINDOW_SIZE // 2
    return _structural_similarity(images, reconstructions, torch.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2)))


def ssim_uniform(images: Tensor, reconstructions: Tensor) -> Tensor:
    """SSIM under an 11x11 window of equal weights with sample (co)variances, scikit-image's default form -> [b].

    Raises:
        TwoStageError: an image is smaller than the window.
    """
    n = WINDOW_SIZE**2
    return _structural_similarity(images, reconstructions, torch.ones(WINDOW_SIZE, dtype=torch.float64), n / (n - 1))


def _structural_similarity(images: Tensor, reconstructions: Tensor, window: Tensor, correction: float = 1.0) -> Tensor:
    """SSIM with this window, [WINDOW_SIZE], along either axis; (co)variances are multiplied by the correction."""
    x, y = _unit_pair(images, reconstructions)
    if min(x.shape[-2:]) < WINDOW_SIZE:
        raise refuse("SSIM: image size", tuple(x.shape[-2:]), f"at least {WINDOW_SIZE} x {WINDOW_SIZE} pixels")
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]), window.to(x))
    variance_x, variance_y = correction * (xx - mean_x**2), correction * (yy - mean_y**2)
    covariance = correction * (xy - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    scale = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (likeness / scale).mean(dim=(1, 2, 3))


def _blur(maps: Tensor, window: Tensor) -> Tensor:
    """[..., H, W] -> [..., H - 10, W - 10], each the mean weighted by the window along rows and columns."""
    line = window / window.sum()
    rows = F.conv2d(maps.flatten(0, -3)[:, None], line.view(1, 1, -1, 1))
    blurred = F.conv2d(rows, line.view(1, 1, 1, -1))
    return blurred.view(*maps.shape[:-2], *blurred.shape[-2:])


def lpips_network(net: str = "vgg") -> nn.Module | Missing:
    """LPIPS v0.1, frozen and in eval mode, with the published weights, or what is missing for it.

    Called with two [b, 3, H, W] in [-1, 1] it gives [b, 1, 1, 1].

    Args:
        net: the trunk, one of `LPIPS_TRUNKS`; the papers report "vgg".

    Raises:
        TwoStageError: an unknown trunk, or a weights file that is not the published one.
    """
    if net not in LPIPS_TRUNKS:
        raise refuse("LPIPS network", net, ", ".join(LPIPS_TRUNKS))
    weights = hub_weights(LPIPS_TRUNKS[net], needed_by=f"LPIPS ({net})")
    if isinstance(weights, Missing):
        return weights
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips asks torchvision for its trunk in a deprecated way
        return lpips.LPIPS(net=net, verbose=False).eval().requires_grad_(False)


def lpips_distance(net: str = "vgg", device: torch.device | str = "cpu") -> Measure | Missing:
    """`lpips_network` as a measure of clipped images.

    Args:
        net: the trunk.
        device: where the network, and the images it will be given, live.
    """
    network = lpips_network(net)
    if isinstance(network, Missing):
        return network
    network.to(device)

    @torch.no_grad()
    def measure(images: Tensor, reconstructions: Tensor) -> Tensor:
        x, y = (unit.float().mul(2).sub(1) for unit in _unit_pair(images, reconstructions))
        return network(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)).flatten()

    return measure


MEASURES: Mapping[str, Measure] = MappingProxyType({"L1": l1, "PSNR": psnr, "SSIM": ssim})
"""What needs no network. With LPIPS: `{**MEASURES, "LPIPS": lpips}`."""


class ReconstructionMetrics:
    """Means over images, however they were batched.

    Args:
        measures: row name -> measure.
    """

    def __init__(self, measures: Mapping[str, Measure] = MEASURES) -> None:
        self.measures = dict(measures)
        self.sums = torch.zeros(len(self.measures), dtype=torch.float64)
        self.images = 0

    @torch.no_grad()
    def update(self, images: Tensor, reconstructions: Tensor) -> None:
        """Count one batch, both [b, c, H, W] in [-1, 1]; reconstructions outside are clipped."""
        self.add(self.measure(images, reconstructions), len(images))

    @torch.no_grad()
    def measure(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        """Each measure's sum over a batch, float64 [len(measures)]."""
        values = [measure(images, reconstructions).cpu().double().sum() for measure in self.measures.values()]
        return torch.stack(values)

    def add(self, sums: Tensor, images: int) -> None:
        """Count a batch that was measured elsewhere."""
        self.sums += sums
        self.images += images

    def compute(self) -> dict[str, float]:
        """Row name -> mean over all images so far, and `n`, their number.

        Raises:
            TwoStageError: there were none.
        """
        if self.images == 0:
            raise TwoStageError("reconstruction metrics: 0 images were given; allowed: at least 1")
        return {**dict(zip(self.measures, (self.sums / self.images).tolist())), "n": self.images}
