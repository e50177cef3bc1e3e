"""What the quantisers with resets share. This file is also the program that two processes run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from stage1_tokenizer.quantizers.ema import EMA
from stage1_tokenizer.quantizers.hard_reset import HardReset
from stage1_tokenizer.quantizers.hvq import HVQ
from stage1_tokenizer.quantizers.reset import deviation
from stage1_tokenizer.quantizers.vq import VQ

ROOT = Path(__file__).resolve().parents[2]
KINDS = pytest.mark.parametrize("kind", [HVQ, HardReset])


def far_away(kind, **options):
    """64 codes of which 63 are where no feature ever is."""
    torch.manual_seed(0)
    quantizer = kind(64, 4, **options)
    quantizer.codebook.data[1:] = -100 + 0.01 * torch.randn(63, 4)
    return quantizer


def usage_after_training(quantizer, steps):
    descent = torch.optim.Adam(quantizer.parameters(), lr=0.01)
    for _ in range(steps):
        output = quantizer(torch.randn(4, 4, 16, 16) + 1)
        descent.zero_grad()
        output.loss.backward()
        descent.step()
    return output.metrics["usage"].item()


@KINDS
def test_dead_codes_are_revived(kind):
    assert usage_after_training(far_away(kind, decay=0.9), 150) > 0.9


def test_without_resets_dead_codes_stay_dead():
    assert usage_after_training(far_away(VQ), 150) == 1 / 64
    assert usage_after_training(far_away(HVQ, threshold=0.0), 150) == 1 / 64


@KINDS
def test_codes_in_use_do_not_move_and_starved_ones_do(kind):
    """Codes on a line; feature x goes to code x. Code 2 wins one feature in 100, and 1/100 is not below 0.1 / 6."""
    torch.manual_seed(0)
    quantizer = kind(6, 1, decay=0.9)
    quantizer.codebook.data.copy_(torch.arange(6.0)[:, None])
    before = quantizer.codebook.detach().clone()
    z = torch.tensor([0.0] * 48 + [1.0] * 48 + [2.0] * 4).reshape(1, 1, 10, 10)
    moved = []
    for step in range(22):
        quantizer.codebook.data.copy_(before)
        quantizer(z)
        moved += [(step, code) for code in torch.nonzero(quantizer.codebook[:, 0] != before[:, 0]).flatten().tolist()]
    assert moved == [(21, 3), (21, 4), (21, 5)]  # 0.9^22 < 0.1 < 0.9^21


@KINDS
def test_usage_is_a_running_mean_and_starts_anew_at_a_reset(kind):
    torch.manual_seed(0)
    quantizer = kind(5, 2, decay=0.6).double()
    quantizer.codebook.data.normal_()
    expected, resets = torch.full((5,), 0.2, dtype=torch.float64), 0
    for _ in range(12):
        codes = quantizer(torch.randn(1, 2, 2, 3, dtype=torch.float64)).codes.flatten().tolist()
        for k in range(5):
            expected[k] = 0.6 * expected[k] + 0.4 * codes.count(k) / 6
            if expected[k] < 0.02:
                expected[k], resets = 0.2, resets + 1
        torch.testing.assert_close(quantizer.average_usage, expected, rtol=1e-6, atol=0)
    assert resets > 0


@KINDS
def test_the_threshold_decides(kind):
    for threshold, moves in [(0.3, True), (0.2, False)]:  # a code that wins nothing has 0.25 of an average usage left
        quantizer = far_away(kind, decay=0.25, threshold=threshold)
        before = quantizer.codebook.detach().clone()
        quantizer(torch.randn(1, 4, 8, 8))
        assert torch.equal(quantizer.codebook[0], before[0])
        assert (quantizer.codebook[1:] != before[1:]).any(1).all().item() == moves


@KINDS
def test_nothing_random_is_drawn_while_nothing_starves(kind):
    quantizer = far_away(kind)
    state = torch.get_rng_state()
    quantizer(torch.zeros(1, 4, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)


@KINDS
def test_the_backward_pass_of_a_step_with_resets_is_that_of_vq(kind):
    z = torch.randn(1, 4, 8, 8) - 50
    gradients = []
    for quantizer in (far_away(kind, decay=0.0), far_away(VQ)):
        quantizer(z).loss.backward()
        gradients.append(quantizer.codebook.grad)
    assert gradients[0].norm() > 0
    assert torch.equal(*gradients)


def test_deviation_is_per_dimension():
    torch.manual_seed(0)
    features = torch.randn(50, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1]) + 1000
    expected = features.std(0, unbiased=False)
    torch.testing.assert_close(deviation(features, torch.tensor(50)), expected, rtol=1e-12, atol=0)


def program(folder, rank, world):
    """Process `rank` of `world` sees its part of every batch and keeps what became of its codebooks."""
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    states = {}
    for kind in (HVQ, HardReset, EMA):
        torch.manual_seed(rank)
        quantizer = kind(16, 3, decay=0.5).double()
        codebook = 3 * torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
        quantizer.initialize_codebook(codebook)
        batches = torch.randn(8, 4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        for batch in batches:
            quantizer(batch if world == 1 else batch[[slice(0, 3), slice(3, 4)][rank]])
        states[kind.__name__] = {"start": codebook, **quantizer.state_dict()}
    torch.save(states, folder / f"{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    """Unequal shares of a batch, resets in them, and another random state in the second process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(tmp_path)]
    running = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
    program(tmp_path, 0, 1)
    assert [process.wait() for process in running] == [0, 0]
    one, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    for kind in one:
        assert (one[kind]["codebook"] != one[kind]["start"]).any(1).sum() > 5
        for key in one[kind]:
            assert torch.equal(first[kind][key], second[kind][key]), (kind, key)
            torch.testing.assert_close(first[kind][key], one[kind][key], rtol=1e-10, atol=1e-12)


if __name__ == "__main__":
    program(Path(sys.argv[1]), int(sys.argv[2]), 2)
