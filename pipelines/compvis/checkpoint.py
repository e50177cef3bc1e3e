"""What all CompVis checkpoints have in common: the file, and weights under other names.

The files are pickles that PyTorch Lightning wrote. They are read with `weights_only=True`: tensors and plain Python,
and nothing in them can run.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from twostage.errors import TwoStageError

STAND_INS = (type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"}),)
"""Empty classes for those that released files name, as keys of Lightning's own state."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The `state_dict` of a checkpoint, on the CPU.

    Raises:
        TwoStageError: no such file, another kind of file, or a file that holds more than weights.
    """
    try:
        with path.open("rb") as file:
            checkpoint = _load(file, path)
    except OSError as error:
        raise TwoStageError(f"{path}: checkpoint could not be read ({error.strerror})") from None
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise _not_a_checkpoint(path)
    return weights


def _load(file: BinaryIO, path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(list(STAND_INS)), warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind may break the reader anywhere, and in any way
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise TwoStageError(f"{path}: holds a {found[1]}, which could run code; allowed: weights alone") from None
        raise _not_a_checkpoint(path) from None


def _not_a_checkpoint(path: Path) -> TwoStageError:
    return TwoStageError(f"{path}: is no checkpoint; allowed: a whole .ckpt file of PyTorch Lightning, with state_dict")


@torch.no_grad()
def copy_weights(
    model: nn.Module, weights: Mapping[str, Tensor], name_of: Callable[[str], str], ignore: Sequence[str], source: Path
) -> None:
    """Fill the whole model.

    Args:
        weights: under the checkpoint's names.
        name_of: our name -> the checkpoint's.
        ignore: beginnings of the checkpoint's names that are not of this model.
        source: the checkpoint, for error messages.

    Raises:
        TwoStageError: a weight is missing, is not wanted, or has another shape; the first is named.
    """
    names = {name_of(name): value for name, value in model.state_dict().items()}
    given = {name for name in weights if not name.startswith(tuple(ignore))}
    for kind, odd in (("missing", names.keys() - given), ("unexpected", given - names.keys())):
        if odd:
            raise TwoStageError(
                f"{source}: {len(odd)} {kind} weights, first {min(odd)!r}; allowed: exactly those of the config's model"
            )
    for name, target in names.items():
        target.copy_(_shaped(weights[name], target, name, source))


def _shaped(value: Tensor, target: Tensor, name: str, source: Path) -> Tensor:
    """The value; a convolution of size 1 of theirs, in one dimension or two, may be a linear layer of ours."""
    if value.ndim > target.ndim and set(value.shape[target.ndim :]) == {1}:
        value = value.flatten(target.ndim - 1)
    if value.shape != target.shape:
        found, allowed = tuple(value.shape), tuple(target.shape)
        raise TwoStageError(f"{source}: {name} of shape {found} is not allowed; allowed by the config: {allowed}")
    return value
