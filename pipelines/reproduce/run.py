"""A table from its first cell to its last, each written down as soon as it is finished."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.processes import is_first, join_processes
from pipelines.reproduce.budget import Budget
from pipelines.reproduce.cells import Cell, draft, finish, is_finished, plan
from pipelines.reproduce.results import TABLE, Statistic, figure, gather, read_run
from pipelines.reproduce.table import Row, Table
from pipelines.reproduce.written import as_text, write
from pipelines.runs import check_output
from twostage.errors import TwoStageError
from twostage.files import read_json
from twostage.metrics.features import load_network


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for.

    Attributes:
        path: of the table.
        places: data set -> where it lies, see `choose_places`.
        network: FILE.py:FACTORY, or None for Inception.
    """

    path: Path
    table: Table
    rows: Sequence[Row]
    places: Mapping[str, str | None]
    budget: Budget
    seeds: int
    network: str | None
    output: Path


def run(request: Request) -> Path:
    """Train and measure every cell that is not finished, and write the table after each.

    Returns:
        The Markdown file.

    Raises:
        TwoStageError: see `plan`; the folder holds a table of another kind or budget; afterwards, which cells failed.
    """
    check_output(request.output)
    claim_folder(request)
    try:
        draft(request.table, request.places)
    except TwoStageError as error:
        raise TwoStageError(f"{request.path}: {error}") from None
    join_processes()
    cells = plan(request.table, request.rows, request.places, request.budget, request.seeds, request.output)
    network = load_network(request.network, device())
    if is_first():
        write_down(request)
    failed = []
    for i, cell in enumerate(cells, start=1):
        look = f"[{i}/{len(cells)}] {cell}"
        if is_finished(cell, request.table, network):
            say(f"{look}: finished before")
            continue
        say(f"{look}: {cell.config.training.steps:,} steps")
        try:
            finish(cell, request.table, network)
        except TwoStageError as error:  # the other rows are worth having without it
            say(f"{look}: failed ({error})")
            failed.append(f"{cell} ({error})")
            continue
        if is_first():
            say(f"{look}: {in_short(request.table, cell)}")
            write_down(request)
    if failed:
        raise TwoStageError(f"{len(failed)} of {len(cells)} runs failed: {'; '.join(failed)}")
    return request.output / "table.md"


def claim_folder(request: Request) -> None:
    """Refuse a folder with another table in it, or the same under another budget."""
    path = request.output / TABLE
    if not path.exists():
        return
    before = read_json(path)
    for what, now in (("title", request.table.title), ("budget", str(request.budget))):
        if before.get(what) != now:
            raise TwoStageError(
                f"{request.output}: holds a table with another {what} ({before.get(what)!r} there, {now!r} here); "
                "choose another --output, or remove that folder"
            )


def write_down(request: Request) -> None:
    """What is finished by now; the first process, which writes all figures, does this too."""
    command = shlex.join(["twostage", *sys.argv[1:]])
    write(gather(request.table, request.output, str(request.budget), command), request.output)


def in_short(table: Table, cell: Cell) -> str:
    """The figures of a finished cell on one line."""
    done = read_run(cell.run, table.protocols)
    assert done is not None
    found = {measure: figure(done.metrics[table.protocol], measure) for measure in table.measures}
    return ", ".join(f"{m} {as_text(Statistic((value,)), m)}" for m, value in found.items() if value is not None)


def device() -> str:
    """Where tokenizers and the feature network are."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def say(line: str) -> None:
    """One line for each step of the way, from the first process."""
    if is_first():
        print(line, flush=True)
