"""Small tasks to train in no time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import Dataset

from stage1_tokenizer.config import WarmStart
from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.train import FeatureSampler, TokenizerTask
from twostage.config import OptimizerConfig, TrainingConfig
from twostage.data.shapes import Shapes
from twostage.training.loop import fit, make_accelerator
from twostage.training.task import Progress, StepOutput, Task


class Points(Dataset[dict[str, Tensor]]):
    """x [3] and a linear function of it, y [2]; 21 of them."""

    def __init__(self) -> None:
        self.x = torch.randn(21, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        self.y = self.x @ torch.arange(6.0, dtype=torch.float64).reshape(3, 2) + 1

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


class LineTask(Task):
    """Least squares in float64 with `layers` in the middle; at step `broken_at` the loss is NaN."""

    def __init__(self, *layers: nn.Module, broken_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), *layers, nn.Linear(8, 2)).double()
        self.dataset, self.broken_at = Points(), broken_at
        self.seen: list[Progress] = []
        self.weights: dict[str, Tensor] = {}

    def before_step(self, progress: Progress) -> None:
        self.seen.append(progress)
        self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}

    def forward(self, batch: dict[str, Any]) -> StepOutput:
        loss = (self.model(batch["x"]) - batch["y"]).square().mean()
        if self.seen[-1].step == self.broken_at:
            loss = loss * torch.nan
        return StepOutput(loss=loss, metrics={"half": loss.detach() / 2})


@pytest.fixture
def line_task() -> Callable[..., LineTask]:
    return LineTask


@pytest.fixture
def tokenizer_task(accelerator: Accelerator) -> Callable[..., TokenizerTask]:
    """**quantiser options -> a task on 64 shapes, with a warm start of two steps."""

    def make(**options: Any) -> TokenizerTask:
        torch.manual_seed(0)
        quantizer = {"codebook_size": 16, "dim": 4, "name": "cvq", **options}
        autoencoder = {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4}
        model = VQTokenizer(autoencoder, quantizer, image_size=16, channels=3)
        dataset = Shapes("train", image_size=16, count=64)
        task = TokenizerTask(model, 0.3, WarmStart(steps=2, features=200), FeatureSampler(dataset, accelerator, 0))
        task.dataset = dataset
        return task

    return make


@pytest.fixture
def accelerator() -> Accelerator:
    AcceleratorState._reset_state(True)
    return make_accelerator(TrainingConfig(steps=1, batch_size=1))


@pytest.fixture
def train(accelerator: Accelerator, tmp_path: Path) -> Callable[..., nn.Module]:
    """(task, name of the run, **training options) -> what `fit` returns; six steps by default."""

    def run(task: Any, name: str = "run", **options: Any) -> nn.Module:
        training = TrainingConfig(**{"steps": 6, "batch_size": 4, "log_every": 1, "checkpoint_every": 3, **options})
        optimizer = OptimizerConfig(learning_rate=0.05, warmup_steps=2)
        return fit(task, task.dataset, training, optimizer, tmp_path / name, accelerator)

    return run
