"""A feature network of one's own, from a Python file: "path/to/file.py:factory"."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from twostage.errors import TwoStageError, refuse


def build_network(spec: str) -> nn.Module:
    """Import the file that `spec` names and call the factory in it.

    Raises:
        TwoStageError: no such file or function, a file that fails, or one that does not give an nn.Module.
    """
    path, _, factory = spec.rpartition(":")
    if not path or not factory:
        raise refuse("feature network", spec, "path/to/file.py:factory")
    build = getattr(_import(Path(path)), factory, None)
    if not callable(build):
        raise TwoStageError(f"{path}: has no function {factory!r}; a feature network is path/to/file.py:factory")
    module = build()
    if not isinstance(module, nn.Module):
        raise refuse(f"{spec} returned", type(module).__name__, "a torch.nn.Module")
    return module


def network_name(spec: str, module: nn.Module) -> str:
    """The module's attribute `name`, if it is a string, or else the factory's name."""
    name = getattr(module, "name", None)
    return name if isinstance(name, str) and name else spec.rpartition(":")[2]


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise TwoStageError(f"{path}: no such file; a feature network is path/to/file.py:factory")
    found = importlib.util.spec_from_file_location(f"feature_network_{path.stem}", path)
    if found is None or found.loader is None:
        raise refuse("feature network file", str(path), "a Python file, *.py")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses and pickle look their module up there
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise TwoStageError(f"{path}: could not be imported ({type(error).__name__}: {error})") from error
    return module
