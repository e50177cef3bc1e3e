"""The package's own quantisers after drifting features, and what is left of their codebooks.

Every quantiser starts at the same k-means of the features before they drift, as the paper's theory supposes, and is
trained through its ordinary forward on the same batches. With no decoder behind it, its loss is all that moves it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from tqdm import tqdm

from pipelines.toys.drift import Settings, Stream
from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.quantizers.base import Quantizer
from stage1_tokenizer.quantizers.kmeans import kmeans
from stage1_tokenizer.quantizers.nearest import nearest

KMEANS_STARTS = 10
"""Lloyd's algorithm stops in local minima; the best of so many is the yardstick."""


@dataclass(frozen=True)
class Contestant:
    """A quantiser of the registry and how it learns.

    Attributes:
        title: what it is called in tables and pictures.
        options: of the quantiser, besides codebook_size and dim.
        optimizer: its name and learning rate; None for a quantiser without gradients.
    """

    title: str
    options: Mapping[str, Any]
    optimizer: tuple[str, float] | None


def contestants(settings: Settings) -> dict[str, Contestant]:
    """EMA, VQ and NS-VQ at one speed, TransVQ with the paper's Adam; all options not named are their defaults.

    The loss is a mean over the batch and two dimensions, so that SGD at code_rate x batch_size is the online rule
    c_j <- c_j + code_rate w_ij (z_i - c_j) (Eq. 3, 16), summed over the batch. A running mean is as fast for a code
    that wins its K-th share of the batch with 1 - gamma = code_rate x batch_size / K.
    """
    speed = settings.code_rate * settings.batch_size
    sgd = ("SGD", speed)
    return {
        "ema": Contestant("EMA", {"decay": round(1 - speed / settings.codes, 6)}, None),
        "vq": Contestant("VQ", {}, sgd),
        "nsvq": Contestant("NS-VQ", {}, sgd),
        "transvq": Contestant("TransVQ", {}, ("Adam", 5e-4)),
    }


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"SGD": SGD, "Adam": Adam}


@dataclass(frozen=True)
class Trace:
    """What became of one quantiser in one demonstration, before every epoch and after the last.

    Attributes:
        steps: when, of length t.
        codes: float32 [t, K, 2].
        used: which codes are nearest to at least one fresh feature, bool [t, K].
        distortion: mean squared distance of fresh features to their codes, [t].
    """

    steps: list[int]
    codes: Tensor
    used: Tensor
    distortion: Tensor

    @property
    def usage(self) -> Tensor:
        """The share of codes in use, [t]."""
        return self.used.float().mean(1)


def follow(name: str, contestant: Contestant, stream: Stream, settings: Settings, seed: int) -> Trace:
    """Train one quantiser on a stream; the seed decides its k-means and, of a mapped codebook, the map's weights."""
    quantizer = build(name, contestant, settings, seed)
    quantizer.start_codebook(stream.cloud(0), torch.Generator().manual_seed(seed))
    optimizer = None
    if contestant.optimizer is not None:
        kind, rate = contestant.optimizer
        optimizer = OPTIMIZERS[kind](quantizer.parameters(), lr=rate)
    steps, seen = [], []
    for step in range(len(stream.order)):
        epoch = step // settings.epoch_steps
        if step % settings.epoch_steps == 0:
            steps.append(step)
            seen.append(observe(quantizer, stream.unseen(step)))
        quantizer.set_progress(step, epoch)
        learn(quantizer, optimizer, stream.batch(step))
    steps.append(len(stream.order))
    seen.append(observe(quantizer, stream.unseen(len(stream.order))))
    codes, used, distortion = map(torch.stack, zip(*seen))
    return Trace(steps, codes, used, distortion)


def build(name: str, contestant: Contestant, settings: Settings, seed: int) -> Quantizer:
    """The registered quantiser in training mode; the process's own random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QUANTIZERS.build({"name": name, "codebook_size": settings.codes, "dim": 2, **contestant.options})


def learn(quantizer: Quantizer, optimizer: Optimizer | None, features: Tensor) -> None:
    """One training step on features [b, 2], which the quantiser sees as [b, 2, 1, 1]."""
    output = quantizer(features[:, :, None, None])
    if optimizer is not None:
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()


def observe(quantizer: Quantizer, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The codes [K, 2], which of them features [n, 2] select, bool [K], and the distortion, a scalar."""
    codes = quantizer.codebook.detach().clone()
    counts, distortion = assess(features, codes)
    return codes, counts > 0, distortion


def assess(features: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the features [n, 2] select each of the codes [K, 2], int64 [K], and their mean squared distance."""
    chosen = nearest(features, codes, "l2")
    return torch.bincount(chosen, minlength=len(codes)), (features - codes[chosen]).square().sum(1).mean()


def kmeans_distortion(stream: Stream, settings: Settings, seed: int) -> float:
    """Of fresh features after the drift, to k-means of the training points there."""
    final, generator = stream.cloud(-1), torch.Generator().manual_seed(seed)
    tries = [kmeans(final, settings.codes, generator=generator) for _ in range(KMEANS_STARTS)]
    best = min(tries, key=lambda centroids: assess(final, centroids)[1].item())
    return assess(stream.unseen(-1), best)[1].item()


def follow_all(streams: Mapping[str, Stream], settings: Settings, seed: int) -> dict[str, dict[str, Trace]]:
    """Every quantiser on every stream: demonstration -> quantiser -> trace."""
    entered = contestants(settings)
    traces: dict[str, dict[str, Trace]] = {demo: {} for demo in streams}
    with tqdm(total=len(streams) * len(entered), desc="quantisers", unit="run", dynamic_ncols=True) as bar:
        for demo, stream in streams.items():
            for name, contestant in entered.items():
                bar.set_postfix_str(f"{contestant.title}, {demo}")
                traces[demo][name] = follow(name, contestant, stream, settings, seed)
                bar.update()
    return traces
