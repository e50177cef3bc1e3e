import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from twostage.config import OptimizerConfig
from twostage.errors import TwoStageError
from twostage.training.log import read_log
from twostage.training.loop import rate_factor

ROOT = Path(__file__).resolve().parents[2]


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return bool(a == b)


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(max((run / "checkpoints").iterdir()), weights_only=True)


def scalars(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "time"} for line in read_log(run)]


def stop_at(task: Any, step: int) -> Any:
    """The task, which now does not come to `step`."""
    before_step = task.before_step

    def stop(progress: Any) -> None:
        if progress.step == step:
            raise KeyboardInterrupt
        before_step(progress)

    task.before_step = stop
    return task


class TestResume:
    def check(self, train: Any, make: Any, tmp_path: Path, step: int, **options: Any) -> None:
        whole = train(make(), "whole", **options)
        with pytest.raises(KeyboardInterrupt):
            train(stop_at(make(), step), "parts", **options)
        torch.manual_seed(12345)  # what the process did before must not matter
        resumed = train(make(), "parts", **options)
        assert same(resumed.state_dict(), whole.state_dict())
        assert same(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))
        assert scalars(tmp_path / "parts") == scalars(tmp_path / "whole")
        assert [line["step"] for line in scalars(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("step", [1, 3, 4, 5])
    @pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "accumulation": 2, "gradient_clip": 0.1}], ids=str)
    def test_a_line(self, train, line_task, tmp_path, step, options):
        """Dropout and batch statistics bring in the random state and buffers."""
        self.check(train, lambda: line_task(nn.Dropout(0.5), nn.BatchNorm1d(8).double()), tmp_path, step, **options)

    @pytest.mark.parametrize("step", [1, 2, 3, 5])
    @pytest.mark.parametrize(
        "quantizer", [{}, {"anchor": "unique", "distance": "l2", "moments": "reset"}, {"name": "vq"}], ids=str
    )
    def test_a_tokenizer(self, train, tokenizer_task, tmp_path, step, quantizer):
        """Within the warm start, just before k-means, and after it."""
        self.check(
            train,
            lambda: tokenizer_task(**quantizer),
            tmp_path,
            step,
            batch_size=16,
            checkpoint_every=1,
            accumulation=2,
            ema_decay=0.9,
        )

    def test_the_task_hears_of_every_descent_before_it(self, train, tokenizer_task):
        """What CVQ's option changes is all in that call: the codes that are moved are the same."""
        codebooks = []
        for moments in ("kept", "reset"):
            task = tokenizer_task(moments=moments, anchor="closest", decay=0.5)
            codebooks.append(train(task, moments, batch_size=16, accumulation=2).quantizer.codebook)
        assert not torch.equal(*codebooks)

    def test_a_finished_run_changes_nothing(self, train, line_task, tmp_path):
        first = train(line_task())
        files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        again = line_task()
        assert same(train(again).state_dict(), first.state_dict())
        assert again.seen == []
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files

    def test_the_warm_start_needs_a_resumed_run_no_second_time(self, train, tokenizer_task):
        with pytest.raises(KeyboardInterrupt):
            train(stop_at(tokenizer_task(), 4))
        task = tokenizer_task()
        task.sample_features = None
        train(task)

    def test_lines_after_the_checkpoint_are_dropped(self, train, line_task, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(stop_at(line_task(), 5))
        log = tmp_path / "run" / "log.jsonl"
        assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 3, 4, 5]
        with log.open("a") as file:
            file.write('{"step": 6, "loss": ')  # cut off
        with pytest.raises(KeyboardInterrupt):
            train(stop_at(line_task(), 4))
        assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 3, 4]
        assert "cut" not in log.read_text()
        assert log.read_text().count("\n") == 4

    def test_kill_9(self, tmp_path):
        config = tmp_path / "tokenizer.yaml"
        config.write_text(
            """
            data: {name: shapes, image_size: 16, count: 64}
            autoencoder: {name: vqvae, width: 8, residual_blocks: 1, residual_width: 4}
            quantizer: {name: cvq, codebook_size: 16, dim: 4}
            warm_start: {steps: 3, features: 200}
            optimizer: {learning_rate: 1e-3}
            training: {steps: 200, batch_size: 8, ema_decay: 0.99, checkpoint_every: 5, log_every: 10}
            """
        )

        def start(name: str) -> subprocess.Popen:
            command = [sys.executable, "-m", "pipelines.cli", "train", "tokenizer", str(config), "--output"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(
                [*command, str(tmp_path / name)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
            )

        whole, killed = start("whole"), start("killed")
        while not list((tmp_path / "killed").glob("checkpoints/step_*.pt")) and killed.poll() is None:
            time.sleep(0.005)
        killed.kill()
        _, complaint = killed.communicate()
        assert killed.returncode == -signal.SIGKILL, complaint
        assert not (tmp_path / "killed" / "tokenizer").exists()
        resumed = start("killed")
        for process in (resumed, whole):
            _, complaint = process.communicate()
            assert process.returncode == 0, complaint
        weights = [
            load_file(next((tmp_path / name / "tokenizer").glob("*.safetensors"))) for name in ("killed", "whole")
        ]
        assert same(*weights)
        assert same(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "whole"))
        assert scalars(tmp_path / "killed") == scalars(tmp_path / "whole")
        assert [line["step"] for line in scalars(tmp_path / "killed")] == list(range(10, 201, 10))


def test_the_line_is_learnt(train, line_task, tmp_path):
    train(line_task(), steps=300, batch_size=21)
    losses = [line["loss"] for line in read_log(tmp_path / "run")]
    assert losses[-1] < 1e-2 * losses[0]


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_is_one_batch(train, line_task, accumulation):
    whole, parts = train(line_task(), "whole"), train(line_task(), "parts", accumulation=accumulation)
    for a, b in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_seed_decides(train, line_task):
    first, second = train(line_task(), "0"), train(line_task(), "1", seed=1)
    assert not same(first.state_dict(), second.state_dict())


def test_gradients_are_clipped(train, line_task, tmp_path):
    """Adam does not see a constant factor, but it does see one that differs from step to step."""
    free, clipped = train(line_task(), "free"), train(line_task(), "clipped", gradient_clip=0.01)
    assert not same(free.state_dict(), clipped.state_dict())
    assert scalars(tmp_path / "clipped")[0]["gradient_norm"] == scalars(tmp_path / "free")[0]["gradient_norm"] > 0.01


def test_progress(train, line_task):
    task = line_task()
    train(task, steps=12)
    assert [(p.step, p.steps, p.epoch) for p in task.seen] == [(i, 12, 4 * i // 21) for i in range(12)]


def test_what_is_logged(train, line_task, tmp_path):
    train(line_task(), log_every=4)
    lines = read_log(tmp_path / "run")
    assert [line["step"] for line in lines] == [4, 6]
    for line in lines:
        assert line.keys() == {"step", "time", "loss", "half", "gradient_norm", "learning_rate"}
        assert line["half"] == pytest.approx(line["loss"] / 2)
    assert lines[-1]["learning_rate"] == 0


def test_the_newest_two_checkpoints_are_kept(train, line_task, tmp_path):
    train(line_task(), steps=7, checkpoint_every=2)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step_00000006.pt",
        "step_00000007.pt",
    ]


class TestNaN:
    def test_the_step_and_the_checkpoint_are_named(self, train, line_task, tmp_path):
        task = line_task(broken_at=4)
        with pytest.raises(TwoStageError) as error:
            train(task)
        newest = tmp_path / "run" / "checkpoints" / "step_00000003.pt"
        for part in (str(tmp_path / "run"), "nan", "at step 4", f"checkpoint: {newest}"):
            assert part in str(error.value)
        assert task.seen[-1].step == 4
        assert same(task.model.state_dict(), task.weights)
        assert list(newest.parent.iterdir()) == [newest]
        assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 3, 4]

    def test_without_a_checkpoint(self, train, line_task):
        with pytest.raises(TwoStageError, match=r"at step 0; .* checkpoint: none"):
            train(line_task(broken_at=0))

    def test_in_the_first_of_two_micro_batches(self, train, line_task):
        task = line_task(broken_at=None)
        forward, calls = task.forward, []

        def sometimes(batch):
            output = forward(batch)
            calls.append(batch)
            return output if len(calls) != 5 else type(output)(loss=output.loss * torch.nan, metrics={})

        task.forward = sometimes
        with pytest.raises(TwoStageError, match="at step 2"):
            train(task, accumulation=2)
        assert same(task.model.state_dict(), task.weights)


class TestCheckpoints:
    @pytest.mark.parametrize("damage", ["empty", "truncated", "changed", "text"])
    def test_a_corrupt_one_is_named(self, train, line_task, tmp_path, damage):
        whole = train(line_task())
        path = tmp_path / "run" / "checkpoints" / "step_00000006.pt"
        good = path.read_bytes()
        weight = whole[0].weight.detach().numpy().tobytes()
        assert good.count(weight) == 1
        flipped = weight[:-1] + bytes([weight[-1] ^ 1])
        damaged = {"empty": b"", "truncated": good[:-200], "text": b"x" * 999, "changed": good.replace(weight, flipped)}
        path.write_bytes(damaged[damage])
        with pytest.raises(TwoStageError) as error:
            train(line_task())
        assert str(error.value).startswith(f"{path}: not a checkpoint of this run (")
        assert "\n" not in str(error.value)
        path.unlink()
        assert same(train(line_task()).state_dict(), whole.state_dict())

    def test_one_of_another_run_is_named(self, train, line_task, tmp_path):
        train(line_task())
        with pytest.raises(TwoStageError, match=r"step_00000006\.pt: not a checkpoint of this run \(KeyError: 'ema'\)"):
            train(line_task(), ema_decay=0.9)
        with pytest.raises(TwoStageError, match=r"step_00000006\.pt: not a checkpoint of this run"):
            train(line_task(nn.Linear(8, 8)))


def test_a_batch_that_cannot_be_shared_is_refused(train, line_task, tmp_path):
    with pytest.raises(TwoStageError, match=r"training\.batch_size: 4 .* a multiple of 3 "):
        train(line_task(), accumulation=3)
    assert not (tmp_path / "run" / "checkpoints").exists()


class TestRateFactor:
    def test_warm_up(self):
        factor = rate_factor(OptimizerConfig(learning_rate=1.0, warmup_steps=4), 10)
        assert [factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]

    def test_cosine(self):
        factor = rate_factor(OptimizerConfig(learning_rate=1.0), 10)
        assert factor(0) == 1
        assert factor(5) == pytest.approx(0.5)
        assert factor(10) == factor(11) == 0
        assert all(factor(step) > factor(step + 1) for step in range(10))

    def test_cosine_begins_after_the_warm_up(self):
        factor = rate_factor(OptimizerConfig(learning_rate=1.0, warmup_steps=4), 10)
        assert factor(7) == pytest.approx(0.5)
        assert factor(10) == 0

    def test_constant(self):
        factor = rate_factor(OptimizerConfig(learning_rate=1.0, schedule="constant", warmup_steps=1), 10)
        assert {factor(step) for step in range(12)} == {1.0}

    def test_a_warm_up_longer_than_the_run(self):
        factor = rate_factor(OptimizerConfig(learning_rate=1.0, warmup_steps=20), 10)
        assert factor(9) == 0.5
