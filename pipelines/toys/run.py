"""All demonstrations once: numbers, a table, a figure, an animation."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import twostage
from pipelines.toys.drift import DRIFTS, Settings, Stream, drifting
from pipelines.toys.follow import Trace, contestants, follow_all, kmeans_distortion
from pipelines.toys.pictures import save_animation, save_figure
from twostage.files import write_json, write_text


def run(output: Path, seed: int, settings: Settings | None = None) -> dict[str, Any]:
    """Write toys.json, toys.md, toys.png and toys.gif into the folder `output`.

    Args:
        seed: of points, batches, k-means and weights.
        settings: the default ones when None.

    Returns:
        What toys.json holds.
    """
    settings = settings or Settings()
    streams = {demo: drifting(drift, settings, seed) for demo, drift in DRIFTS.items()}
    traces = follow_all(streams, settings, seed)
    report = {
        "seed": seed,
        "settings": asdict(settings),
        "quantizers": {name: asdict(entered) for name, entered in contestants(settings).items()},
        "libraries": {"twostage": twostage.__version__, "torch": torch.__version__},
        "results": {demo: measure(stream, traces[demo], settings, seed) for demo, stream in streams.items()},
    }
    write_json(output / "toys.json", report)
    write_text(output / "toys.md", table(report))
    titles = {name: entered.title for name, entered in contestants(settings).items()}
    save_figure(streams, traces, titles, output / "toys.png")
    save_animation(streams, traces, titles, output / "toys.gif")
    return report


def measure(stream: Stream, traces: Mapping[str, Trace], settings: Settings, seed: int) -> dict[str, Any]:
    """The numbers of one demonstration: k-means' distortion and those of every quantiser."""
    yardstick = kmeans_distortion(stream, settings, seed)
    return {
        "target": stream.drift.target.tolist(),
        "kmeans_distortion": yardstick,
        "quantizers": {
            name: {
                "usage": trace.usage[-1].item(),
                "lowest_usage": trace.usage.min().item(),
                "distortion": trace.distortion[-1].item(),
                "relative_distortion": trace.distortion[-1].item() / yardstick,
                "steps": trace.steps,
                "usage_over_steps": trace.usage.tolist(),
                "distortion_over_steps": trace.distortion.tolist(),
            }
            for name, trace in traces.items()
        },
    }


def table(report: Mapping[str, Any]) -> str:
    """The report in Markdown: of every quantiser its usage, and its distortion relative to k-means."""
    titles = [entered["title"] for entered in report["quantizers"].values()]
    lines = [
        f"Seed {report['seed']}. Codes in use after the drift (at their fewest, on the way); distortion after the "
        "drift, k-means = 1.",
        "",
        f"| features | {' | '.join(titles)} |",
        f"|---|{'---|' * len(titles)}",
    ]
    for demo, result in report["results"].items():
        cells = [
            f"{x['usage']:.0%} ({x['lowest_usage']:.0%}); {x['relative_distortion']:.2f}"
            for x in result["quantizers"].values()
        ]
        lines.append(f"| {demo} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
