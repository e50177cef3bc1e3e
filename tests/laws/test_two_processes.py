"""Every registered quantiser: two processes with half a batch each do what one does with all of it.

In float64, where only the order of sums differs. This file is also the program that the processes run.
"""

import copy
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.quantizers.base import Quantizer
from twostage.data.loader import mix
from twostage.training.distributed import rank, sum_over_processes, world_size

ROOT = Path(__file__).resolve().parents[2]
K, D, SEED, STEPS = 16, 4, 3, 4
PATIENCE = timedelta(seconds=60)
"""After which a process that waits for another in vain fails."""

HASTY = {"decay": 0.5, "threshold": 0.8}
"""Codes that win too little are moved within the few steps that are taken here."""

VARIANTS = {
    **{f"cvq, {anchor}": {"name": "cvq", "anchor": anchor} for anchor in ("random", "unique", "closest")},
    "cvq, l2": {"name": "cvq", "distance": "l2"},
    "hvq, hasty": {"name": "hvq", **HASTY},
    "hard_reset, hasty": {"name": "hard_reset", **HASTY},
    "vq, modified": {"name": "vq", "straight_through": "modified"},
    "vq, rotation": {"name": "vq", "straight_through": "rotation"},
    "residual, cvq": {"name": "residual", "inner": {"name": "cvq"}},
    "nsvq, injection": {"name": "nsvq", "kernel": "softmax", "propagation": "straight_through"},
    "nsvq, replacement": {"name": "nsvq", "replacement": 1},
}
CASES = {name: {"name": name} for name in QUANTIZERS} | VARIANTS
LEARNING = [case for case, config in CASES.items() if QUANTIZERS[config["name"]].learns_codebook]


def build(case: str) -> Quantizer:
    torch.manual_seed(SEED)
    config = QUANTIZERS.resolve({**CASES[case], "codebook_size": K, "dim": D}, case)
    return QUANTIZERS.build(config).double()


def draw(step: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def gradient(x: Tensor) -> Tensor:
    return torch.zeros_like(x) if x.grad is None else x.grad


def average_gradients(quantizer: Quantizer) -> None:
    for parameter in quantizer.parameters():
        parameter.grad = sum_over_processes(gradient(parameter)) / world_size()


def train(quantizer: Quantizer, shares: list[int]) -> dict[str, Any]:
    """A few steps on batches of which process r holds shares[r] images; what this process saw, and the final state."""
    descent = torch.optim.SGD(quantizer.parameters(), lr=0.1) if list(quantizer.parameters()) else None
    seen: dict[str, Any] = {"loss": [], "codes": [], "z_q": [], "gradient": [], "usage": [], "perplexity": []}
    for step in range(STEPS):
        batch, upstream = (draw(2 * step + i, sum(shares), D, 5, 4).split(shares)[rank()] for i in (0, 1))
        z = batch.clone().requires_grad_()
        quantizer.set_progress(step, step)
        torch.manual_seed(mix(SEED, step, rank()))
        output = quantizer(z)
        loss = output.loss + (output.z_q * upstream).mean()
        loss.backward()
        average_gradients(quantizer)
        if descent is not None:
            descent.step()
            descent.zero_grad()
        found = {"loss": loss, "codes": output.codes, "z_q": output.z_q, "gradient": gradient(z), **output.metrics}
        for key, values in seen.items():
            values.append(found[key].detach().clone())
    return {**seen, "state": copy.deepcopy(quantizer.state_dict())}


def equal_shares(case: str) -> dict[str, Any]:
    return train(build(case), [4 // world_size()] * world_size())


def unequal_shares(case: str) -> dict[str, Any]:
    return train(build(case), [3, 1] if world_size() == 2 else [4])


def eval_on_the_first(case: str) -> dict[str, Any]:
    """Quantise in eval on the first process only; the other already waits for it to come and meet."""
    quantizer = build(case).eval()
    codes = quantizer(draw(0, 4, D, 5, 4)).codes if rank() == 0 else None
    met = sum_over_processes(torch.ones(()))
    return {"codes": codes, "met": met}


def warm_start(case: str) -> dict[str, Any]:
    """Start from k-means over features that every process has, whatever the draw of each, then train."""
    quantizer = build(case)
    if not quantizer.learns_codebook:
        return {}
    quantizer.start_codebook(draw(99, 200, D), torch.Generator().manual_seed(SEED + rank()))
    started = quantizer.codebook.detach().clone()
    return {"started": started, **train(quantizer, [4 // world_size()] * world_size())}


PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "equal": equal_shares,
    "unequal": unequal_shares,
    "eval": eval_on_the_first,
    "warm": warm_start,
}


def attempt(part: Callable[[str], dict[str, Any]], case: str) -> dict[str, Any]:
    """What the part gives or the error it ends in, which is then that of one case."""
    try:
        return part(case)
    except Exception:
        return {"error": traceback.format_exc()}


def program(folder: Path) -> None:
    """Every part for every case; process r keeps what it saw in r.pt."""
    found = {(name, case): attempt(part, case) for name, part in PARTS.items() for case in CASES}
    torch.save(found, folder / f"{rank()}.pt")


Seen = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """What the first and the second of two processes saw, then what one alone saw."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pair = subprocess.Popen([*launch, __file__, str(two)], env=environment, stderr=subprocess.PIPE, text=True)
    program(one)
    _, complaint = pair.communicate()
    assert pair.returncode == 0, complaint
    return [torch.load(path, weights_only=True) for path in (two / "0.pt", two / "1.pt", one / "0.pt")]


def seen(processes: list[Seen], part: str, case: str) -> list[dict[str, Any]]:
    for process in processes:
        assert "error" not in process[part, case], process[part, case]["error"]
    return [process[part, case] for process in processes]


def close(ours: Any, expected: Any, what: str) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, msg=lambda message: f"{what}: {message}")


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


def assert_two_are_one(first: dict[str, Any], second: dict[str, Any], one: dict[str, Any]) -> None:
    for step in range(STEPS):
        for key in ("codes", "z_q"):
            close(torch.cat([first[key][step], second[key][step]]), one[key][step], f"{key} at step {step}")
        close((first["loss"][step] + second["loss"][step]) / 2, one["loss"][step], f"loss at step {step}")
        # Each process's loss is a mean over half of the batch: its gradient is twice that of the whole.
        halves, whole = torch.cat([first["gradient"][step], second["gradient"][step]]) / 2, one["gradient"][step]
        close(halves * whole.numel(), whole * whole.numel(), f"gradient at step {step}")
        for key in ("usage", "perplexity"):
            for process in (first, second):
                close(process[key][step], one[key][step], f"{key} at step {step}")
    assert first["state"].keys() == one["state"].keys()
    for key, value in one["state"].items():
        close(first["state"][key], value, key)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(processes: list[Seen], case: str) -> None:
    first, second, one = seen(processes, "equal", case)
    assert_two_are_one(first, second, one)
    assert_equal(first["state"], second["state"])


@pytest.mark.parametrize("case", CASES)
def test_training_was_more_than_standing_still(processes: list[Seen], case: str) -> None:
    """What is compared above is not the start."""
    one = seen(processes, "equal", case)[2]
    start = build(case).state_dict()
    assert not start or any(not torch.allclose(one["state"][key], start[key], atol=1e-4) for key in start)


@pytest.mark.parametrize("case", CASES)
def test_processes_with_unequal_shares_of_a_batch_keep_one_codebook(processes: list[Seen], case: str) -> None:
    first, second, one = seen(processes, "unequal", case)
    assert_equal(first["state"], second["state"])
    assert [len(process["codes"][0]) for process in (first, second, one)] == [3, 1, 4]


@pytest.mark.parametrize("case", CASES)
def test_eval_waits_for_nobody(processes: list[Seen], case: str) -> None:
    first, second, one = seen(processes, "eval", case)
    assert torch.equal(first["codes"], one["codes"])
    assert first["met"] == second["met"] == 2


@pytest.mark.parametrize("case", LEARNING)
def test_the_warm_start_is_the_same_on_every_process(processes: list[Seen], case: str) -> None:
    first, second, one = seen(processes, "warm", case)
    assert torch.equal(first["started"], second["started"])
    close(first["started"], one["started"], "the codebook after the warm start")
    assert_two_are_one(first, second, one)
    assert_equal(first["state"], second["state"])


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=PATIENCE)
    program(Path(sys.argv[1]))
    dist.destroy_process_group()
