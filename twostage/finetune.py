"""Fine-tuning: a model that starts from the weights of another one, which its config must describe."""

from collections.abc import Mapping
from typing import Any

import torch

from twostage.config import flatten
from twostage.errors import refuse


def check_alike(here: Mapping[str, Any], there: Mapping[str, Any], origin: str) -> None:
    """Compare what a config says of a model with what the model to start from is.

    Args:
        here, there: keys and values of either, nested, every default written out.
        origin: where the model lies, for the error message.

    Raises:
        TwoStageError: they differ; the first key is named.
    """
    mine, theirs = flatten(here), flatten(there)
    for key in [*mine, *theirs]:
        if mine.get(key) != theirs.get(key):
            raise refuse(key, mine.get(key), f"{theirs.get(key)!r}, as in {origin}, which this run starts from")


@torch.no_grad()
def inherit(model: Any, start: Any) -> None:
    """Give a prior the weights of another one, alike but for the number of its classes.

    Where the numbers differ, what belongs to single classes stays as it is in `model`, which was just made. "No class"
    is inherited. In every tensor the rows of the N classes are followed by that of "no class" as the last.

    Args:
        model, start: diffusers models whose config knows `num_classes`, N or None.
    """
    if model.config["num_classes"] == start.config["num_classes"]:
        model.load_state_dict(start.state_dict())
        return
    before = start.state_dict()
    for name, mine in model.state_dict().items():
        theirs = before.get(name, mine)  # an unconditional network may have no class embedding
        if theirs.shape != mine.shape:
            shared = len(mine) - (model.config["num_classes"] or 0) - 1
            mine[:shared], mine[-1] = theirs[:shared], theirs[-1]
        else:
            mine.copy_(theirs)
