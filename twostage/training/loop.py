"""THE loop: draws batches, descends a task's loss, averages, logs, checkpoints and resumes. One for all tasks."""

import math
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from tqdm import tqdm

from twostage.config import OptimizerConfig, TrainingConfig
from twostage.data.loader import Order, mix, training_batches
from twostage.errors import TwoStageError, refuse
from twostage.training.checkpoints import Checkpoints
from twostage.training.ema import average
from twostage.training.log import RunLog
from twostage.training.optimizer import adamw
from twostage.training.task import Progress, StepOutput, Task

SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
"""What `accelerate launch` says in the environment of a model that no process holds whole."""


def make_accelerator(training: TrainingConfig) -> Accelerator:
    """The devices and processes of this run; a codebook's statistics are reduced by hand, not broadcast.

    Raises:
        TwoStageError: `accelerate launch` was told to split the model over processes.
    """
    for variable, name in SHARDING.items():
        if os.environ.get(variable, "false").lower() == "true":
            smaller = "training.gradient_checkpointing, training.accumulation and training.precision=bf16 save memory"
            raise refuse("accelerate launch", name, f"processes that hold the whole model each; {smaller}")
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if training.precision == "bf16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)],
    )


def fit(
    task: Task,
    dataset: Dataset[Any],
    training: TrainingConfig,
    optimizer: OptimizerConfig,
    run: Path,
    accelerator: Accelerator,
    at_checkpoint: Callable[[], None] | None = None,
) -> torch.nn.Module:
    """Train until `training.steps`, going on from the newest checkpoint in `run` if there is one.

    Every step is a function of the checkpoint, the data and (seed, step, process) alone, so that an interrupted and
    an uninterrupted run end in the same weights, bit for bit, on the same machine.

    Args:
        at_checkpoint: called on the first process after every checkpoint but the last; it must leave the task as it
            found it.

    Returns:
        The trained `task.model`, or its exponential moving average, in eval mode.

    Raises:
        TwoStageError: the loss or its gradient is no longer finite; the step and the last checkpoint are named.
    """
    descent = adamw(task, optimizer)
    schedule = LambdaLR(descent, rate_factor(optimizer, training.steps))
    place(task, training, accelerator.device)
    ema = average(task.model, training.ema_decay) if training.ema_decay is not None else None
    parts: dict[str, Any] = {"task": task, "optimizer": descent, "schedule": schedule}
    if ema is not None:
        parts["ema"] = ema
    checkpoints = Checkpoints(run / "checkpoints", training.keep_checkpoints)
    start = checkpoints.restore(parts)
    wrapped, descent = accelerator.prepare(task, descent)
    task.train()

    order = Order(
        count=len(dataset),  # type: ignore[arg-type]
        batch_size=training.batch_size,
        steps=training.steps,
        seed=training.seed,
        accumulation=training.accumulation,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        start_step=start,
    )
    batches = training_batches(dataset, order, training.workers)
    log = RunLog(run, start, main=accelerator.is_main_process, tensorboard=training.tensorboard)
    with log, tqdm(total=training.steps, initial=start, disable=not accelerator.is_main_process, **BAR) as bar:
        for step in range(start, training.steps):
            task.before_step(Progress(step=step, steps=training.steps, epoch=step * training.batch_size // order.count))
            torch.manual_seed(mix(training.seed, step, accelerator.process_index))
            for micro in range(training.accumulation):
                last = micro == training.accumulation - 1
                with nullcontext() if last else accelerator.no_sync(wrapped):
                    output: StepOutput = wrapped(to_device(next(batches), accelerator.device))
                    accelerator.backward(output.loss / training.accumulation)
            norm = clip(task, training.gradient_clip or math.inf, accelerator)
            if not (math.isfinite(output.loss.item()) and math.isfinite(norm)):
                raise TwoStageError(
                    f"{run}: the loss is {output.loss.item()} and its gradient's norm {norm} at step {step}; "
                    f"stopped before the weights were touched. Last good checkpoint: {checkpoints.newest() or 'none'}"
                )
            task.before_descent(descent)
            descent.step()
            schedule.step()
            descent.zero_grad(set_to_none=True)
            if ema is not None:
                ema.update_parameters(task.model)
            done = step + 1
            if done % training.log_every == 0 or done == training.steps:
                scalars = {"loss": output.loss.detach(), **output.metrics}
                means = {key: mean_over_processes(value, accelerator) for key, value in scalars.items()}
                line, rate = task.log_line(done), float(schedule.get_last_lr()[0])
                log.write(done, {**means, **line.scalars, "gradient_norm": norm, "learning_rate": rate}, line.warnings)
                bar.set_postfix_str(f"loss {means['loss']:.4g}", refresh=False)
            bar.update()
            if (done % training.checkpoint_every == 0 or done == training.steps) and accelerator.is_main_process:
                checkpoints.save(parts, done)
                if at_checkpoint is not None and done < training.steps:
                    at_checkpoint()
    accelerator.wait_for_everyone()
    trained = ema.module if ema is not None else task.model
    return trained.eval().to(memory_format=torch.contiguous_format)


BAR: dict[str, Any] = {"desc": "training", "unit": "step", "mininterval": 1.0, "dynamic_ncols": True}


def place(task: Task, training: TrainingConfig, device: torch.device) -> None:
    """Move the task to its device, in the layout and with the kernels asked for; the names in its state stay.

    Raises:
        TwoStageError: there is no compiler to make kernels with, or the model cannot compute its blocks again.
    """
    if training.compile and not any(map(shutil.which, COMPILERS)):
        raise refuse("training.compile", True, f"false, on a machine without a C++ compiler ({', '.join(COMPILERS)})")
    task.to(device)
    if training.channels_last:
        task.to(memory_format=torch.channels_last)
    if training.gradient_checkpointing:
        if not getattr(task.model, "_supports_gradient_checkpointing", False):
            raise refuse("training.gradient_checkpointing", True, f"false, for a {type(task.model).__name__}")
        task.model.enable_gradient_checkpointing()  # type: ignore[operator]
    if training.compile:
        task.model.compile()


COMPILERS = (os.environ.get("CXX", "g++"), "clang++", "cl")
"""Any of these will do for torch.compile."""


def rate_factor(optimizer: OptimizerConfig, steps: int) -> Any:
    """step -> the share of the learning rate at that step: a linear warm-up, then constant or a cosine to zero."""

    def factor(step: int) -> float:
        if step < optimizer.warmup_steps:
            return (step + 1) / optimizer.warmup_steps
        if optimizer.schedule == "constant":
            return 1.0
        done = (step - optimizer.warmup_steps) / max(1, steps - optimizer.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def clip(task: Task, limit: float, accelerator: Accelerator) -> float:
    """Scale the gradient of each of the task's players down to a norm of `limit`; returns the norm of all before."""
    norms = [accelerator.clip_grad_norm_(player.parameters(), limit) for player in task.players()]
    return math.hypot(*(float(norm) for norm in norms))


def mean_over_processes(scalar: torch.Tensor, accelerator: Accelerator) -> float:
    mean = accelerator.reduce(scalar.float(), "mean")
    assert isinstance(mean, torch.Tensor)
    return mean.item()


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}
