"""Files and folders that are either written whole or not at all."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twostage.errors import TwoStageError


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


@contextmanager
def atomic(path: str | Path, *, refusals: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success rename it to `path`, on failure remove it.

    The body may create a file or a folder there. A file or folder already at `path` stays as it was until the
    new one is complete.

    Args:
        refusals: what the body's library raises, besides OSError, when it cannot write.

    Raises:
        TwoStageError: the file system refused (disk full, no permission); `path` is untouched.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            old = _temporary(path)
            path.rename(old)
            temporary.rename(path)
            _remove(old)
        else:
            os.replace(temporary, path)
    except (OSError, *refusals) as error:  # type: ignore[misc]
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise TwoStageError(f"{path}: could not be written ({getattr(cause, 'strerror', None) or cause})") from error
    finally:
        _remove(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Replace the file at `path` by `text`, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Replace the file at `path` by `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """The JSON value in the file at `path`.

    Raises:
        TwoStageError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TwoStageError(f"{path}: no such file") from None
    except OSError as error:
        raise TwoStageError(f"{path}: could not be read ({error.strerror})") from None
    except ValueError as error:
        raise TwoStageError(f"{path}: not valid JSON ({error})") from None
