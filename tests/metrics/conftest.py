"""Toy images, networks and weights folders for the metrics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from twostage.data.images import ArrayImages, LabelledArrays


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty folder in place of torch.hub's checkpoints."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def network_file(tmp_path) -> Path:
    """Factories of small feature networks, right and wrong ones."""
    path = tmp_path / "networks.py"
    path.write_text(
        """
import torch
from torch import nn
from torch.nn import functional as F
from twostage.metrics.features import Features


class Corners(nn.Module):
    def forward(self, images):
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        return F.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)


class Named(Corners):
    name = "corners"


class Classifying(Corners):
    def forward(self, images):
        features = super().forward(images)
        return Features(features=features, logits=10 * features[:, :4])


class Maps(Corners):
    def forward(self, images):
        return images.float()


class Broken(Corners):
    def forward(self, images):
        return super().forward(images) * float("nan")


def pooled():
    return Corners()


def named():
    return Named()


def classifying():
    return Classifying()


def maps():
    return Maps()


def broken():
    return Broken()


def not_a_module():
    return 3
"""
    )
    return path


@pytest.fixture
def noise_images():
    """(n, brightness, seed) -> uint8 [n, 3, 8, 8]."""

    def make(n: int, brightness: float = 128, seed: int = 0) -> torch.Tensor:
        random = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        return (random * 40 + brightness).clamp(0, 255).to(torch.uint8)

    return make


@pytest.fixture
def stripes():
    """n -> a data set of two classes, horizontal and vertical stripes, grey, 16 x 16."""

    def make(n: int, seed: int = 0) -> ArrayImages:
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, n)
        lines = (np.arange(16)[None, :] + random.integers(0, 4, (n, 1))) % 4 < 2
        images = np.broadcast_to(lines[:, :, None], (n, 16, 16)).copy()
        images[labels == 1] = images[labels == 1].transpose(0, 2, 1)
        noisy = images * 120 + random.integers(0, 120, images.shape)
        return ArrayImages(LabelledArrays(noisy[:, None].astype(np.uint8), labels), ["horizontal", "vertical"])

    return make
