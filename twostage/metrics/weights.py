"""Published weights that a metric needs, as files that are either here and whole, or reported as missing."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from twostage.errors import TwoStageError


@dataclass(frozen=True)
class Missing:
    """Stands where a metric would be, when a file that it needs is not here. Nothing is ever downloaded instead.

    Attributes:
        reason: one line: which file is missing and where to put it.
    """

    reason: str

    def __str__(self) -> str:
        """What a table shows in place of the number."""
        return f"missing: {self.reason}"


def digest(path: Path) -> str:
    """The SHA-256 of the file at `path`, in lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hub_weights(file_name: str, needed_by: str) -> Path | Missing:
    """Where torch.hub keeps `file_name` ($TORCH_HOME/hub/checkpoints), if it is there.

    Args:
        file_name: as published, ending in the first digits of its SHA-256 ("vgg16-397923af.pth").
        needed_by: the metric, for the message.

    Raises:
        TwoStageError: the file is there, but is not the published one (cut short, or another under its name).
    """
    path = Path(torch.hub.get_dir()).expanduser() / "checkpoints" / file_name
    if not path.is_file():
        return Missing(f"{needed_by} needs {file_name}; put it at {path} (nothing is downloaded)")
    published = re.search(r"-([0-9a-f]{8})\.", file_name)
    assert published is not None, file_name
    found = digest(path)[:8]
    if found != published[1]:
        raise TwoStageError(f"{path}: SHA-256 starts with {found}; allowed: {published[1]}, the published file")
    return path
