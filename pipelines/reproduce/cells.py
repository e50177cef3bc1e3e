"""The cells of a table: one row on one data set with one seed, an ordinary run folder each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pipelines.evaluation.provenance import describe_network, write_row
from pipelines.evaluation.reconstruction import reconstruction_row
from pipelines.processes import is_first
from pipelines.reproduce.budget import Budget
from pipelines.reproduce.machine import machine
from pipelines.reproduce.results import row_folder
from pipelines.reproduce.table import Row, Table
from pipelines.runs import load_tokenizer, metrics_file
from pipelines.sharing.card import CARD
from pipelines.train import train_tokenizer
from stage1_tokenizer.config import TokenizerConfig
from twostage.config import claim_run, to_yaml
from twostage.data import DATASETS
from twostage.files import read_json
from twostage.metrics.features import FeatureNetwork
from twostage.metrics.weights import Missing
from twostage.training.checkpoints import Checkpoints

PROVISIONAL = 10**6
"""Steps that a config is checked with before the data is read, which the budget may depend on."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a table.

    Attributes:
        run: its folder.
    """

    dataset: str
    row: Row
    seed: int
    config: TokenizerConfig
    run: Path

    def __str__(self) -> str:
        return f"{self.dataset}, {self.row.name}, seed {self.seed}"


def draft(table: Table, places: Mapping[str, str | None]) -> dict[tuple[str, str], TokenizerConfig]:
    """(data set, name of a row) -> its config as far as it can be known before the data is read.

    Args:
        places: the data sets asked for, and where each lies; None where the table says it or nothing needs to.

    Raises:
        TwoStageError: a row's config is refused.
    """
    return {
        (dataset, row.name): table.config(dataset, row, root=root, steps=PROVISIONAL, seed=0)
        for dataset, root in places.items()
        for row in table.trained
    }


def plan(
    table: Table, rows: Sequence[Row], places: Mapping[str, str | None], budget: Budget, seeds: int, output: Path
) -> list[Cell]:
    """Every cell asked for, a whole seed before the next one; no run has begun.

    Raises:
        TwoStageError: see `draft`; a data set is not there; a folder holds another run.
    """
    drafts, images = draft(table, places), Images()
    cells = []
    for seed, (dataset, root), row in product(range(seeds), places.items(), rows):
        known = drafts[dataset, row.name]
        steps = budget.steps(images.count(known.data), known.training.batch_size)
        config = table.config(dataset, row, root=root, steps=steps, seed=seed)
        run = row_folder(output, dataset, row) / f"seed_{seed}"
        cells.append(Cell(dataset=dataset, row=row, seed=seed, config=config, run=run))
    for cell in cells:
        if cell.run.exists():
            claim_run(cell.run, cell.config, TokenizerConfig.PLACES.__contains__)
    return cells


class Images:
    """How many training images data sets have, each read once; their test images are asked for, too."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, data: dict[str, Any]) -> int:
        key = to_yaml(data)
        if key not in self.counts:
            sets = {split: DATASETS.build(data, split=split) for split in ("train", "test")}
            self.counts[key] = len(sets["train"])
        return self.counts[key]


def finish(cell: Cell, table: Table, network: FeatureNetwork | Missing) -> None:
    """Train what is left of a cell and measure what is not measured yet.

    Raises:
        TwoStageError: the training stopped, see `twostage.training.loop.fit`.
    """
    if not is_trained(cell.run):
        train_tokenizer(cell.config, cell.run)
    for protocol, step in unmeasured(cell, table, network):
        row = reconstruction_row(load_tokenizer(cell.run, step), cell.config.data, network, protocol=protocol)
        if is_first():
            write_row(metrics_file(cell.run, protocol, step), {**row, "machine": machine()})


def is_trained(run: Path) -> bool:
    """Whether the last file is there that a training writes."""
    return (run / "tokenizer" / CARD).is_file()


def unmeasured(cell: Cell, table: Table, network: FeatureNetwork | Missing) -> list[tuple[str, int | None]]:
    """Protocols, and the steps of checkpoints (None: the end), of which figures with this network are not there yet."""
    wanted: list[tuple[str, int | None]] = [(protocol, None) for protocol in table.protocols]
    if table.follows_training:
        wanted += [(table.protocol, step) for step in Checkpoints(cell.run / "checkpoints").steps()]
    return [(protocol, step) for protocol, step in wanted if not is_measured(cell.run, protocol, step, network)]


def is_measured(run: Path, protocol: str, step: int | None, network: FeatureNetwork | Missing) -> bool:
    """Whether the figures under a protocol, with this feature network, are there."""
    path = metrics_file(run, protocol, step)
    return path.is_file() and read_json(path).get("network") == describe_network(network)


def is_finished(cell: Cell, table: Table, network: FeatureNetwork | Missing) -> bool:
    """Whether nothing is left to do."""
    return is_trained(cell.run) and not unmeasured(cell, table, network)
