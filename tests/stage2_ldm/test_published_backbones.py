"""The published denoising networks by their sizes."""

import pytest
import torch

from stage2_ldm.backbones import BACKBONES
from stage2_ldm.denoiser import LatentDenoiser


def build(name, num_classes, size, dim, **options):
    component = BACKBONES.resolve({"name": name, **options}, "denoiser")
    return LatentDenoiser(component, size, dim, num_classes, "epsilon", "quantized", [0.0] * dim, [1.0] * dim)


def count(denoiser):
    return sum(parameter.numel() for parameter in denoiser.parameters())


def published_unet(width, multipliers, attends, d, *, time, resampling, block_attention):
    """Parameters of the UNet by the description of the LDM and guided-diffusion papers.

    Args:
        time: outputs per channel of a block's time layer: 1 adds, 2 scale and shift.
        resampling: a "convolution" or a "residual" block.
        block_attention: parameters of an attention of c channels.
    """

    def conv(inputs, outputs, size=3):
        return size * size * inputs * outputs + outputs

    def block(inputs, outputs):
        shortcut = conv(inputs, outputs, 1) if inputs != outputs else 0
        timed = 4 * width * time * outputs + time * outputs
        return 2 * inputs + conv(inputs, outputs) + timed + 2 * outputs + conv(outputs, outputs) + shortcut

    change = {"convolution": lambda c: conv(c, c), "residual": lambda c: block(c, c)}[resampling]
    widths = [width * m for m in multipliers]
    total = conv(d, width) + 2 * width + conv(width, d)  # into it and out of it
    total += 4 * width * width + 4 * width + 16 * width * width + 4 * width  # two layers for the time
    c, skips = width, [width]
    for level, (wide, attend) in enumerate(zip(widths, attends)):
        for _ in range(2):
            total += block(c, wide) + (block_attention(wide) if attend else 0)
            c = wide
            skips.append(c)
        if level < len(widths) - 1:
            total += change(c)
            skips.append(c)
    total += 2 * block(c, c) + block_attention(c)
    for level, (wide, attend) in reversed(list(enumerate(zip(widths, attends)))):
        for _ in range(3):
            total += block(c + skips.pop(), wide) + (block_attention(wide) if attend else 0)
            c = wide
        total += change(c) if level else 0
    return total


def self_attention(c):
    return 2 * c + 3 * (c * c + c) + c * c + c


def spatial_transformer(c, context=512):
    """Norm and 1x1 convolutions around one transformer block: self-attention, cross-attention, GEGLU of 4 c."""
    around = 2 * c + 2 * (c * c + c)
    attention = 3 * c * c + c * c + c
    cross = c * c + 2 * context * c + c * c + c
    return around + 3 * 2 * c + attention + cross + (c * 8 * c + 8 * c) + (4 * c * c + c)


PLAIN = {"time": 1, "resampling": "convolution"}
UNETS = [
    # name, preset, h = w, d, classes, what the paper's tables of hyperparameters round to, its description
    (
        "unet",
        "lsun_churches",
        (32, 4, None),
        294.97,
        (192, [1, 2, 2, 4, 4], [1, 1, 1, 1, 0], 4),
        {"time": 2, "resampling": "residual", "block_attention": self_attention},
    ),
    *(
        (
            "unet",
            preset,
            (64, 3, None),
            274.06,
            (224, [1, 2, 3, 4], [0, 1, 1, 1], 3),
            {**PLAIN, "block_attention": self_attention},
        )
        for preset in ("lsun_bedrooms", "ffhq", "celebahq")
    ),
    (
        "cross_attention_unet",
        "imagenet",
        (32, 4, 1000),
        394.98,
        (256, [1, 2, 4], [1, 1, 1], 4),
        {**PLAIN, "block_attention": spatial_transformer},
    ),
    (
        "cross_attention_unet",
        "imagenet_f4",
        (64, 3, 1000),
        400.92,
        (192, [1, 2, 3, 5], [0, 1, 1, 1], 3),
        {**PLAIN, "block_attention": spatial_transformer},
    ),
]


@pytest.mark.parametrize(("name", "preset", "latents", "millions", "shape", "description"), UNETS)
def test_published_unets(name, preset, latents, millions, shape, description):
    """274M, 294M, 395M and 400M in "High-Resolution Image Synthesis with Latent Diffusion Models"."""
    size, d, classes = latents
    with torch.device("meta"):
        denoiser = build(name, classes, size, d, preset=preset)
        noisy = torch.empty(2, d, size, size)
        assert denoiser(noisy, torch.zeros(2)).shape == noisy.shape
    embedding = 0 if classes is None else (classes + 1) * 512
    assert count(denoiser) - embedding == published_unet(*shape, **description)
    assert (count(denoiser) - embedding) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(("preset", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_published_dits(preset, millions):
    """Tab. 4 of "Scalable Diffusion Models with Transformers", patches of 2 and 256 x 256 pixels."""
    with torch.device("meta"):
        denoiser = build("dit", 1000, 32, 4, preset=preset, patch=2)
        noisy = torch.empty(2, 4, 32, 32)
        assert denoiser(noisy, torch.zeros(2)).shape == noisy.shape
    assert count(denoiser) / 1e6 == pytest.approx(millions, rel=0.01)
