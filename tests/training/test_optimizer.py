import pytest
import torch
from torch import nn

from twostage.config import OptimizerConfig
from twostage.training.optimizer import adamw


class Parts(nn.Module):
    """One of each kind of parameter; the last layer shares the table's rows, and one layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.linear, self.norm, self.kernel = nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv2d(4, 4, 3)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.last = nn.Linear(4, 5, bias=False)
        self.last.weight = self.table.weight
        for parameter in self.parameters():
            parameter.data.fill_(2.0)


def after_a_step(weight_decay: float) -> dict[str, float]:
    """A step without gradient, which only decays: the value of each parameter, of 2 before."""
    parts = Parts()
    descent = adamw(parts, OptimizerConfig(learning_rate=0.1, weight_decay=weight_decay))
    sum(p.sum() * 0 for p in parts.parameters() if p.requires_grad).backward()
    descent.step()
    return {name: p.mean().item() for name, p in parts.named_parameters()}


def test_matrices_and_kernels_decay_and_nothing_else() -> None:
    values = after_a_step(0.5)
    decayed = {name for name, value in values.items() if value != 2.0}
    assert decayed == {"linear.weight", "kernel.weight"}
    assert all(values[name] == pytest.approx(2 * (1 - 0.1 * 0.5)) for name in decayed)


def test_without_decay_nothing_decays() -> None:
    assert set(after_a_step(0.0).values()) == {2.0}


def test_without_decay_it_is_adam_of_all_parameters() -> None:
    ours, theirs = Parts(), Parts()
    descents = [adamw(ours, OptimizerConfig(learning_rate=0.1, betas=[0.8, 0.9]))]
    descents.append(torch.optim.Adam((p for p in theirs.parameters() if p.requires_grad), lr=0.1, betas=(0.8, 0.9)))
    for parts, descent in zip((ours, theirs), descents):
        for step in range(3):
            for i, parameter in enumerate(parts.parameters()):
                parameter.grad = torch.full_like(parameter, (step - 1.0) * (i + 1))
            descent.step()
    for mine, expected in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(mine, expected)
