"""A full disk is one line that names what could not be written; whatever was there before stays as it was."""

import resource
import shutil
import signal
from contextlib import contextmanager

import pytest


@contextmanager
def full_disk(size):
    """Meanwhile no file can grow beyond `size` bytes: the nearest thing to a full disk that needs no disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def assert_could_not_write(answer, path):
    """One line for the refusal, as the last; a progress bar may stand before it."""
    assert answer.status == 2
    assert "Traceback" not in answer.err
    said = [line for line in answer.err.splitlines() if line.startswith("twostage: ")]
    assert len(said) == 1
    assert said[0] == answer.err.splitlines()[-1]
    assert said[0].startswith(f"twostage: {path}")
    assert "could not be written" in said[0]
    assert "File too large" in said[0]


def test_a_full_disk_while_training_keeps_the_checkpoint_there_was(chain, command, tmp_path, monkeypatch, contents):
    """A run is cut off after step 3's checkpoint; going on, the disk is full at step 6's; then there is room again."""
    from stage1_tokenizer.train import TokenizerTask

    run, before_step = tmp_path / "run", TokenizerTask.before_step
    train = ("train", "tokenizer", chain.config("tokenizer"), "--output", run)

    def interrupt(task, progress):
        if progress.step == 4:
            raise KeyboardInterrupt
        before_step(task, progress)

    with monkeypatch.context() as patch:
        patch.setattr(TokenizerTask, "before_step", interrupt)
        assert command(*train).status == 130
    before = contents(run / "checkpoints")
    assert [path.name for path in before] == ["step_00000003.pt"]
    with full_disk(8000):
        answer = command(*train)
    assert_could_not_write(answer, run / "checkpoints" / "step_00000006.pt")
    assert contents(run / "checkpoints") == before
    assert command(*train).status == 0
    weights = "tokenizer/diffusion_pytorch_model.safetensors"
    assert (run / weights).read_bytes() == (chain / "tokenizer" / weights).read_bytes()


@pytest.mark.parametrize("size", [100, 2000])
def test_a_full_disk_while_encoding_keeps_the_codes_there_were(chain, command, tmp_path, size, contents):
    codes = shutil.copytree(chain / "codes", tmp_path / "codes")
    before = contents(codes)
    with full_disk(size):
        answer = command("encode", "--tokenizer", chain / "tokenizer", "--output", codes)
    assert_could_not_write(answer, codes)
    assert contents(codes) == before


def test_a_full_disk_while_saving_a_pipeline_keeps_the_one_there_was(chain, command, tmp_path, contents):
    run = shutil.copytree(chain / "transformer", tmp_path / "run")
    before = contents(run)
    with full_disk(8000):
        answer = command("train", "transformer", chain.config("transformer"), "--output", run)
    assert_could_not_write(answer, run / "pipeline")
    assert contents(run) == before


def test_a_full_disk_while_sampling_and_measuring(chain, command, tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text("{}")
    with full_disk(100):
        sampled = command("sample", chain / "transformer", "--output", tmp_path / "samples", "--num-images", 1)
        measured = command("evaluate", "reconstruction", chain / "tokenizer", "--output", rows)
    assert_could_not_write(sampled, tmp_path / "samples")
    assert not list((tmp_path / "samples").iterdir())
    assert_could_not_write(measured, rows)
    assert rows.read_text() == "{}"
