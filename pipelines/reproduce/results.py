"""What a table says by now: published figures beside those of every finished run in its folder."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.reproduce.table import Row, Table
from pipelines.runs import metrics_file
from twostage.files import read_json

TABLE = "table.json"

ANOTHER_NETWORK = "rFD-"
"""What the row of a feature distance begins with that is no FID."""


def row_folder(output: Path, dataset: str, row: Row) -> Path:
    """Where the seeds of a row on a data set lie."""
    return output / dataset / row.slug


@dataclass(frozen=True)
class Statistic:
    """A figure over seeds: the mean, and with several seeds the sample standard deviation."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and its figures under each protocol."""

    folder: Path
    metrics: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Results:
    """A table with every finished run in its folder, whoever asked for it.

    Attributes:
        runs: (data set, name of a row) -> its runs, by seed.
        budget: how long each was trained.
        command: the line that wrote this.
    """

    table: Table
    runs: Mapping[tuple[str, str], Sequence[Run]]
    budget: str
    command: str

    def published(self, dataset: str, row: Row, measure: str) -> float | None:
        figures: Mapping[str, float] = row.published.get(dataset, {})  # type: ignore[assignment]
        return figures.get(measure)

    def ours(self, dataset: str, row: Row, measure: str, protocol: str) -> Statistic | None:
        """The figure of a row's runs; None where none has it."""
        found = [figure(run.metrics[protocol], measure) for run in self.runs.get((dataset, row.name), ())]
        values = tuple(value for value in found if value is not None)
        return Statistic(values) if values else None

    def over_training(self, dataset: str, row: Row, measure: str) -> list[list[tuple[float, float]]]:
        """For each run of a row the measure at its checkpoints, each with the share of the budget spent by then."""
        pattern = f"{metrics_file(Path(), self.table.protocol).stem}_step_*.json"
        curves = []
        for run in self.runs.get((dataset, row.name), ()):
            files = {int(path.stem.rpartition("_")[2]): path for path in sorted(run.folder.glob(pattern))}
            values = {step / max(files): figure(read_json(path), measure) for step, path in files.items()}
            curves.append([(share, value) for share, value in values.items() if value is not None])
        return [curve for curve in curves if curve]

    @cached_property
    def measures(self) -> list[str]:
        """The table's, and the distances of other networks than Inception, by their own names."""
        named = {key for row in self.written for key in row if key.startswith(ANOTHER_NETWORK)}
        others = {key for key in named if any(figure(row, key) is not None for row in self.written)}
        return [*self.table.measures, *sorted(others)]

    @cached_property
    def machines(self) -> list[str]:
        """What the runs were measured on."""
        return list(dict.fromkeys(str(row["machine"]) for row in self.written if "machine" in row))

    @property
    def written(self) -> list[Mapping[str, Any]]:
        """Everything that was measured."""
        return [row for runs in self.runs.values() for run in runs for row in run.metrics.values()]


def gather(table: Table, output: Path, budget: str, command: str) -> Results:
    """The finished runs in a table's folder."""
    runs = {}
    for dataset in table.datasets:
        for row in table.trained:
            folders = row_folder(output, dataset, row).glob("seed_*")
            found = [run for folder in folders if (run := read_run(folder, table.protocols)) is not None]
            if found:
                runs[dataset, row.name] = sorted(found, key=lambda run: int(run.folder.name.removeprefix("seed_")))
    return Results(table=table, runs=runs, budget=budget, command=command)


def read_run(folder: Path, protocols: Sequence[str]) -> Run | None:
    """A run that was measured under every protocol; None for one that was not yet."""
    files = {protocol: metrics_file(folder, protocol) for protocol in protocols}
    if not all(file.is_file() for file in files.values()):
        return None
    return Run(folder, {protocol: read_json(file) for protocol, file in files.items()})


def figure(metrics: Mapping[str, Any], measure: str) -> float | None:
    """A measure in what `evaluate reconstruction` wrote, whatever number of images its name ends in.

    A measure that could not be computed is none: it says which file is missing instead of a number.
    """
    names = (name for name in metrics if re.fullmatch(rf"{re.escape(measure)}(@\d+|-50k)?", name))
    return next((metrics[name] for name in names if isinstance(metrics[name], float)), None)
