"""What people would rather look at than read: grids of images, curves, bars; all PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from twostage.data.images import to_uint8
from twostage.files import atomic
from twostage.metrics.codebook import perplexity, usage


def image_grid(images: Tensor, columns: int, *, scale: int | None = None, gap: int = 2) -> Image.Image:
    """Images [n, c, H, W] in [-1, 1] row by row, `columns` to a row, on white.

    Args:
        scale: every pixel becomes scale x scale; by default small images are enlarged to about 64 pixels.
        gap: pixels between images, after enlarging.
    """
    scale = scale or max(1, 64 // images.shape[-1])
    pixels = to_uint8(images.cpu()).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    n, _, height, width = pixels.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return Image.fromarray(sheet)


def save_image(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG")


def save_pairs(originals: Tensor, reconstructions: Tensor, path: Path, *, columns: int = 12) -> None:
    """Originals [n, c, H, W] with their reconstructions below them, row pair by row pair."""
    rows: list[Tensor] = []
    for top, bottom in zip(originals.split(columns), reconstructions.split(columns)):
        rows += [top, bottom]
    save_image(image_grid(torch.cat([row.cpu() for row in rows]), columns), path)


def save_labelled_rows(images: Tensor, names: Sequence[str], path: Path) -> None:
    """Images [len(names) * m, c, H, W], m to a row, each row with its name on the left."""
    columns = len(images) // len(names)
    figure, axes = _figure(0.55 * columns + 1.1, 0.55 * len(names))
    grid = image_grid(images, columns)
    axes.imshow(grid)
    step = grid.height / len(names)
    axes.set_yticks([step * (i + 0.5) for i in range(len(names))], names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(figure, path)


def save_curves(log: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """The named scalars of a run's log over its steps, one panel each; names that the log lacks are left out."""
    present = [name for name in names if any(name in line for line in log)]
    if not present:
        return
    figure, panels = _figure(4.2 * len(present), 3, panels=len(present))
    for panel, name in zip(np.atleast_1d(panels), present):
        points = [(line["step"], line[name]) for line in log if name in line]
        steps, values = zip(*points)
        panel.plot(steps, values, linewidth=1.2)
        if min(values) > 0 and max(values) > 20 * min(values):
            panel.set_yscale("log")
        panel.set(title=name.replace("_", " "), xlabel="step")
        panel.grid(alpha=0.3)
    _save(figure, path)


def save_usage(counts: Tensor, path: Path) -> None:
    """How often each code was used, int [K], most used first, with the share of codes in use and the perplexity."""
    figure, axes = _figure(7, 3)
    share = counts.sort(descending=True).values.double() / counts.sum().clamp(min=1)
    axes.fill_between(range(len(share)), share.numpy(), step="mid")
    axes.axhline(1 / len(share), color="black", linewidth=0.8, linestyle="--", label="uniform")
    title = f"usage {usage(counts).item():.1%} of {len(share)} codes, perplexity {perplexity(counts).item():.0f}"
    axes.set(xlabel="codes, most used first", ylabel="share of features", title=title)
    axes.legend()
    _save(figure, path)


def _figure(width: float, height: float, panels: int = 1) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="tight")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels)


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
