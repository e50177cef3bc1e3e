"""CVQ's anchors and contrastive term: two processes with unequal parts of a batch find what one finds in all of it.

This file is also the program that the processes run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from stage1_tokenizer.quantizers import contrastive
from stage1_tokenizer.quantizers.anchors import RULES
from stage1_tokenizer.quantizers.contrastive import contrastive_loss, search
from stage1_tokenizer.quantizers.nearest import nearest
from twostage.training.distributed import rank, world_size

ROOT = Path(__file__).resolve().parents[2]
DISTANCES = ("l2", "cosine")
FIRST, ALL = 21, 128
"""Features of the first process, where there are two, and of both."""


def problem():
    generator = torch.Generator().manual_seed(3)
    codes, features = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (40, ALL))
    features[100] = codes[0] = features[7]  # two processes have what is nearest to one code
    return codes, features


def anchors(features, distance):
    codes, _ = problem()
    chosen = {}
    for name, rule in RULES.items():
        torch.manual_seed(5 + rank())  # the first process's numbers must win
        chosen[name] = rule(codes, features, distance)
    return chosen


def contrast(features, distance, size, work):
    """The term and its gradient for as many codes: 1 has more neighbours than the first process has features."""
    codes = problem()[0][:size].requires_grad_()
    torch.manual_seed(5 + rank())
    contrastive.EXACT_WORK, contrastive.SMALLEST_SAMPLE = work, 64
    value = contrastive_loss(codes, features, search(features, codes, distance)[1], distance, 0.5)
    return value.detach(), torch.autograd.grad(value, codes)[0]


def program(folder):
    features = problem()[1]
    if world_size() > 1:
        features = features.split([FIRST, ALL - FIRST])[rank()]
    found = {}
    for distance in DISTANCES:
        found["anchors", distance] = anchors(features, distance)
        for size in (1, 40):
            for work in (0, ALL * size):
                found["contrast", distance, size, work > 0] = contrast(features, distance, size, work)
    torch.save(found, folder / f"{world_size()}-{rank()}.pt")


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What one process finds alone, and what each of two finds."""
    folder = tmp_path_factory.mktemp("processes")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launch, __file__, str(folder)], check=False, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        for name in ("EXACT_WORK", "SMALLEST_SAMPLE"):
            patch.setattr(contrastive, name, 0)  # restored after what the program sets
        program(folder)
    return [torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1")]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("rule", list(RULES))
def test_two_processes_choose_the_anchors_of_one(processes, rule, distance):
    alone, *both = (found["anchors", distance][rule] for found in processes)
    owners = nearest(alone, problem()[1], "l2")
    assert (owners < FIRST).any() and (owners >= FIRST).any()
    for chosen in both:
        assert torch.equal(chosen, alone)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("size", [1, 40])
@pytest.mark.parametrize("exact", [True, False])
def test_two_processes_have_the_contrastive_term_of_one(processes, exact, size, distance):
    alone, first, second = (found["contrast", distance, size, exact] for found in processes)
    for x, y, z in zip(alone, first, second):
        assert torch.equal(y, z)
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    program(Path(sys.argv[1]))
    dist.destroy_process_group()
