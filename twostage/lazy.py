"""Imports that wait until they are needed: names of our own packages (PEP 562), and libraries not everyone has."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from twostage.errors import TwoStageError


def exports(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that finds each name of `homes` in the module given for it."""

    def getattr_(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_


def optional(module: str, *, extra: str) -> Any:
    """A library that only some users have.

    Raises:
        TwoStageError: it is not installed; the extra that brings it is named.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise TwoStageError(f"{module} is not installed; pip install 'twostage[{extra}]'") from None
