import subprocess
import sys
from pathlib import Path

import pytest

from twostage.errors import TwoStageError
from twostage.files import atomic, read_json, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def make_folder(path: Path, text: str) -> None:
    path.mkdir()
    (path / "a").write_text(text)


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "one"
    assert names(path.parent) == ["file"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "one")
    with atomic(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    make_folder(path, "one")
    (path / "old").touch()
    with atomic(path) as temporary:
        make_folder(temporary, "two")
        assert names(path) == ["a", "old"]
    assert names(path) == ["a"]
    assert (path / "a").read_text() == "two"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("before", [None, "file", "folder"])
@pytest.mark.parametrize("body", ["nothing", "file", "folder"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_what_was_there(tmp_path: Path, before: str | None, body: str, error: type) -> None:
    path = tmp_path / "there"
    if before == "file":
        path.write_text("one")
    elif before == "folder":
        make_folder(path, "one")
    with pytest.raises(TwoStageError if error is OSError else error), atomic(path) as temporary:
        if body == "file":
            temporary.write_text("half")
        elif body == "folder":
            make_folder(temporary, "half")
        raise error("in the middle")
    assert names(tmp_path) == ([] if before is None else ["there"])
    if before == "file":
        assert path.read_text() == "one"
    elif before == "folder":
        assert (path / "a").read_text() == "one"


def test_a_refusal_names_the_path_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(TwoStageError) as error, atomic(path):
        raise OSError(28, "No space left on device")
    assert str(error.value) == f"{path}: could not be written (No space left on device)"


def test_a_librarys_own_refusal(tmp_path: Path) -> None:
    with pytest.raises(TwoStageError, match=r"could not be written \(no room\)"):
        refuse_with(tmp_path / "file", RuntimeError("no room"), refusals=(RuntimeError,))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        refuse_with(tmp_path / "file", RuntimeError("a mistake of ours"))


def test_the_systems_reason_is_told_rather_than_the_librarys(tmp_path: Path) -> None:
    error = RuntimeError("enforce fail at line 671")
    error.__context__ = OSError(27, "File too large")
    with pytest.raises(TwoStageError, match=r"could not be written \(File too large\)"):
        refuse_with(tmp_path / "file", error, refusals=(RuntimeError,))


def refuse_with(path: Path, error: Exception, refusals: tuple[type[Exception], ...] = ()) -> None:
    with atomic(path, refusals=refusals):
        raise error


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    with pytest.raises(TwoStageError, match="could not be written"):
        write_text(tmp_path / "file" / "inside", "two")
    with pytest.raises(TwoStageError, match="could not be written"), atomic(tmp_path / "file") as temporary:
        make_folder(temporary, "two")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "one"


def test_json(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "b": "ü"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"{", "not valid JSON"), (b"\xff\xfe\xfd", "not valid JSON")]
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TwoStageError, match=f"^{path}: {message}"):
        read_json(path)
    with pytest.raises(TwoStageError, match="could not be read"):
        read_json(tmp_path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path

import torch

from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.data.codes import EncodedBatch, write_codes
from twostage.errors import TwoStageError
from twostage.files import write_text
from twostage.models import save_model
from twostage.training.checkpoints import Checkpoints
from twostage.training.log import RunLog

root = Path(sys.argv[1])
model = VQTokenizer({"name": "vqvae", "width": 32}, {"name": "cvq", "codebook_size": 512, "dim": 32}, 16, 3)
batch = EncodedBatch(codes=torch.zeros(64, 1, 32, 32, dtype=torch.int64), labels=torch.zeros(64).long(), latents=None)
origin = dict(tokenizer="t", data={}, split="train", classes=[], codebook_size=16)
log = RunLog(root, 0, main=True, tensorboard=False)


write_text(root / "text", "before")
for step in (1, 6):
    Checkpoints(root / "checkpoints").save({"model": torch.nn.Linear(3, 3)}, step)
save_model(model, root / "model")
write_codes(root / "codes", [batch], **origin)
before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
attempts = {
    "text": lambda: write_text(root / "text", "x" * 100_000),
    "checkpoints/step_00000009.pt": lambda: Checkpoints(root / "checkpoints").save({"m": torch.nn.Linear(200, 200)}, 9),
    "model": lambda: save_model(model, root / "model"),
    "codes": lambda: write_codes(root / "codes", [batch], **origin),
    "log.jsonl": lambda: log.write(1, {"x" * 100_000: 1.0}),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except TwoStageError as error:
        message = str(error)
        assert message.startswith(f"{root / name}: could not be written ("), message
        assert "\\n" not in message, message
    else:
        raise AssertionError(f"{name} was written")
after = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
log_file = root / "log.jsonl"
del before[log_file], after[log_file]
assert after == before, set(after) ^ set(before)
assert Checkpoints(root / "checkpoints").newest().name == "step_00000006.pt"
print("every refusal was reported")
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the system refuses the write in the middle of a file."""
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "every refusal was reported" in result.stdout
