"""The pictures of a table, PNG: figures by row, over a setting, over training; its log; and codes among features."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from pipelines.reproduce.results import Results, Statistic
from pipelines.reproduce.table import Measure, Row
from twostage.config import flatten
from twostage.files import atomic
from twostage.pictures import DEAD, USED
from twostage.training.log import read_log

Measures = Annotated[list[Measure], Field(min_length=1)]
Names = Annotated[list[str], Field(min_length=1)]

BETTER = {"L1": " ↓", "LPIPS": " ↓", "rFID": " ↓", "FID": " ↓", "PSNR": " ↑", "SSIM": " ↑", "usage": " ↑"}
"""Which way is better."""

OURS: dict[str, Any] = {"color": USED, "marker": "o", "markersize": 6}
PUBLISHED: dict[str, Any] = {"color": DEAD, "marker": "D", "markersize": 5, "markerfacecolor": "none"}


def dots(results: Results, path: Path, *, measures: Measures) -> None:
    """A panel for each data set and measure, in it a place for each row: ours and what is published.

    Dots, not bars: bars begin at zero, where 23.3 and 24.7 dB look alike.
    """

    def draw(panel: Any, dataset: str, measure: str) -> None:
        rows = [row for row in results.table.rows if any(_has(results, dataset, row, m) for m in measures)]
        for place, row in enumerate(rows):
            ours, published = _figures(results, dataset, row, measure)
            if published is not None:
                panel.plot([published], [place], label="published", linestyle="", **PUBLISHED)
            if ours is not None:
                panel.errorbar([ours.mean], [place], xerr=ours.deviation, label="ours", linestyle="", **OURS)
        panel.set_yticks(range(len(rows)), [row.name for row in rows])
        panel.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        panel.grid(axis="x", alpha=0.3)
        panel.margins(x=0.1)
        panel.locator_params(axis="x", nbins=4)

    _draw_panels(results, path, measures, draw, height=0.8 + 0.28 * len(results.table.rows), share_rows=True)


def lines(results: Results, path: Path, *, over: str, measures: Measures) -> None:
    """A panel for each data set and measure, in it a line for each series of rows, over a key of their configs."""
    series: dict[str, list[tuple[float, Row]]] = {}
    for row in results.table.trained:
        place = float(flatten(results.table.options(row))[over])
        series.setdefault(row.series or "rows", []).append((place, row))

    def draw(panel: Any, dataset: str, measure: str) -> None:
        for i, (name, points) in enumerate(series.items()):
            _line(results, panel, dataset, measure, points, {"color": f"C{i}", "name": name})
        panel.set(xlabel=over.split(".")[-1].replace("_", " "))
        panel.set_xscale("log", base=2)
        places = sorted({place for points in series.values() for place, _ in points})
        panel.set_xticks(places, [f"{place:g}" for place in places])
        panel.minorticks_off()
        panel.grid(alpha=0.3)

    _draw_panels(results, path, measures, draw, height=3.2)


def _line(
    results: Results, panel: Any, dataset: str, measure: str, points: Sequence[tuple[float, Row]], style: dict[str, str]
) -> None:
    """Ours as a line, what is published dashed in its colour."""
    found = [(place, *_figures(results, dataset, row, measure)) for place, row in sorted(points, key=lambda p: p[0])]
    ours = [(place, one) for place, one, _ in found if one is not None]
    if ours:
        places, statistics = zip(*ours)
        spread = [one.deviation or 0.0 for one in statistics]
        look = {"marker": "o", "color": style["color"], "label": f"{style['name']}, ours"}
        panel.errorbar(places, [one.mean for one in statistics], yerr=spread, **look)
    published = [(place, one) for place, _, one in found if one is not None]
    if published:
        look = {"linestyle": "--", "marker": "D", "markerfacecolor": "none", "color": style["color"]}
        panel.plot(*zip(*published), label=f"{style['name']}, published", **look)


def curves(results: Results, path: Path, *, scalars: Names) -> None:
    """A panel for each data set and scalar of the training's log, in it a line for each row, a thin one a seed."""

    def draw(panel: Any, dataset: str, scalar: str) -> None:
        drawn: list[float] = []
        for i, row in enumerate(results.table.rows):
            for j, run in enumerate(results.runs.get((dataset, row.name), ())):
                points = [(line["step"], line[scalar]) for line in read_log(run.folder) if scalar in line]
                if points:
                    label = {"label": row.name} if j == 0 else {}
                    panel.plot(*zip(*points), color=f"C{i}", linewidth=1.2, **label)
                    drawn += [value for _, value in points]
        if drawn and min(drawn) > 0 and max(drawn) > 20 * min(drawn):
            panel.set_yscale("log")
        panel.set(xlabel="step")
        panel.grid(alpha=0.3)

    _draw_panels(results, path, scalars, draw, height=3.2)


def progress(results: Results, path: Path, *, measures: Measures) -> None:
    """A panel for each data set and measure of test images, in it a line for each run, over its checkpoints.

    Published figures, which are of the end of a training, are dashed across where there is a line.
    """
    budget = results.table.budget.parse(results.budget)

    def draw(panel: Any, dataset: str, measure: str) -> None:
        found = [results.over_training(dataset, row, measure) for row in results.table.rows]
        for i, row in enumerate(results.table.rows if any(found) else ()):
            for j, curve in enumerate(found[i]):
                places, values = zip(*((share * budget.amount, value) for share, value in curve))
                label = {"label": f"{row.name}, ours"} if j == 0 else {}
                panel.plot(places, values, color=f"C{i}", marker="o", markersize=4, **label)
            published = results.published(dataset, row, measure)
            if published is not None:
                panel.axhline(published, color=f"C{i}", linestyle="--", label=f"{row.name}, published")
        panel.set(xlabel=budget.unit)
        panel.grid(alpha=0.3)

    _draw_panels(results, path, measures, draw, height=3.2)


def projections(results: Results, path: Path) -> None:
    """Features and codes of the first seed of every row, each on the principal plane of its own features."""
    rows = results.table.trained
    datasets = [dataset for dataset in results.table.datasets if any(dataset == of for of, _ in results.runs)]
    if not datasets:
        return
    figure, panels = _figure(4.6 * len(rows), 4.9 * len(datasets), len(datasets), len(rows))
    for (i, dataset), (j, row) in product(enumerate(datasets), enumerate(rows)):
        panels[i, j].axis("off")
        for run in results.runs.get((dataset, row.name), ())[:1]:
            picture = run.folder / "pictures" / "projection.png"
            if picture.is_file():
                panels[i, j].imshow(np.asarray(Image.open(picture)))
                panels[i, j].set_title(f"{row.name}, {dataset}")
    _save(figure, path)


Draw = Callable[[Any, str, str], None]
"""(panel, data set, name): draws what there is, if anything, with labels for the legend."""


def _draw_panels(
    results: Results, path: Path, names: Sequence[str], draw: Draw, *, height: float, share_rows: bool = False
) -> None:
    """A grid of panels, a row for each data set and a column for each name with anything to show.

    Args:
        height: of a panel, in inches.
        share_rows: the panels of a data set have the same rows; only the first names them.
    """
    found = {(dataset, name) for dataset in results.table.datasets for name in names if _draws(draw, dataset, name)}
    datasets = [dataset for dataset in results.table.datasets if any(dataset == of for of, _ in found)]
    names = [name for name in names if any(name == what for _, what in found)]
    if not found:
        return
    figure, panels = _figure(3.0 * len(names) + 1.8, height * len(datasets) + 0.4, len(datasets), len(names))
    labels: dict[str, Any] = {}
    for i, dataset in enumerate(datasets):
        first = next(j for j, name in enumerate(names) if (dataset, name) in found)
        for j, name in enumerate(names):
            panel = panels[i, j]
            if (dataset, name) not in found:
                panel.remove()
                continue
            draw(panel, dataset, name)
            panel.set_title(f"{dataset}: {name.replace('_', ' ')}{BETTER.get(name, '')}")
            if share_rows and j > first:
                panel.set_yticklabels([])
            handles, texts = panel.get_legend_handles_labels()
            labels |= dict(zip(texts, handles))
    title = f"ours: {results.budget} a row" if results.runs else None
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=4, frameon=False, title=title)
    _save(figure, path)


def _draws(draw: Draw, dataset: str, name: str) -> bool:
    _, panels = _figure(1, 1, 1, 1)
    draw(panels[0, 0], dataset, name)
    return bool(panels[0, 0].get_legend_handles_labels()[0])


def _figures(results: Results, dataset: str, row: Row, measure: str) -> tuple[Statistic | None, float | None]:
    protocol = results.table.protocol
    return results.ours(dataset, row, measure, protocol), results.published(dataset, row, measure)


def _has(results: Results, dataset: str, row: Row, measure: str) -> bool:
    return any(one is not None for one in _figures(results, dataset, row, measure))


def _figure(width: float, height: float, rows: int, columns: int) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
