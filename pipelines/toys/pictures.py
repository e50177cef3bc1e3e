"""The demonstrations as one figure and as a small animation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pipelines.toys.drift import Stream
from pipelines.toys.follow import Trace
from twostage.files import atomic
from twostage.pictures import DEAD, FEATURE, USED, save_image

Traces = Mapping[str, Mapping[str, Trace]]

LINES = ("#d98c00", "#b5549b", "#00806a", "#222222")
"""Of usage over the steps: a colour for each quantiser."""

DOTS = 400
"""Features drawn in a panel."""

WHILE_DRIFTING, AFTER_DRIFT = 6, 32
"""Epochs: in the middle pictures the drift has 38% of its way to go; after the second the animation may hurry."""

FRAME, FIRST, LAST = 120, 1250, 2500
"""How long the animation shows a frame, its first and its last, in milliseconds."""

LEGEND: Mapping[str, dict[str, Any]] = {
    "features": {"marker": "o", "color": FEATURE},
    "codes in use": {"marker": "o", "color": USED},
    "codes nearest to no feature": {"marker": "x", "color": DEAD},
}


class Panel:
    """Features and codes of one demonstration on fixed axes; `show` moves them.

    Args:
        axes: matplotlib's.
        frame: half the width of the square that is shown, and its centre.
    """

    def __init__(self, axes: Any, frame: tuple[float, Tensor]) -> None:
        half, (x, y) = frame[0], frame[1].tolist()
        axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), xticks=[], yticks=[], box_aspect=1)
        axes.spines[:].set_color("#c8ced4")
        nothing = np.empty((0, 2))
        self.features = axes.scatter(*nothing.T, s=2.5, color=FEATURE, alpha=0.55, linewidths=0)
        self.used = axes.scatter(*nothing.T, s=15, color=USED, edgecolors="white", linewidths=0.5, zorder=3)
        self.dead = axes.scatter(*nothing.T, s=15, color=DEAD, marker="x", linewidths=1.1, zorder=4)
        where = {"transform": axes.transAxes, "ha": "right", "va": "bottom", "fontsize": 8, "zorder": 5}
        self.share = axes.text(0.96, 0.04, "", **where, bbox={"color": "white", "pad": 0.6})

    def show(self, features: Tensor, trace: Trace, moment: int) -> None:
        """Draw features [n, 2] and the codes of a moment of the trace."""
        codes, used = trace.codes[moment], trace.used[moment]
        self.features.set_offsets(features[:DOTS].numpy())
        self.used.set_offsets(codes[used].numpy())
        self.dead.set_offsets(codes[~used].numpy())
        self.share.set_text(f"{trace.usage[moment]:.0%}")
        self.share.set_color(USED if used.all() else DEAD)


def frame(stream: Stream) -> tuple[float, Tensor]:
    """Half the width and the centre [2] of a square around nearly all features at the start and at the end."""
    both = torch.cat([stream.cloud(0), stream.cloud(-1)])
    low, high = both.quantile(0.002, 0), both.quantile(0.998, 0)
    return 0.62 * (high - low).max().item(), (low + high) / 2


def save_figure(streams: Mapping[str, Stream], traces: Traces, titles: Mapping[str, str], path: Path) -> None:
    """One row a demonstration: the common start, each quantiser while features drift and at the end, usage over steps.

    Args:
        titles: quantiser -> what it is called.
    """
    columns = 1 + 2 * len(titles)
    figure, grid = _figure(1.25 * columns + 2.6, 1.35 * len(streams) + 0.7, len(streams), columns + 1, last=1.9)
    for row, (demo, stream) in zip(grid, streams.items()):
        row[0].set_ylabel(demo, fontsize=11)
        place = frame(stream)
        for axes, (name, moment) in zip(row, moments(list(titles))):
            trace = traces[demo][name]
            Panel(axes, place).show(stream.cloud(trace.steps[moment]), trace, moment)
        draw_usage(row[-1], stream, traces[demo], titles)
    for axes, (name, moment) in zip(grid[0], moments(list(titles))):
        step = next(iter(traces.values()))[name].steps[moment]
        when = "drifting" if moment == WHILE_DRIFTING else "end"
        axes.set_title(f"{titles[name]}\n{when}, step {step}" if moment else "all four\nstart", fontsize=9)
    grid[0, -1].set_title("codes in use\nover the steps", fontsize=9)
    handles = [*_handles(grid[0, 0]), *grid[0, -1].get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="lower left", ncols=len(handles), frameon=False, fontsize=9)
    save_image(_render(figure).quantize(128), path)


def moments(names: list[str]) -> list[tuple[str, int]]:
    """Whose codes the panels of a row show, and when: index into a trace."""
    return [(names[0], 0), *((name, moment) for name in names for moment in (WHILE_DRIFTING, -1))]


def draw_usage(axes: Any, stream: Stream, traces: Mapping[str, Trace], titles: Mapping[str, str]) -> None:
    """A line for each quantiser: its usage over the steps; behind them, how far features have yet to go."""
    axes.fill_between(
        range(len(stream.parameters)), stream.remaining(), color=FEATURE, alpha=0.3, label="drift to come", linewidth=0
    )
    for (name, title), color in zip(titles.items(), LINES):
        axes.plot(traces[name].steps, traces[name].usage, color=color, linewidth=1.4, label=title)
    axes.set(ylim=(0, 1.06), yticks=[0, 0.5, 1])
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=8, labelbottom=axes.get_subplotspec().is_last_row())
    axes.margins(x=0)
    axes.grid(alpha=0.3)


def save_animation(streams: Mapping[str, Stream], traces: Traces, titles: Mapping[str, str], path: Path) -> None:
    """The same over time, a GIF that Pillow writes: one row a demonstration, one column a quantiser."""
    figure, grid = _figure(1.45 * len(titles) + 0.4, 1.45 * len(streams) + 0.8, len(streams), len(titles))
    panels = {}
    for row, (demo, stream) in zip(grid, streams.items()):
        row[0].set_ylabel(demo, fontsize=10)
        for axes, name in zip(row, titles):
            panels[demo, name] = Panel(axes, frame(stream))
    for axes, title in zip(grid[0], titles.values()):
        axes.set_title(title, fontsize=10)
    figure.legend(handles=_handles(grid[0, 0]), loc="lower center", ncols=3, frameon=False, fontsize=8)
    clock = figure.text(0.02, 0.985, "", ha="left", va="top", fontsize=8)
    steps = next(iter(traces[next(iter(streams))].values())).steps
    pictures = []
    for moment in tqdm(chosen_moments(len(steps)), desc="animation", unit="frame", dynamic_ncols=True):
        clock.set_text(f"step {steps[moment]}")
        for (demo, name), panel in panels.items():
            panel.show(streams[demo].cloud(steps[moment]), traces[demo][name], moment)
        pictures.append(_render(figure, dpi=100))
    write_gif(pictures, path)


def chosen_moments(count: int) -> list[int]:
    """Every moment while features drift, afterwards every third, and the last."""
    return sorted({*range(min(count, AFTER_DRIFT)), *range(AFTER_DRIFT, count, 3), count - 1})


def write_gif(pictures: list[Image.Image], path: Path) -> None:
    """At least two pictures of one size as an endless GIF in one palette."""
    palette = pictures[len(pictures) // 4].quantize(64)
    first, *others = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [FIRST, *[FRAME] * (len(pictures) - 2), LAST]
    with atomic(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _handles(axes: Any) -> list[Any]:
    """What dots and crosses mean."""
    return [axes.scatter([], [], s=22, label=label, linewidths=1.1, **style) for label, style in LEGEND.items()]


def _figure(width: float, height: float, rows: int, columns: int, *, last: float = 1) -> tuple[Any, Any]:
    """A figure of rows x columns square panels; the last column is `last` times as wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    space = {"left": 0.03 + 0.25 / width, "right": 1 - 0.45 / width, "top": 1 - 0.42 / height, "bottom": 0.5 / height}
    shape = {"width_ratios": [1] * (columns - 1) + [last], "wspace": 0.06, "hspace": 0.06}
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw={**space, **shape})


def _render(figure: Any, dpi: int = 110) -> Image.Image:
    figure.set_dpi(dpi)
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
