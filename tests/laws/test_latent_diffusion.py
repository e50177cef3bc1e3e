"""Training a prior over frozen codes: interrupted or not, on one process or two, it ends in the same weights.

In float64, where only the order of sums differs. This file is also the program that the two processes run.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from torch import Tensor

from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_ldm.config import LDMConfig
from stage2_ldm.train import LDMTask
from stage2_ldm.train import train as train_ldm
from stage2_transformer.config import TransformerConfig
from stage2_transformer.train import train as train_transformer
from twostage.config import load
from twostage.data.codes import EncodedBatch, write_codes
from twostage.models import fingerprint
from twostage.training.log import read_log

ROOT = Path(__file__).resolve().parents[2]
UNET = {"name": "unet", "widths": [8], "layers": 1, "attention": [True], "head_dim": 4, "norm_groups": 4}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "diffusion": {"name": "diffusion", "prediction_type": "v_prediction", "min_snr_gamma": 5.0, "timesteps": 50},
    "flow": {"name": "flow"},
    "uniform flow": {"name": "flow", "times": "uniform", "shift": 2.0, "norm": "l1"},
}
TRAINING = {"steps": 5, "batch_size": 8, "ema_decay": 0.9, "checkpoint_every": 2, "log_every": 1, "gradient_clip": 0.5}


@pytest.fixture(autouse=True)
def in_double_precision(monkeypatch: pytest.MonkeyPatch) -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small_tokenizer() -> VQTokenizer:
    torch.manual_seed(0)
    tokenizer = VQTokenizer(
        autoencoder_config={"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4},
        quantizer_config={"name": "vq", "codebook_size": 16, "dim": 4},
        image_size=16,
        channels=3,
    )
    tokenizer.quantizer.codebook.data.normal_()
    return tokenizer.eval()


def read(schema: Any, codes: Path, own: dict[str, Any], **training: Any) -> Any:
    common = {"codes": str(codes), "tokenizer": "", "optimizer": {"learning_rate": 1e-3}, "label_dropout": 0.3}
    return load(schema, {**common, **own, "training": {**TRAINING, **training}})


def ldm(codes: Path, objective: str, **training: Any) -> LDMConfig:
    return read(LDMConfig, codes, {"denoiser": UNET, "objective": OBJECTIVES[objective]}, **training)


def transformer(codes: Path, **training: Any) -> TransformerConfig:
    prior = {"name": "llama", "layers": 1, "heads": 2, "width": 16, "dropout": 0.0}  # which each process draws anew
    return read(TransformerConfig, codes, {"prior": prior}, **training)


def program(codes: Path, output: Path) -> None:
    """Train every kind of prior on the codes; the first process keeps their weights in weights.pt."""
    torch.set_default_dtype(torch.float64)
    tokenizer = small_tokenizer()
    runs = {name: train_ldm(ldm(codes, name, accumulation=2), tokenizer, output / name) for name in OBJECTIVES}
    trained = {**runs, "transformer": train_transformer(transformer(codes), tokenizer, output / "transformer")}
    ended = {
        name: {**model.state_dict(), **statistics(model), **losses(output / name)} for name, model in trained.items()
    }
    torch.save(ended, output / f"weights-{os.environ.get('RANK', '0')}.pt")


def statistics(model: Any) -> dict[str, Tensor]:
    return {key: torch.tensor(value) for key, value in model.config.items() if key in ("latent_mean", "latent_std")}


def losses(run: Path) -> dict[str, Tensor]:
    return {f"loss of step {line['step']}": torch.tensor(line["loss"]) for line in read_log(run)}


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random codes of two views of 40 images."""
    torch.set_default_dtype(torch.float64)
    folder, drawn = tmp_path_factory.mktemp("frozen") / "codes", torch.Generator().manual_seed(1)
    views = torch.randint(16, (40, 2, 4, 4), generator=drawn)
    batch = EncodedBatch(codes=views, labels=torch.arange(40) % 3, latents=None)
    origin = {"tokenizer": fingerprint(small_tokenizer()), "data": {}, "split": "train", "classes": ["a", "b", "c"]}
    write_codes(folder, [batch], codebook_size=16, **origin)
    return folder


def ended(run: Path) -> tuple[Any, list[str]]:
    """The last checkpoint, and the log without the times of its lines."""
    lines = (run / "log.jsonl").read_text().splitlines()
    state = torch.load(max((run / "checkpoints").iterdir()), weights_only=True)
    return state, [str({key: v for key, v in yaml.safe_load(line).items() if key != "time"}) for line in lines]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("objective", ["diffusion", "flow"])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str, step: int
) -> None:
    config, tokenizer = ldm(codes, objective), small_tokenizer()
    whole = train_ldm(config, tokenizer, tmp_path / "whole")

    def interrupt(task: LDMTask, progress: Any) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LDMTask, "before_step", interrupt)
        train_ldm(config, tokenizer, tmp_path / "parts")
    torch.manual_seed(12345)  # what the process did before must not matter
    resumed = train_ldm(config, tokenizer, tmp_path / "parts")
    assert same(dict(resumed.state_dict()), dict(whole.state_dict()))
    (state, log), (whole_state, whole_log) = ended(tmp_path / "parts"), ended(tmp_path / "whole")
    assert same(state, whole_state)
    assert log == whole_log
    assert len(log) == TRAINING["steps"]


@pytest.fixture(scope="module")
def weights(codes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Tensor]]]:
    """What one process, and each of two, ended with."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*launch, __file__, str(codes), str(two)]
    processes = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    AcceleratorState._reset_state(True)
    program(codes, one)
    _, complaint = processes.communicate()
    assert processes.returncode == 0, complaint
    files = {"one": one / "weights-0.pt", "first": two / "weights-0.pt", "second": two / "weights-1.pt"}
    return {name: torch.load(path, weights_only=True) for name, path in files.items()}


@pytest.mark.parametrize("name", [*OBJECTIVES, "transformer"])
def test_two_processes_are_one(weights: dict[str, dict[str, dict[str, Tensor]]], name: str) -> None:
    for process in ("first", "second"):
        for key, value in weights["one"][name].items():
            torch.testing.assert_close(weights[process][name][key], value, rtol=1e-6, atol=1e-8, msg=f"{process} {key}")


if __name__ == "__main__":
    program(Path(sys.argv[1]), Path(sys.argv[2]))
