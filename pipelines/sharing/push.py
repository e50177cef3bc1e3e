"""`twostage push`: a saved model and its card to the Hugging Face Hub. Nothing else here speaks to it."""

import glob
from pathlib import Path
from typing import Any

from pipelines.sharing.card import shared, write_card
from twostage.errors import TwoStageError, refuse


def prepare(path: Path, repo_id: str) -> Path:
    """Write the card of what lies at `path` for its place on the Hub; nothing is sent.

    Returns:
        The folder to push.

    Raises:
        TwoStageError: there is no saved model, or the Hub would not have such a name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise refuse("REPO_ID", repo_id, f"USER/NAME ({error})") from None
    found = shared(path)
    write_card(found.folder, found.run, repo_id)
    return found.folder


def files(folder: Path) -> list[Path]:
    """What goes to the Hub, relative to the folder: all but hidden files."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.parts)]


def push(folder: Path, repo_id: str, *, private: bool, api: Any = None) -> str:
    """Upload a folder as one commit, into a repository that is made if there is none.

    Args:
        private: whether others may see a repository that is made now.
        api: a `huggingface_hub.HfApi`; by default one with the token of `hf auth login`.

    Returns:
        The URL of the commit.

    Raises:
        TwoStageError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = api or HfApi()
    listed = [glob.escape(path.as_posix()) for path in files(folder)]
    try:
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        sent = api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            allow_patterns=listed,
            commit_message=f"Upload {folder.name}",
        )
    except Exception as error:  # its client, and what that stands on, raise whatever they like
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise TwoStageError(f"{repo_id}: could not be pushed ({reason})") from error
    return sent.commit_url
