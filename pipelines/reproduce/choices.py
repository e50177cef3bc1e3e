"""Which data sets and rows of a table the command line asks for."""

from collections.abc import Mapping, Sequence

from pipelines.reproduce.table import Row, Slot, Table, needs_root
from twostage.errors import TwoStageError, refuse
from twostage.registry import suggest


def choose_rows(table: Table, names: Sequence[str]) -> list[Row]:
    """The rows of these names, or of these folders; without any, all that are not published only.

    Raises:
        TwoStageError: there is no such row, or only its published figures.
    """
    known = {name: row for row in table.trained for name in (row.slug, row.name)}
    for name in names:
        if name not in known:
            raise TwoStageError(f"--row: {name!r} is no row to train; {suggest(name, [r.name for r in table.trained])}")
    wanted = {known[name].name for name in names}
    return [row for row in table.trained if not names or row.name in wanted]


def choose_places(table: Table, names: Sequence[str], places: Sequence[str]) -> dict[str, str | None]:
    """The data sets of these names, or else those that are there, and where each lies.

    Args:
        places: PATH, of the only data set there is or is asked for, or NAME=PATH.

    Returns:
        Data set -> its root; None where the table says it, or nothing needs to be there.

    Raises:
        TwoStageError: there is no such data set, it is nowhere said where it lies, or there is nothing to train on.
    """
    slots = {name: slot for name, slot in table.datasets.items() if slot.data is not None} if table.trained else {}
    for name in names:
        if name not in slots:
            raise TwoStageError(f"--dataset: {name!r} is no data set to train on; {suggest(name, slots)}")
    roots = _roots(slots, names, places)
    chosen = [name for name in slots if name in names] if names else _there(slots, roots)
    for name in chosen:
        if needs_root(slots[name]) and name not in roots:
            raise refuse("--data", None, f"--data {name}=PATH, for the data set {name}")
    if slots and not chosen:
        raise refuse("--data", None, f"NAME=PATH, NAME one of {', '.join(slots)}")
    return {name: roots.get(name) for name in chosen}


def _there(slots: Mapping[str, Slot], roots: Mapping[str, str]) -> list[str]:
    """The data sets of which a place is given; without any, those that need none."""
    return [name for name, slot in slots.items() if (name in roots if roots else not needs_root(slot))]


def _roots(slots: Mapping[str, Slot], names: Sequence[str], places: Sequence[str]) -> dict[str, str]:
    roots: dict[str, str] = {}
    for place in places:
        name, separator, path = place.partition("=")
        if separator and name in slots:
            roots[name] = path
            continue
        candidates = names or list(slots)
        if len(candidates) != 1:
            raise refuse("--data", place, f"NAME=PATH, NAME one of {', '.join(slots) or 'none'}")
        roots[candidates[0]] = place
    return roots
