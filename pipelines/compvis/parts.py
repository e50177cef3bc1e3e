"""The parts of a CompVis config, each `{target: class, params: {...}}`."""

from collections.abc import Mapping
from typing import Any

from twostage.errors import TwoStageError, refuse
from twostage.registry import suggest

FIRST_STAGE = "first_stage_model."
"""How the names of a first stage's weights begin in a checkpoint that holds it too."""


def target(value: Any) -> Any:
    """Which class a part is of; some parts are a mere name."""
    return value.get("target") if isinstance(value, Mapping) else value


def params(value: Any, allowed: tuple[str, ...], at: str) -> Mapping[str, Any]:
    """The params of a part, or none of a mere name, if its target is one of those.

    Raises:
        TwoStageError: it is not, or the params are no mapping.
    """
    if target(value) not in list(allowed):
        raise TwoStageError(f"{at}.target: {target(value)!r} is not imported; {suggest(target(value), allowed)}")
    found = value.get("params", {}) if isinstance(value, Mapping) else {}
    if not isinstance(found, Mapping):
        raise refuse(f"{at}.params", found, "a mapping")
    return found
