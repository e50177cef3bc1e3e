"""Features that drift because their encoder learns: "Beyond Stationarity" (2026), supplement 11.1 to 11.3.

Points x ~ N(0, I) in two dimensions are encoded as z = f(x, p), and every batch moves p by a step of SGD on
||f(x, p) - f(x, p*)||^2. From its start p thus approaches its target p* exponentially:

    translation   z = x + b             b: 0 -> b*                                                 (11.1)
    scaling       z = x A               A: I -> s I, s > 1 (expansion) or s < 1 (shrinking)        (11.2)
    split         z = x + sign(x) m     m: 0 -> m*, every quadrant its own way                     (11.3)

The supplement's constants and the law by which b and m move are not legible in the published text: they are ours.
Quantisers do not act on the encoder, so that all meet the same features.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all demonstrations and quantisers have in common.

    Attributes:
        codes: K.
        points: how many x there are; each is met once an epoch.
        batch_size: points in a step.
        epochs: passes over the points.
        encoder_rate: of SGD on p, which comes nearer to p* by twice this share in a step; 0 is no drift.
        code_rate: by what share of the way one feature moves the code that it selects.
        fresh: points never trained on, that measure.
    """

    codes: int = 32
    points: int = 1024
    batch_size: int = 64
    epochs: int = 80
    encoder_rate: float = 0.005
    code_rate: float = 0.03
    fresh: int = 8192

    @property
    def epoch_steps(self) -> int:
        """Steps in an epoch."""
        return -(-self.points // self.batch_size)


@dataclass(frozen=True)
class Drift:
    """An encoder and where learning takes it.

    Attributes:
        encode: points [n, 2] and p -> features [n, 2].
        start, target: p before the first step, and p*.
    """

    encode: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    target: Tensor


def translate(x: Tensor, b: Tensor) -> Tensor:
    """x + b; b [2]."""
    return x + b


def scale(x: Tensor, a: Tensor) -> Tensor:
    """x A; A [2, 2]."""
    return x @ a


def split(x: Tensor, m: Tensor) -> Tensor:
    """x + sign(x) m; m [2]."""
    return x + x.sign() * m


DRIFTS: Mapping[str, Drift] = {
    "translation": Drift(translate, torch.zeros(2), torch.tensor([6.0, 3.0])),
    "expansion": Drift(scale, torch.eye(2), 3 * torch.eye(2)),
    "shrinking": Drift(scale, torch.eye(2), torch.eye(2) / 3),
    "split": Drift(split, torch.zeros(2), torch.tensor([3.0, 3.0])),
}


@dataclass(frozen=True)
class Stream:
    """The features that every quantiser meets in one demonstration.

    Attributes:
        drift: the encoder.
        parameters: p before each step and after the last, [steps + 1, ...].
        points: x, [points, 2].
        fresh: points that nothing learns from, [fresh, 2].
        order: which points are in the batch of each step; the last one of an epoch may be smaller.
    """

    drift: Drift
    parameters: Tensor
    points: Tensor
    fresh: Tensor
    order: list[Tensor]

    def batch(self, step: int) -> Tensor:
        """The features of a step, [b, 2]."""
        return self.drift.encode(self.points[self.order[step]], self.parameters[step])

    def cloud(self, step: int) -> Tensor:
        """All points as the encoder before this step sees them, [points, 2]."""
        return self.drift.encode(self.points, self.parameters[step])

    def remaining(self) -> Tensor:
        """The share of the way that p has yet to go, [steps + 1]."""
        left = (self.parameters - self.drift.target).flatten(1).norm(dim=1)
        return left / left[0]

    def unseen(self, step: int) -> Tensor:
        """The fresh points as the encoder before this step sees them, [fresh, 2]."""
        return self.drift.encode(self.fresh, self.parameters[step])


def drifting(drift: Drift, settings: Settings, seed: int) -> Stream:
    """Let the encoder learn and keep what it was before every step; the seed decides points and batches."""
    generator = torch.Generator().manual_seed(seed)
    points, fresh = (torch.randn(n, 2, generator=generator) for n in (settings.points, settings.fresh))
    order = list(batches(settings, generator))
    p = nn.Parameter(drift.start.clone())
    optimizer = torch.optim.SGD([p], lr=settings.encoder_rate)
    parameters = [drift.start]
    for chosen in order:
        x = points[chosen]
        optimizer.zero_grad()
        (drift.encode(x, p) - drift.encode(x, drift.target)).square().sum(1).mean().backward()
        optimizer.step()
        parameters.append(p.detach().clone())
    return Stream(drift, torch.stack(parameters), points, fresh, order)


def batches(settings: Settings, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of points, int64 [b], step by step: every epoch a new order."""
    for _ in range(settings.epochs):
        yield from torch.randperm(settings.points, generator=generator).split(settings.batch_size)
