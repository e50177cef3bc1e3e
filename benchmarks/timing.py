"""How the benchmarks take time, and how they say what they found."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

Step = Callable[[], Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Watch:
    """How time is taken.

    Attributes:
        clock: seconds.
        threads: of a step.
        repetitions: of every step, after one that does not count.
    """

    clock: Callable[[], float]
    threads: int
    repetitions: int

    def time(self, step: Step) -> float:
        """Milliseconds of one run."""
        start = self.clock()
        step()
        return 1000 * (self.clock() - start)

    def fastest(self, steps: dict[str, Step]) -> dict[str, float]:
        """Milliseconds of every step's fastest run; they take turns."""
        runs = [{name: self.time(step) for name, step in steps.items()} for _ in range(self.repetitions + 1)]
        return {name: min(run[name] for run in runs[1:]) for name in steps}


Measure = Callable[[Watch, Console], dict[str, list[Row]]]
"""Title of a table -> its rows."""


def run(description: str, measure: Measure, *, repetitions: int, **about: str) -> None:
    """The command line of a benchmark.

    Args:
        repetitions: unless `--quick`, which takes a tenth of them.
        about: what else the numbers depend on, versions for instance.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions: for a look, not for numbers to keep")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", action="store_true", help="processor time on one thread, not the wall clock's")
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    count = max(2, repetitions // 10) if options.quick else repetitions
    wall = Watch(time.perf_counter, options.threads, count)
    watch = Watch(time.process_time, 1, count) if options.busy else wall
    torch.set_num_threads(watch.threads)
    torch.manual_seed(0)
    console = Console(width=None if sys.stdout.isatty() else 160)
    found, here = measure(watch, console), machine(watch) | about
    console.print(here)
    for title, rows in found.items():
        console.print(table(title, rows))
    if options.output:
        options.output.write_text(json.dumps({**here, "results": found}, indent=1) + "\n")


def machine(watch: Watch) -> Row:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "threads": watch.threads,
        "clock": watch.clock.__name__,
        "repetitions": watch.repetitions,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def table(title: str, rows: list[Row]) -> Table:
    drawn = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for column, value in rows[0].items():
        drawn.add_column(column, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        drawn.add_row(*(value if isinstance(value, str) else f"{value:,.2f}" for value in row.values()))
    return drawn
