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

USED, DEAD, FEATURE = "#1f5fa8", "#d1495b", "#9aa5b1"
"""The colours of codes in use, of codes that are not, and of features."""


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
        _scale(panel, values)
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


def save_codebook_health(log: Sequence[Mapping[str, Any]], entries: int, path: Path) -> None:
    """Usage, perplexity and dead codes of a run's log between its lines, and how far codes moved, over its steps.

    Lines with a warning are marked. A log without any of it (of a run in its warm start) is not drawn.

    Args:
        entries: of the codebook, the highest possible perplexity.
    """
    lines = [line for line in log if "window_usage" in line]
    if not lines:
        return
    figure, panels = _figure(8.4, 5.2, rows=2, panels=2)
    steps, marker = [line["step"] for line in lines], "." if len(lines) < 30 else None
    for panel, (name, title) in zip(panels.flat, HEALTH.items()):
        values = [line[name] for line in lines]
        panel.plot(steps, values, linewidth=1.4, color=USED, marker=marker)
        panel.set(title=title, xlabel="step")
        panel.grid(alpha=0.3)
        for line in lines:
            if "warnings" in line:
                panel.axvline(line["step"], color=DEAD, linewidth=1.2, linestyle=":")
    for panel, top in zip(panels.flat, (1, entries)):
        panel.axhline(top, color="black", linewidth=0.8, linestyle="--")
        panel.set_ylim(0, 1.06 * top)
    panels[0, 0].yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panels[1, 0].set_ylim(bottom=0)
    _scale(panels[1, 1], values)
    _save(figure, path)


HEALTH = {
    "window_usage": "codes in use",
    "window_perplexity": "perplexity",
    "dead_codes": "dead codes",
    "codebook_moved": "codes moved, relative to their length",
}
"""The scalars of the log, and what they are called in the picture."""


def save_projection(features: Tensor, codes: Tensor, counts: Tensor, path: Path) -> None:
    """Features and codes on the plane in which the features vary most; codes that no feature chose are marked.

    Codes far from all features are left out of the frame, and counted in it.

    Args:
        features: float [n, d].
        codes: float [K, d].
        counts: int [K], how many features chose each code, of these or of more.
    """
    mean, plane, explained = principal_plane(features)
    dots, marks = (((rows.double() - mean) @ plane).numpy() for rows in (features, codes))
    centre, (width, height), shown = _frame(dots, marks)
    figure, axes = _figure(6.4, 6.2 * height / width + 0.9)
    used = (counts > 0).numpy()
    axes.scatter(*dots.T, s=6, color=FEATURE, alpha=0.4, linewidths=0, label=f"features ({len(dots)})")
    for chosen, name, style in (
        (used, "codes in use", {"color": USED, "edgecolors": "white", "linewidths": 0.6}),
        (~used, "unused codes", {"color": DEAD, "marker": "x", "linewidths": 1.1}),
    ):
        axes.scatter(*marks[chosen].T, s=24, label=f"{name} ({chosen.sum()})", **style)
    for axis, middle, half in zip("xy", centre, (width, height)):
        axes.set(**{f"{axis}lim": (middle - half, middle + half), f"{axis}ticks": []})
    axes.set(box_aspect=height / width, title=f"principal plane, {explained:.0%} of the features' variance")
    if outside := int((~shown).sum()):
        where = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.99, 0.98, f"{outside} codes lie outside the frame", **where)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=3, frameon=False, handletextpad=0.2)
    for handle in legend.legend_handles:
        handle.set(alpha=1, sizes=[30])
    _save(figure, path)


def save_neighbours(rows: Tensor, samples: Tensor, unseen: Tensor | None, path: Path, *, columns: int = 6) -> None:
    """Samples, each with its nearest training images beside it, above a histogram of distances.

    Args:
        rows: images [r * columns, c, H, W] in [-1, 1], of each row the first a sample.
        samples, unseen: distances to the nearest training image, of samples and of real images not trained on.
    """
    grid = image_grid(rows, columns, gap=4)
    figure, (top, bottom) = _figure(
        6.4, 6.4 * grid.height / grid.width + 2.6, rows=2, heights=[grid.height, 0.4 * grid.width]
    )
    top.imshow(grid)
    top.set(title="the samples nearest to training images, and these", xticks=[], yticks=[])
    top.axvline(grid.width / columns, color="black", linewidth=1)
    bins = np.histogram_bin_edges(torch.cat([samples, samples[:0] if unseen is None else unseen]).numpy(), 40)
    bottom.hist(samples.numpy(), bins, density=True, color=USED, alpha=0.6, label=f"samples ({len(samples)})")
    if unseen is not None:
        bottom.hist(
            unseen.numpy(), bins, density=True, color=FEATURE, alpha=0.6, label=f"unseen images ({len(unseen)})"
        )
    bottom.set(xlabel="distance to the nearest training image, in feature space", yticks=[])
    bottom.legend()
    _save(figure, path)


FRAME = 2.0
"""The frame of a projection shows codes up to so many times as far out as the farthest feature."""


def _frame(dots: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    """The centre and half the width and height of a frame for dots [n, 2], and which of the marks [K, 2] are in it."""
    centre = (dots.min(0) + dots.max(0)) / 2
    reach, distance = np.abs(dots - centre).max(0), np.abs(marks - centre)
    shown = (distance <= FRAME * reach.max()).all(1)
    width, height = 1.06 * np.maximum(reach, distance[shown].max(0, initial=0))
    width = max(width, height) or 1.0
    return centre, (width, max(height, width / 2)), shown


def principal_plane(rows: Tensor) -> tuple[Tensor, Tensor, float]:
    """The plane through the mean of rows [n, d] that keeps the most of their variance (PCA), in float64.

    Returns:
        The mean [d], two orthonormal directions [d, 2] (the second zero when d = 1), and the share of the variance.
        Of each direction the largest component is positive, so that pictures of the same rows are not mirrored.
    """
    mean = rows.double().mean(0)
    centred = rows.double() - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(rows))
    plane = directions.flip(1)[:, :2]
    plane = plane * plane.gather(0, plane.abs().argmax(0, keepdim=True)).sign()
    share = variances.flip(0)[:2].sum() / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return mean, torch.nn.functional.pad(plane, (0, 2 - plane.shape[1])), share.item()


def _figure(
    width: float, height: float, *, rows: int = 1, panels: int = 1, heights: Sequence[float] | None = None
) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="tight")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, panels, height_ratios=heights)


def _scale(panel: Any, values: Sequence[float]) -> None:
    """A logarithmic axis for values that differ much."""
    if min(values) > 0 and max(values) > 20 * min(values):
        panel.set_yscale("log")


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", bbox_inches="tight")
