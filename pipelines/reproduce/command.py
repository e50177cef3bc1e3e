"""The command `twostage reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from twostage.errors import TwoStageError, refuse


def at_least_one_seed(count: int) -> int:
    """A number of seeds."""
    if count < 1:
        raise refuse("--seeds", count, "an integer of at least 1")
    return count


def reproduce(
    table: Annotated[
        str | None, typer.Argument(help="a table of a paper, or a YAML file like those of configs/tables")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="PATH, or NAME=PATH for each data set; may be repeated")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="one of the table's; default: those with --data")
    ] = None,
    row: Annotated[list[str] | None, typer.Option("--row", help="one of the table's; default: all")] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="for each row, 3epochs or 2000steps; default: the table's")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", help="runs of each row, with seeds 0, 1, ...", callback=at_least_one_seed)
    ] = 1,
    network: Annotated[
        str | None, typer.Option("--network", help="FILE.py:FACTORY of a feature network, in place of Inception")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="folder to write; default runs/reproduce/<table>")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="show the tables, and stop")] = False,
) -> None:
    """Train and measure the rows of a published table under one budget; the same command goes on where it stopped."""
    from pipelines.reproduce.table import find_table, read_table, show_tables

    if show or table is None:
        typer.echo(show_tables())
        return
    try:
        path = find_table(table)
    except TwoStageError:
        typer.echo(show_tables())
        raise
    checked = read_table(path)
    from pipelines.processes import is_first
    from pipelines.reproduce.choices import choose_places, choose_rows
    from pipelines.reproduce.run import Request, run

    request = Request(
        path=path,
        table=checked,
        rows=choose_rows(checked, row or []),
        places=choose_places(checked, dataset or [], data or []),
        budget=checked.budget if budget is None else checked.budget.parse(budget),
        seeds=seeds,
        network=network,
        output=output or Path("runs") / "reproduce" / path.stem,
    )
    page = run(request)
    if is_first():
        typer.echo(f"done: {page}")
