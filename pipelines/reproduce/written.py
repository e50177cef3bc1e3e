"""A table as files: table.json, table.md and its pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.reproduce.results import TABLE, Results, Statistic
from pipelines.reproduce.table import PLOTS, Row
from twostage.files import write_json, write_text

FORMATS = {"PSNR": ".2f", "rFID": ".2f", "FID": ".2f", "usage": ".1%", "perplexity": ".0f"}
NOTHING = "\u2013"

PROTOCOLS = {
    "default": "no JPEG, SSIM with a Gaussian window",
    "cvq": "pairs saved as JPEG, SSIM with an equal-weight window, as the published figures",
}


def write(results: Results, output: Path) -> None:
    """Write everything anew, each file whole or not at all; pictures once there is something of ours, if ever."""
    write_json(output / TABLE, as_json(results))
    write_text(output / "table.md", as_markdown(results))
    for i, plot in enumerate(results.table.plots if results.runs or not results.table.trained else ()):
        name = "table.png" if i == 0 else f"table_{plot['name']}.png"
        PLOTS.build(plot, results=results, path=output / name)


def as_json(results: Results) -> dict[str, Any]:
    """Every figure, with the values of the single seeds."""
    table = results.table
    return {
        "title": table.title,
        "source": table.source,
        "note": table.note,
        "budget": results.budget,
        "command": results.command,
        "machines": results.machines,
        "deviation": "sample standard deviation over seeds",
        "rows": [
            {"dataset": dataset, "row": row.name, "published": row.published.get(dataset, {}), "ours": ours}
            for dataset in table.datasets
            for row in table.rows
            if (ours := _ours(results, dataset, row)) or row.published.get(dataset)
        ],
    }


def _ours(results: Results, dataset: str, row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for protocol in results.table.protocols:
        for measure in results.measures:
            if (statistic := results.ours(dataset, row, measure, protocol)) is not None:
                said = {"mean": statistic.mean, "deviation": statistic.deviation, "values": list(statistic.values)}
                found.setdefault(protocol, {})[measure] = said
    return found


def as_markdown(results: Results) -> str:
    """The table for readers: how it came about, then for every data set published figures beside ours."""
    table = results.table
    parts = [f"# {table.title}", f"Published: {table.source}.", *([table.note] if table.note else [])]
    if results.runs:
        parts += [
            f"Ours: {results.budget} a row; mean over seeds ± sample standard deviation where there are several; "
            f"{'; '.join(results.machines)}.",
            f"```\n{results.command}\n```",
        ]
    for dataset in table.datasets:
        for i, protocol in enumerate(table.protocols):
            lines = list(_lines(results, dataset, protocol, published=i == 0))
            if lines:
                how = f", protocol `{protocol}` ({PROTOCOLS[protocol]})" if table.trained else ""
                parts.append(f"## {dataset}{how}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _lines(results: Results, dataset: str, protocol: str, *, published: bool) -> Iterator[str]:
    """A Markdown table of the rows on a data set; nothing where no row has a figure."""
    rows = results.table.rows
    columns = [
        (measure, whose)
        for measure in results.measures
        for whose in (("published", "ours") if published else ("ours",))
        if any(_cell(results, dataset, row, measure, whose, protocol) != NOTHING for row in rows)
    ]
    if not columns:
        return
    seeds = any(whose == "ours" for _, whose in columns)
    head = ["row", *(f"{measure}, {whose}" for measure, whose in columns), *(["seeds"] if seeds else [])]
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        cells = [_cell(results, dataset, row, measure, whose, protocol) for measure, whose in columns]
        count = [str(len(results.runs.get((dataset, row.name), ())) or NOTHING)] if seeds else []
        if any(cell != NOTHING for cell in cells):
            yield f"| {' | '.join([row.name, *cells, *count])} |"


def _cell(results: Results, dataset: str, row: Row, measure: str, whose: str, protocol: str) -> str:
    if whose == "ours":
        return as_text(results.ours(dataset, row, measure, protocol), measure)
    figure = results.published(dataset, row, measure)
    return as_text(None if figure is None else Statistic((figure,)), measure)


def as_text(statistic: Statistic | None, measure: str) -> str:
    """A figure with the digits that its measure is printed with."""
    if statistic is None:
        return NOTHING
    form = FORMATS.get(measure, ".2f" if measure.startswith("rFD-") else ".4f")
    spread = "" if statistic.deviation is None else f" ± {statistic.deviation:{form}}"
    return f"{statistic.mean:{form}}{spread}"
