"""Training a transformer prior: what is logged, what may be switched on, what a run can go on from."""

import math
from functools import partial

import pytest
import torch
from accelerate.state import AcceleratorState

from stage2_transformer.prior import TransformerPrior
from stage2_transformer.train import TransformerTask
from twostage.config import OptimizerConfig, TrainingConfig
from twostage.errors import TwoStageError
from twostage.training.log import read_log
from twostage.training.loop import fit, make_accelerator


def task(codes, label_dropout=0.2, token_dropout=0.0, **options):
    torch.manual_seed(0)
    backbone = {"name": "llama", "layers": 2, "heads": 2, "width": 16, **options}
    prior = TransformerPrior(
        backbone, codebook_size=7, code_shape=codes.manifest.shape, num_classes=len(codes.manifest.classes) or None
    )
    return TransformerTask(prior, label_dropout, token_dropout)


@pytest.fixture
def train(tmp_path):
    """(task, codes, name of the run, **training options) -> what `fit` returns after six steps."""

    def run(task, codes, name="run", **options):
        AcceleratorState._reset_state(True)
        training = TrainingConfig(**{"steps": 6, "batch_size": 4, "log_every": 1, "checkpoint_every": 3, **options})
        optimizer = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, warmup_steps=2)
        return fit(task, codes, training, optimizer, tmp_path / name, make_accelerator(training))

    yield run
    AcceleratorState._reset_state(True)


def log(tmp_path, name="run", key="loss"):
    return [line[key] for line in read_log(tmp_path / name)]


@pytest.mark.parametrize("shape", [(3, 3), (2, 2, 2)])
def test_bits_per_image_are_logged_beside_the_loss(frozen, train, tmp_path, shape):
    codes = frozen(shape)
    train(task(codes), codes)
    for loss, bits in zip(log(tmp_path), log(tmp_path, key="bits_per_image")):
        assert bits == pytest.approx(loss / math.log(2) * math.prod(shape), rel=1e-5)
    assert len(log(tmp_path)) == 6


def test_a_run_with_dropped_tokens_goes_on_where_it_stopped(frozen, train, tmp_path):
    codes = frozen()
    options = {"token_dropout": 0.3, "dropout": 0.1}
    whole = train(task(codes, **options), codes, "whole", ema_decay=0.9)
    stopped = task(codes, **options)
    stopped.before_step = partial(stop, 4)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, codes, "parts", ema_decay=0.9)
    parts = train(task(codes, **options), codes, "parts", ema_decay=0.9)
    assert log(tmp_path, "parts") == log(tmp_path, "whole")
    assert all(torch.equal(a, b) for a, b in zip(parts.parameters(), whole.parameters()))


def stop(step, progress):
    if progress.step == step:
        raise KeyboardInterrupt


def test_token_dropout_is_heard(frozen, train, tmp_path):
    codes = frozen()
    train(task(codes), codes, "none")
    train(task(codes, token_dropout=0.5), codes, "some")
    assert log(tmp_path, "some") != log(tmp_path, "none")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradient_checkpointing_trains_the_same_prior(frozen, train, tmp_path, precision):
    codes = frozen()
    plain = train(task(codes, dropout=0.1), codes, "plain", precision=precision)
    saved = train(task(codes, dropout=0.1), codes, "saved", precision=precision, gradient_checkpointing=True)
    assert log(tmp_path, "saved") == pytest.approx(log(tmp_path, "plain"), rel=1e-5)
    assert saved.state_dict().keys() == plain.state_dict().keys()
    for a, b in zip(saved.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_of_another_model_is_refused(frozen, train):
    codes = frozen()
    other = task(codes)
    other.model = torch.nn.Linear(2, 2)
    with pytest.raises(TwoStageError, match=r"training\.gradient_checkpointing: True is not allowed; .*a Linear"):
        train(other, codes, gradient_checkpointing=True)
