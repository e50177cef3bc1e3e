"""The judge of patches, and what it learns by.

PatchGAN: "Image-to-Image Translation with Conditional Adversarial Networks" (Isola et al., 2017), Sec. 3.2 and 6.1.
Hinge: "Geometric GAN" (Lim, Ye, 2017), as "Taming Transformers for High-Resolution Image Synthesis" (2021) uses it:
    L_D = (mean max(0, 1 - D(x)) + mean max(0, 1 + D(x_hat))) / 2,   L_G = -mean D(x_hat)
LeCAM: "Regularizing Generative Adversarial Networks under Limited Data" (Tseng et al., 2021), Eq. 4:
    R = mean (D(x) - a_fake)^2 + mean (D(x_hat) - a_real)^2,   a the moving averages of the logits of either kind
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import full_precision
from twostage.training.distributed import sum_over_processes, world_size

Normalization = Literal["batch", "group"]

NORMALIZATIONS: Mapping[Normalization, Callable[[int], nn.Module]] = MappingProxyType(
    {
        # Batches are all it ever sees, so the running statistics would have no reader.
        "batch": lambda width: nn.BatchNorm2d(width, track_running_stats=False),
        "group": lambda width: nn.GroupNorm(1, width),
    }
)


class PatchGAN(nn.Module):
    """Images [b, channels, H, W] -> logits [b, 1, h, w], each of one patch; high means real.

    Logits are float32 (float64 of float64 images). With three layers a patch is 70 x 70 pixels, and h = H/8 - 2. The
    weights start at N(0, 0.02), as published.

    Args:
        channels: of the images.
        layers: stride-2 convolutions; H / 2^layers must be at least 3.
        width: channels after the first of them, twice as many after each further one, at most eight times as many.
        normalization: "batch" as published: the statistics are those of this process's images, one micro-batch of
            real ones or of reconstructions. "group" (one group) knows no batch, so that two processes, or two
            micro-batches, do what one does.
    """

    def __init__(self, channels: int, layers: int = 3, width: int = 64, normalization: Normalization = "batch") -> None:
        super().__init__()
        norm = NORMALIZATIONS[normalization]
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        stages: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            convolution = nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1, bias=False)
            stages += [convolution, norm(widths[i]), nn.LeakyReLU(0.2)]
        self.stages = nn.Sequential(*stages, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for stage in self.stages:
            if isinstance(stage, nn.Conv2d):
                nn.init.normal_(stage.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        return full_precision(self.stages(images))


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """L_D of the logits of images and of reconstructions, any shape: 1 for logits of 0, 0 beyond the margins."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def generator_hinge(fake: Tensor) -> Tensor:
    """L_G of the logits of reconstructions, any shape."""
    return -fake.mean()


class LeCAM(nn.Module):
    """The pull of each kind's logits towards the other kind's past mean, against a discriminator grown too sure.

    The moving averages are those of all processes and include the batch at hand; their bias towards the start at zero
    is divided out. The published code squares only what lies beyond the other kind's mean; here it is Eq. 4 itself.

    Args:
        decay: of the moving averages.
    """

    means: Tensor
    updates: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("means", torch.zeros(2))
        self.register_buffer("updates", torch.tensor(0))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """R of the logits of images and of reconstructions, any shape; the averages move first."""
        batch = torch.stack([real.mean(), fake.mean()]).detach().to(self.means)
        self.means.lerp_(sum_over_processes(batch) / world_size(), 1 - self.decay)
        self.updates += 1
        past_real, past_fake = self.means / (1 - self.decay**self.updates)
        return (real - past_fake).square().mean() + (fake - past_real).square().mean()
