"""What a number was taken of and with, beside the number: as JSON, and as one row of a Markdown table."""

import hashlib
import inspect
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

import twostage
from twostage.files import write_json, write_text
from twostage.metrics.features import FeatureNetwork
from twostage.metrics.weights import Missing
from twostage.models import fingerprint

LIBRARIES = ("torch", "diffusers", "transformers", "torch-fidelity", "lpips", "numpy", "scipy", "pillow")

SHOWN = 12
"""Characters of a fingerprint in a table; the JSON file has all."""


def libraries() -> dict[str, str]:
    """Name -> version of what decides numbers."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {"twostage": twostage.__version__, "python": platform.python_version(), **versions}


def describe_network(network: FeatureNetwork | Missing) -> dict[str, str] | str:
    """The feature network's name, fingerprint and recipe, or what is missing."""
    if isinstance(network, Missing):
        return str(network)
    return {"name": network.name, "fingerprint": network.fingerprint, "recipe": network.recipe}


def pipeline_fingerprint(pipeline: Any) -> str:
    """SHA-256 over every part of a pipeline: configs, weights, the scheduler and the names of classes."""
    digest = hashlib.sha256(json.dumps(pipeline.config.id2label).encode())
    for name, part in sorted(pipeline.components.items()):
        said = fingerprint(part) if isinstance(part, nn.Module) else json.dumps(_config(part), sort_keys=True)
        digest.update(f"{name} {type(part).__name__} {said}".encode())
    return digest.hexdigest()


def _config(part: Any) -> dict[str, Any]:
    return {key: repr(value) for key, value in part.config.items() if not key.startswith("_")}


def sampling_settings(pipeline: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a pipeline's sampling, given or default, and its own scheduler, if it has one."""
    known = inspect.signature(pipeline.check_sampling).parameters
    own = {"scheduler": type(pipeline.scheduler).__name__} if "scheduler" in pipeline.components else {}
    return {**own, **{name: parameter.default for name, parameter in known.items()}, **options}


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    """The row as JSON in `path` and as a Markdown table beside it."""
    write_json(path, row)
    write_text(path.with_suffix(".md"), markdown(row))


def markdown(row: Mapping[str, Any]) -> str:
    """A table of one row: every entry a column, nested ones as `key=value`; rows within the row are left out."""
    cells = {name: _cell(value) for name, value in row.items() if not _is_table(value)}
    lines = (cells.keys(), ["---"] * len(cells), cells.values())
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(row, Mapping) for row in value.values())


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_cell(inner)}" for key, inner in value.items())
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return value[:SHOWN]
    return "-" if value is None else str(value).replace("|", "\\|")
