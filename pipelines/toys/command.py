"""The command `twostage toys`."""

from pathlib import Path
from typing import Annotated

import typer

from twostage.errors import refuse


def a_seed(seed: int) -> int:
    """What random generators take."""
    if not 0 <= seed < 2**63:
        raise refuse("--seed", seed, "an integer from 0 to 2^63 - 1")
    return seed


def toys(
    output: Annotated[Path, typer.Option("--output", help="folder to write")] = Path("runs/toys"),
    seed: Annotated[int, typer.Option("--seed", callback=a_seed)] = 0,
) -> None:
    """Why codes die: four quantisers after drifting features in two dimensions, as a table, a figure, an animation."""
    from pipelines.runs import check_output

    check_output(output)
    from pipelines.toys.run import run, table

    typer.echo(table(run(output, seed)))
    typer.echo(f"done: {output}")
