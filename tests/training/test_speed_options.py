"""What makes a step faster leaves its result within rounding, and what is saved as it was."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import Dataset

from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_ldm.denoiser import LatentDenoiser
from stage2_ldm.objectives.diffusion import Diffusion
from stage2_ldm.train import LDMTask
from twostage.config import OptimizerConfig, TrainingConfig
from twostage.errors import TwoStageError
from twostage.training.log import read_log
from twostage.training.loop import COMPILERS, fit, make_accelerator
from twostage.training.task import StepOutput

OPTIONS: dict[str, dict[str, Any]] = {
    "channels last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "compiled": {"compile": True},
    "computed again": {"gradient_checkpointing": True},
    "all": {"channels_last": True, "precision": "bf16", "compile": True},
}
TOLERANCE = {"channels last": 1e-4, "bf16": 0.02, "compiled": 1e-4, "computed again": 1e-4, "all": 0.02}
"""Of a loss."""


class Latents(Dataset[dict[str, torch.Tensor]]):
    x = torch.randn(16, 1, 4, 8, 8, generator=torch.Generator().manual_seed(7))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        codes = torch.zeros(1, 8, 8, dtype=torch.int64)
        return {"codes": codes, "class_label": torch.tensor(index % 3), "latents": self.x[index]}


class Watched(LDMTask):
    """Notes in every step whether its convolutions' weights have their channels last, and whether bf16 is on."""

    dataset = Latents()

    def __init__(self) -> None:
        torch.manual_seed(0)
        model = LatentDenoiser(
            backbone_config={"name": "unet", "widths": [8, 16], "layers": 1, "head_dim": 8, "norm_groups": 4},
            latent_size=8,
            latent_dim=4,
            num_classes=3,
            prediction_type="epsilon",
            latents="continuous",
            latent_mean=[0.0] * 4,
            latent_std=[1.0] * 4,
        )
        super().__init__(model, Diffusion(), lambda batch: batch["latents"], 0.1)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, batch: dict[str, torch.Tensor]) -> StepOutput:
        self.seen.append((channels_last(self.model), torch.is_autocast_enabled(self.model.device.type)))
        return super().forward(batch)


def channels_last(model: nn.Module) -> bool:
    """Whether all weights lie so that could lie otherwise."""
    weights = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    return all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


@pytest.fixture
def train(tmp_path: Path) -> Any:
    """(task, name of the run, **training options) -> what `fit` returns after six steps."""

    def run(task: Any, name: str, **options: Any) -> nn.Module:
        AcceleratorState._reset_state(True)
        training = TrainingConfig(**{"steps": 6, "batch_size": 4, "log_every": 1, "checkpoint_every": 3, **options})
        accelerator = make_accelerator(training)
        return fit(task, task.dataset, training, OptimizerConfig(learning_rate=1e-3), tmp_path / name, accelerator)

    yield run
    AcceleratorState._reset_state(True)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that were compiled, by a backend that needs no C++ compiler."""
    seen, compile_ = [], nn.Module.compile

    def note(module: nn.Module) -> None:
        seen.append(module)
        compile_(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", note)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    return seen


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run)]


@pytest.mark.parametrize("name", OPTIONS)
def test_training_goes_as_without(train, tmp_path, compiled, name):
    plain, task = train(Watched(), "plain"), Watched()
    changed = train(task, "changed", **OPTIONS[name])
    assert losses(tmp_path / "changed") == pytest.approx(losses(tmp_path / "plain"), rel=TOLERANCE[name])
    assert task.seen == [("channels_last" in OPTIONS[name], "precision" in OPTIONS[name])] * 6
    assert compiled == ([task.model] if "compile" in OPTIONS[name] else [])
    assert task.model.is_gradient_checkpointing == ("gradient_checkpointing" in OPTIONS[name])
    assert [(key, value.shape, value.stride()) for key, value in changed.state_dict().items()] == [
        (key, value.shape, value.stride()) for key, value in plain.state_dict().items()
    ]
    changed.save_pretrained(tmp_path / "saved")
    again = LatentDenoiser.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), changed.parameters()))


@pytest.mark.parametrize("name", ["channels last", "compiled"])
@pytest.mark.parametrize("first", [True, False])
def test_a_run_goes_on_with_or_without(train, tmp_path, compiled, name, first):
    train(Watched(), "plain", ema_decay=0.9)
    options = [OPTIONS[name], {}] if first else [{}, OPTIONS[name]]
    stopped = Watched()
    stopped.before_step = partial(stop, 3)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, "parts", ema_decay=0.9, **options[0])
    train(Watched(), "parts", ema_decay=0.9, **options[1])
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


def stop(step: int, progress: Any) -> None:
    if progress.step == step:
        raise KeyboardInterrupt


def test_what_a_tokenizer_calls_is_compiled(compiled):
    tokenizer = VQTokenizer({"name": "vqvae", "width": 8}, {"name": "vq", "codebook_size": 4, "dim": 4}, 16, 3)
    images = torch.rand(2, 3, 16, 16)
    before = tokenizer(images)
    tokenizer.compile()
    assert compiled == [tokenizer.autoencoder.encoder, tokenizer.autoencoder.decoder]
    torch.testing.assert_close(tokenizer(images), before)


def test_compiling_without_a_compiler_is_refused(train, line_task, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(TwoStageError, match=r"^training\.compile: True is not allowed; allowed: false, .*clang\+\+"):
        train(line_task(), "run", compile=True)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason=f"needs a C++ compiler: {', '.join(COMPILERS)}")
def test_kernels_of_a_real_compiler(train, line_task):
    plain, made = train(line_task(), "plain"), train(line_task(), "made", compile=True)
    for a, b in zip(plain.parameters(), made.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
