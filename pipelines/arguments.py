"""Options that several commands have, and what they refuse."""

from typing import Annotated

import typer

from twostage.errors import refuse


def known_split(split: str | None) -> str | None:
    """A split that data sets have."""
    if split not in (None, "train", "test"):
        raise refuse("--split", split, "train or test")
    return split


def at_least_one(count: int) -> int:
    """A number of images."""
    if count < 1:
        raise refuse("--batch-size", count, "an integer of at least 1")
    return count


BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size", help="images that go through the networks together, on each process", callback=at_least_one
    ),
]
Checkpoint = Annotated[
    int | None, typer.Option("--checkpoint", help="a step of the run whose checkpoint is kept, in place of its end")
]
Data = Annotated[str | None, typer.Option("--data", help="folder of the data, in place of the config's data.root")]
Split = Annotated[str, typer.Option("--split", help="train or test", callback=known_split)]
