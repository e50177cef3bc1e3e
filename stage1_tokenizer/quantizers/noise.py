"""Noise that belongs to a feature, not to the process that holds it, and the Gumbel-softmax draw made from it.

Every number is a hash of (seed, row of the whole batch, column): two processes with half of the rows each draw
exactly what one process draws with all of them, and parts of a batch can be drawn again in the backward pass.
The hash is the finaliser of "Fast Splittable Pseudorandom Number Generators" (Steele et al., 2014), on 64-bit integers
that wrap around. The draw is that of "Categorical Reparameterization with Gumbel-Softmax" (Jang et al., 2017):

    y = softmax((l + g) / tau),   g = -log(-log u),   argmax y distributed as softmax(l)           (Eq. 1 and 2)
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from twostage.training.distributed import rank, row_counts, shared_seed

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
"""The generator's odd step from one counter to the next, as a signed number."""

WORKSPACE = 2**22
"""Probabilities of which all that leads to them is held at a time; a table of them takes 16 MiB in float32."""

BITS = 52
"""Of the hash's 64 bits, those that make the number: with a half added they still fit float64."""

RowFunction = Callable[[Tensor, int], tuple[Tensor, ...]]


def uniform(seed: int, first_row: int, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Independent draws from U(0, 1), never 0 or 1, finer towards 0 in float32.

    Args:
        seed: of the step, 0..2^63 - 1; the same on every process (`shared_seed`).
        first_row: where in the whole batch the first of these rows stands.
        rows, columns: how many.
        dtype: float32 or float64.

    Returns:
        [rows, columns].
    """
    bits = _hash(torch.arange(first_row, first_row + rows, device=device).mul_(GOLDEN).add_(seed))
    bits = _hash(bits[:, None] + torch.arange(1, columns + 1, device=device).mul_(GOLDEN))
    unit = _shift(bits, 64 - BITS).to(dtype).add_(0.5).mul_(2.0**-BITS)
    return unit.clamp_(max=1 - torch.finfo(dtype).eps / 2)


def _hash(x: Tensor) -> Tensor:
    """Scramble int64 numbers in place, one to one."""
    x.bitwise_xor_(_shift(x, 30)).mul_(0xBF58476D1CE4E5B9 - 2**64)
    x.bitwise_xor_(_shift(x, 27)).mul_(0x94D049BB133111EB - 2**64)
    return x.bitwise_xor_(_shift(x, 31))


def _shift(x: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in; the operator would bring the sign in."""
    return (x >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def gumbel(seed: int, first_row: int, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard Gumbel noise, [rows, columns]; arguments as for `uniform`."""
    # 1 - u for u: what wins is large noise, which then comes from the end where the numbers are fine.
    u = uniform(seed, first_row, rows, columns, dtype=dtype, device=device)
    return u.neg_().log1p_().neg_().log_().neg_()


def gumbel_softmax(
    rows: Tensor, logits: Callable[[Tensor], Tensor], table: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one of K codes for every row. Waits for all processes: in training only.

    Args:
        rows: [n, d], this process's rows of the batch.
        logits: rows [m, d] -> [m, K].
        table: [K, d].
        temperature: tau, a scalar.

    Returns:
        codes: int64 [n], exact draws from softmax(l).
        mixtures: [n, d], y table, the relaxed draws.
        entropy: [n], of softmax(l), in nats.
    """
    seed, first = shared_seed(rows.device), sum(row_counts(rows)[: rank()])

    def draw(part: Tensor, start: int) -> tuple[Tensor, ...]:
        scores = logits(part)
        noise = gumbel(seed, first + start, *scores.shape, dtype=scores.dtype, device=scores.device)
        noisy = noise.add_(scores)
        return noisy.argmax(1), (noisy / temperature).softmax(1) @ table, entropy(scores)

    codes, mixtures, entropies = by_rows(draw, rows, len(table))
    return codes, mixtures, entropies


def by_rows(function: RowFunction, rows: Tensor, width: int) -> tuple[Tensor, ...]:
    """What `function` gives for all rows, without ever holding `width` numbers for every one of them.

    Args:
        function: a part of the rows and the index of its first row -> tensors with as many rows. Called again in
            the backward pass if there is more than one part, so it must give the same twice.
        rows: [n, d].
        width: numbers that it holds per row.
    """
    chunk = max(1, WORKSPACE // width)
    if len(rows) <= chunk:
        return function(rows, 0)
    again = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    return tuple(map(torch.cat, zip(*(again(part, i * chunk) for i, part in enumerate(rows.split(chunk))))))


def entropy(logits: Tensor) -> Tensor:
    """Of softmax(logits), in nats: [n, K] -> [n] in 0..log K."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def annealed(step: int, decay: float, floor: float) -> float:
    """The temperature exp(-decay step), which starts at 1 and falls to `floor`."""
    return max(math.exp(-decay * step), floor)
