"""The failure that everyone meets: reconstructions are ruined when the discriminator starts.

A small tokenizer learns coloured shapes, and its PSNR on unseen ones is followed across the start. As a program, this
file prints what docs/adversarial.md reports: python tests/stage1_tokenizer/test_discriminator_start.py 1.5e-3 2e-3
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from stage1_tokenizer.config import AdversarialLoss, LossConfig, WarmStart
from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.train import FeatureSampler, TokenizerTask
from twostage.config import OptimizerConfig, TrainingConfig
from twostage.data.shapes import Shapes
from twostage.metrics.reconstruction import psnr
from twostage.training.log import read_log
from twostage.training.loop import fit, make_accelerator

STEPS, EVERY = 600, 10
NO_REMEDY: dict[str, Any] = {"warmup": 0, "ramp": 0, "max_adaptive_weight": 1e4}


@dataclass(frozen=True)
class Course:
    """What a run went through: PSNR in dB every `EVERY` steps, and the log."""

    quality: dict[int, float]
    log: list[dict[str, float]]
    start: int

    @property
    def drop(self) -> float:
        """How far PSNR fell, after the start, below its mean over the 50 steps before; negative if it only rose."""
        before = [db for step, db in self.quality.items() if self.start - 50 < step <= self.start]
        return sum(before) / len(before) - min(db for step, db in self.quality.items() if step > self.start)

    @property
    def gain(self) -> float:
        """PSNR at the end less that at the start."""
        return self.quality[STEPS - EVERY] - self.quality[self.start]

    def all(self, name: str) -> list[float]:
        return [line[name] for line in self.log if name in line]


def follow(
    run: Path,
    *,
    seed: int = 0,
    learning_rate: float = 1.5e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    **adversarial: Any,
) -> Course:
    """Train with a discriminator of these options, all others at their defaults but for its size."""
    AcceleratorState._reset_state(True)
    torch.manual_seed(seed)
    training = TrainingConfig(steps=STEPS, batch_size=32, seed=seed, checkpoint_every=STEPS, log_every=EVERY)
    accelerator = make_accelerator(training)
    shapes = Shapes("train", image_size=16, count=1024)
    unseen = torch.stack([image["images"] for image in Shapes("test", image_size=16, count=128)])
    model = VQTokenizer(
        {"name": "vqvae", "width": 32, "residual_blocks": 1, "residual_width": 16},
        {"name": "cvq", "codebook_size": 128, "dim": 8, "distance": "l2", "contrastive_weight": 0.0},
        image_size=16,
        channels=3,
    )
    options = AdversarialLoss(layers=2, width=32, **adversarial)
    warm_start, features = WarmStart(steps=100, features=4000), FeatureSampler(shapes, accelerator, seed)
    task = TokenizerTask(model, 0.3, warm_start, features, seed, LossConfig(adversarial=options))
    before_step, quality = task.before_step, {}

    def measure(progress: Any) -> None:
        if progress.step % EVERY == 0:
            model.eval()
            quality[progress.step] = psnr(unseen, model.reconstruct(unseen)).mean().item()
            model.train()
        before_step(progress)

    task.before_step = measure
    fit(task, shapes, training, OptimizerConfig(learning_rate=learning_rate, betas=list(betas)), run, accelerator)
    return Course(quality, read_log(run), options.milestones(STEPS)[0])


def test_reconstructions_survive_the_discriminators_start(tmp_path):
    course = follow(tmp_path / "defaults", seed=3)
    assert course.drop < 1
    assert course.gain > 0.5
    assert min(course.all("adaptive_weight")) > 0


@pytest.mark.slow
def test_without_the_remedies_they_suffer(tmp_path):
    assert follow(tmp_path / "without", seed=3, **NO_REMEDY).drop > 1


ROWS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "warm-up, no ramp": {"ramp": 0},
    "ramp, no warm-up": {"warmup": 0},
    "neither, limit 1e4": NO_REMEDY,
    "neither, limit 0.1": {**NO_REMEDY, "max_adaptive_weight": 0.1},
    "defaults, limit 0.1": {"max_adaptive_weight": 0.1},
    "defaults, LeCAM 0.01": {"lecam_weight": 0.01},
    "defaults, weight 0.4": {"weight": 0.4},
    "defaults, betas 0.5, 0.9": {"betas": (0.5, 0.9)},
}


def program(folder: Path, rates: list[float], seeds: int = 6) -> None:
    """Print one line a run: the drop and the gain in dB, and the largest adaptive weight."""
    for rate in rates:
        for seed in range(seeds):
            for name, options in ROWS.items():
                course = follow(folder / f"{rate} {name} {seed}", seed=seed, learning_rate=rate, **options)
                weight = max(course.all("adaptive_weight"))
                line = f"drop {course.drop:.2f} | gain {course.gain:.2f} | adaptive weight up to {weight:.2g}"
                print(f"rate {rate:g} | {name} | seed {seed} | {line}", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        program(Path(temporary), [float(rate) for rate in sys.argv[1:]])
