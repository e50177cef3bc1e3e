"""Two processes with half a batch each do what one does with all of it. This file is also the program they run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import Dataset

from stage1_tokenizer.config import AdversarialLoss, LossConfig, WarmStart
from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.train import FeatureSampler, TokenizerTask
from twostage.config import OptimizerConfig, TrainingConfig
from twostage.data.shapes import Shapes
from twostage.training.log import read_log
from twostage.training.loop import fit, make_accelerator
from twostage.training.task import StepOutput, Task

ROOT = Path(__file__).resolve().parents[2]


class Points(Dataset):
    x = torch.randn(21, 3, generator=torch.Generator().manual_seed(7))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.x[index, :2] - 1}


class Exact(Dataset):
    """Images in float64, for runs that make much of a difference in the last digit."""

    def __init__(self, images: Dataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index]["images"].double()}


class LineTask(Task):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(3, 2)

    def forward(self, batch: dict[str, Tensor]) -> StepOutput:
        loss = (self.model(batch["x"]) - batch["y"]).square().mean()
        return StepOutput(loss=loss, metrics={"half": loss.detach() / 2})


RUNS: dict[str, dict[str, Any]] = {
    "line": {},
    "line in parts": {"accumulation": 2, "gradient_clip": 0.5},
    "closest": {"anchor": "closest", "contrastive_weight": 0.0},
    "mirrored": {"anchor": "closest", "contrastive_weight": 0.0, "mirror": True},
    "closest in parts": {"anchor": "closest", "contrastive_weight": 0.0, "accumulation": 2},
    "contrastive": {"anchor": "closest", "contrastive_weight": 1.0},
    "probability": {"anchor": "probability"},
    "unique": {"anchor": "unique", "distance": "l2"},
    "random": {"anchor": "random"},
    "adversary": {"anchor": "closest", "contrastive_weight": 0.0, "adversary": "group"},
    "adversary, clipped": {"anchor": "closest", "contrastive_weight": 0.0, "adversary": "group", "gradient_clip": 0.5},
    "adversary, batch norm": {"anchor": "closest", "contrastive_weight": 0.0, "adversary": "batch"},
}
LOOP = {"accumulation", "gradient_clip"}
"""Options of the loop."""

TASK = {"adversary", "mirror"}
"""Options of the task, the former a discriminator's normalisation; the others are the quantiser's."""

EQUAL = (
    *("line", "line in parts", "closest", "mirrored", "closest in parts", "contrastive"),
    *("adversary", "adversary, clipped"),
)
"""Runs whose randomness, if any, does not depend on the number of processes."""


def loss_of(options: dict[str, Any]) -> LossConfig:
    """With a discriminator, where there is one, that learns from the second step and is heard from the fourth."""
    if "adversary" not in options:
        return LossConfig()
    spans = {"start": 1, "warmup": 2, "ramp": 2}
    norm = options["adversary"]
    return LossConfig(adversarial=AdversarialLoss(layers=2, width=8, lecam_weight=0.1, normalization=norm, **spans))


def program(folder: Path) -> None:
    """Every run of `RUNS`; process i keeps its weights in weights-i.pt."""
    training = TrainingConfig(steps=8, batch_size=16, ema_decay=0.9, checkpoint_every=4, log_every=1)
    accelerator = make_accelerator(training)
    shapes = Shapes("train", image_size=16, count=64)
    weights = {}
    for name, options in RUNS.items():
        changes = {key: options[key] for key in LOOP & options.keys()}
        torch.manual_seed(accelerator.process_index)  # the first process's weights must win
        task: Any = LineTask()
        data: Any = Points()
        if not name.startswith("line"):
            autoencoder = {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4}
            data = shapes
            own = {key: options[key] for key in options.keys() - LOOP - TASK}
            quantizer = {"name": "cvq", "codebook_size": 16, "dim": 4, **own}
            model = VQTokenizer(autoencoder, quantizer, image_size=16, channels=3)
            if "adversary" in options:
                model, data = model.double(), Exact(shapes)
            sampler = FeatureSampler(data, accelerator, 0)
            start, mirror = WarmStart(steps=2, features=200), options.get("mirror", False)
            task = TokenizerTask(model, 0.3, start, sampler, loss=loss_of(options), mirror=mirror)
            task = task.to(model.dtype)
        fit(
            task,
            data,
            training.model_copy(update=changes),
            OptimizerConfig(learning_rate=0.01),
            folder / name,
            accelerator,
        )
        weights[name] = task.state_dict()
    torch.save(weights, folder / f"weights-{accelerator.process_index}.pt")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """How many processes -> the folder in which they ran the program."""
    found = {n: tmp_path_factory.mktemp(f"processes-{n}") for n in (1, 2)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    two = subprocess.Popen([*launch, __file__, str(found[2])], env=environment, stderr=subprocess.PIPE, text=True)
    AcceleratorState._reset_state(True)
    program(found[1])
    _, complaint = two.communicate()
    assert two.returncode == 0, complaint
    return found


def weights(folder: Path, process: int = 0) -> dict[str, dict[str, Tensor]]:
    return torch.load(folder / f"weights-{process}.pt", weights_only=True)


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_are_one(folders: dict[int, Path], name: str) -> None:
    one, two = weights(folders[1])[name], weights(folders[2])[name]
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", RUNS)
def test_both_processes_end_with_the_same_weights_and_codebook(folders: dict[int, Path], name: str) -> None:
    first, second = weights(folders[2], 0)[name], weights(folders[2], 1)[name]
    for key in first:
        assert torch.equal(first[key], second[key]), key


def test_the_runs_were_what_they_are_called(folders: dict[int, Path]) -> None:
    lines = read_log(folders[2] / "line")
    assert lines[-1]["loss"] < 0.95 * lines[0]["loss"]
    ended = {name: weights(folders[2])[name]["model.quantizer.codebook"] for name in RUNS if "line" not in name}
    assert len({codebook.sum().item() for codebook in ended.values()}) == len(ended)
    assert {name: weights(folders[2])[name]["model.quantizer.updates"].item() for name in ended} == {
        name: 12 if "parts" in name else 6 for name in ended
    }


@pytest.mark.parametrize("name", EQUAL)
def test_the_log_and_the_checkpoints_are_those_of_one(folders: dict[int, Path], name: str) -> None:
    """The loss is the mean over processes; with accumulation it is that of the last micro-batch."""
    one, two = (read_log(folder / name) for folder in folders.values())
    assert [line["step"] for line in two] == list(range(1, 9))
    for a, b in zip(one, two):
        for key in ("loss", "gradient_norm", "learning_rate"):
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key
        for key in {"window_perplexity", "codebook_moved"} & a.keys():  # a feature between two codes may take either
            assert b[key] == pytest.approx(a[key], rel=0.01), key
    names = [sorted(p.name for p in (folder / name / "checkpoints").iterdir()) for folder in folders.values()]
    assert names[0] == names[1] == ["step_00000004.pt", "step_00000008.pt"]


@pytest.mark.parametrize("name", EQUAL)
def test_the_averages_are_those_of_one(folders: dict[int, Path], name: str) -> None:
    one, two = (
        torch.load(folder / name / "checkpoints" / "step_00000008.pt", weights_only=True)["ema"]
        for folder in folders.values()
    )
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    program(Path(sys.argv[1]))
