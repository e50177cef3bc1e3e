"""One self-contained HTML page of a run: its numbers and its pictures."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twostage.config import flatten
from twostage.files import write_text


@dataclass(frozen=True)
class Picture:
    """A PNG in the run folder, and what it shows."""

    path: str
    caption: str


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td { border-bottom: 1px solid #ddd; padding: .2em .8em }
td.value { font-variant-numeric: tabular-nums } tr.missing { color: #999 }
figure { margin: 2em 0 } figcaption { font-weight: 600; margin-bottom: .4em } img { max-width: 100% }
"""


def write_report(run: Path, metrics: Mapping[str, Any], pictures: Sequence[Picture]) -> Path:
    """Write `report.html` into the run folder, images inside; pictures that do not exist are left out."""
    rows = "\n".join(_row(name, value) for name, value in flatten(metrics).items())
    figures = "\n".join(_figure(run / p.path, p.caption) for p in pictures if (run / p.path).exists())
    page = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(run.name)}</title>"
        f"<style>{STYLE}</style><h1>{html.escape(run.name)}</h1>\n{figures}\n"
        f"<h2>Numbers</h2><table>{rows}</table></html>\n"
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def _row(name: str, value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    kind = " class='missing'" if text.startswith("missing") else ""
    return f"<tr{kind}><td>{html.escape(name)}</td><td class='value'>{html.escape(text)}</td></tr>"


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = html.escape(caption)
    image = f"<img alt='{caption}' src='data:image/png;base64,{data}'>"
    return f"<figure><figcaption>{caption}</figcaption>{image}</figure>"
