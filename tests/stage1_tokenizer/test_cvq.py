"""CVQ's updates against a literal transcription of the paper's equations, and that they revive dead codes."""

import copy
import math

import pytest
import torch

from stage1_tokenizer.quantizers.base import forget_moved
from stage1_tokenizer.quantizers.cvq import CVQ
from stage1_tokenizer.quantizers.residual import Residual

K, D, GAMMA, EPS = 12, 5, 0.9, 1e-3


def features_of(z):
    return [z[b, :, i, j] for b in range(z.shape[0]) for i in range(z.shape[2]) for j in range(z.shape[3])]


def near(a, b, distance):
    if distance == "l2":
        return -sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist()))
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist()))
    return dot / math.sqrt(sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist()))


def literal_update(codebook, usage, features, distance):
    """Eq. 4-6 of the paper with `closest` anchors, code by code."""
    wins = [0] * K
    for feature in features:
        wins[max(range(K), key=lambda k: near(feature, codebook[k], distance))] += 1
    new_codebook, new_usage = codebook.clone(), usage.clone()
    for k in range(K):
        new_usage[k] = usage[k] * GAMMA + wins[k] / len(features) * (1 - GAMMA)
        alpha = math.exp(-float(new_usage[k]) * K * 10 / (1 - GAMMA) - EPS)
        anchor = max(features, key=lambda f: near(f, codebook[k], distance))
        new_codebook[k] = codebook[k] * (1 - alpha) + anchor * alpha
    return new_codebook, new_usage


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_updates_are_equations_4_to_6(distance):
    torch.manual_seed(0)
    quantizer = CVQ(K, D, distance=distance, anchor="closest", contrastive_weight=0.0, decay=GAMMA).double()
    quantizer.codebook.data.normal_()
    for _ in range(3):
        z = torch.randn(2, D, 3, 3, dtype=torch.float64)
        codebook, usage = literal_update(
            quantizer.codebook.detach().clone(), quantizer.average_usage.clone(), features_of(z), distance
        )
        quantizer(z)
        torch.testing.assert_close(quantizer.codebook.detach(), codebook, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(quantizer.average_usage, usage, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(
    ("anchor", "distance", "reached"),
    [
        ("random", "l2", 0.95),
        ("unique", "cosine", 0.95),
        ("probability", "cosine", 0.95),
        ("closest", "cosine", 0.5),  # dead codes that lie together go together: a few revive per step
    ],
)
def test_every_anchor_rule_revives_dead_codes(anchor, distance, reached):
    torch.manual_seed(0)
    quantizer = CVQ(64, 4, distance=distance, anchor=anchor, contrastive_weight=0.0, decay=0.9)
    quantizer.codebook.data[1:] = -100 * torch.ones(4)
    quantizer.codebook.data[1:] += 0.01 * torch.randn(63, 4)
    for _ in range(100):
        usage = quantizer(torch.randn(4, 4, 16, 16) + 1).metrics["usage"].item()
    assert usage > reached


def test_offline_clusters_in_the_first_step_only_but_goes_on_counting():
    torch.manual_seed(0)
    quantizer = CVQ(8, 2, update="offline", contrastive_weight=0.0)
    quantizer(torch.randn(2, 2, 4, 4))
    codebook, usage = quantizer.codebook.detach().clone(), quantizer.average_usage.clone()
    quantizer(torch.randn(2, 2, 4, 4))
    assert torch.equal(quantizer.codebook, codebook)
    assert not torch.equal(quantizer.average_usage, usage)


@pytest.mark.parametrize("moments", ["kept", "reset"])
def test_the_optimiser_forgets_codes_that_were_moved(moments):
    torch.manual_seed(0)
    quantizer = CVQ(6, 2, anchor="closest", contrastive_weight=0.0, moments=moments, decay=0.99)
    optimizer = torch.optim.AdamW(quantizer.parameters())
    state = optimizer.state[quantizer.codebook]
    state |= {name: torch.rand(6, 2) for name in ("exp_avg", "exp_avg_sq")} | {"step": torch.tensor(7.0)}
    before, left = copy.deepcopy(state), torch.ones(6)
    for _ in range(2):  # two micro-batches
        quantizer(torch.randn(4, 2, 4, 4))
        if moments == "reset":
            left *= torch.exp(-quantizer.average_usage * 6 * 10 / 0.01 - 1e-3) <= 1e-3
    assert torch.equal(state["exp_avg"], before["exp_avg"])
    for _ in range(2):  # the second time no code has moved since
        forget_moved(quantizer, optimizer)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state[name], before[name] * left[:, None])
    assert state["step"] == 7
    assert left.sum() == {"kept": 6, "reset": 3}[moments]


def test_codes_within_another_quantiser_too():
    residual = Residual(6, 2, inner={"name": "cvq", "moments": "reset"})
    residual(torch.randn(2, 2, 4, 4))
    parts = [part for part in residual.modules() if isinstance(part, CVQ)]
    assert parts
    assert all(part.unmoved is not None for part in parts)
    forget_moved(residual, torch.optim.AdamW(residual.parameters()))
    assert all(part.unmoved is None for part in parts)
