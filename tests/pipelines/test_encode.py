"""Laws of `twostage encode`: however often it is interrupted, and on however many processes, codes are the same."""

import os
import signal

import pytest


@pytest.fixture
def encode(chain, command):
    """(folder, options) -> what the command answered; 96 images, ten at a time, with latents."""

    def run(folder, *options, status=0):
        words = ("encode", "--tokenizer", chain / "tokenizer", "--output", folder, "--latents", "--batch-size", 10)
        answer = command(*words, *options)
        assert answer.status == status, answer.err
        return answer

    return run


def killed_at(image, run):
    """Run, until the part that begins with that image would be written."""
    from twostage.parts import Parts

    write = Parts.write

    def written(self, part, *rest, **notes):
        if part.start == image:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, part, *rest, **notes)

    Parts.write = written
    run()


@pytest.fixture
def encoded(monkeypatch):
    """The parts that are written from now on, by their first image."""
    from twostage.parts import Parts

    seen, write = [], Parts.write

    def written(self, part, *rest, **notes):
        seen.append(part.start)
        write(self, part, *rest, **notes)

    monkeypatch.setattr(Parts, "write", written)
    return seen


def test_two_processes_and_one_that_was_killed_are_one(encode, tmp_path, forked, two_processes, contents, encoded):
    assert encode(tmp_path / "whole").out == f"done: 96 images in {tmp_path / 'whole'}\n"
    two_processes(tmp_path / "meet", lambda: encode(tmp_path / "pair"))
    assert forked(killed_at, 40, lambda: encode(tmp_path / "killed")) == [-signal.SIGKILL]
    assert not (tmp_path / "killed").exists()
    encoded.clear()
    encode(tmp_path / "killed")
    assert encoded == [40, 50, 60, 70, 80, 90]
    whole = {path.name: data for path, data in contents(tmp_path / "whole").items()}
    for name in ("pair", "killed"):
        assert {path.name: data for path, data in contents(tmp_path / name).items()} == whole
        assert not (tmp_path / f"{name}.parts").exists()


@pytest.mark.parametrize("options", [("--views", "flips"), ("--split", "test"), ("--batch-size", 12)])
def test_parts_of_another_command_are_not_taken(encode, tmp_path, forked, encoded, options):
    assert forked(killed_at, 40, lambda: encode(tmp_path / "codes")) == [-signal.SIGKILL]
    encode(tmp_path / "codes", *options)
    assert encoded[0] == 0
