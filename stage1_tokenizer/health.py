"""A codebook's health while it trains: what was in use since the last line of the log, how far codes moved, an alarm.

The window is all training steps since the last line. One batch says little of a codebook with as many codes as the
batch has features; over a window, codes without a single feature are dead.
"""

import torch
from torch import Tensor, nn

from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.quantizers.base import Quantizer
from twostage.metrics.codebook import perplexity, usage
from twostage.training.task import LogLine

FEATURES_PER_ENTRY = 5
"""A window with fewer features raises no alarm: with 5, even use leaves out exp(-5), less than a hundredth."""

GRACE = 500
"""Batches before an alarm: from a cold start even a codebook that will be in full use needs some hundreds."""

LOW = 0.25
"""Usage below this is a collapse."""

FALLEN = 0.5
"""So is usage below this share of the best window's after the grace."""

RECOVERED = 1.2
"""An alarm is over, and the next one possible, when usage is so many times what raised it."""

REMEDIES = ("cvq", "nsvq", "transvq", "simvq")
"""Quantisers that keep their codes in use."""


class CodebookHealth(nn.Module):
    """Counts every training batch; asked at every line of the log, it tells of the window and begins the next.

    Its state is the same on every process, and belongs in the checkpoint: a resumed run logs and warns as an
    uninterrupted one.

    Args:
        quantizer: whose codebook is watched.
        advice: what a warning recommends.
    """

    counts: Tensor
    codebook: Tensor
    batches: Tensor
    best: Tensor
    alarmed: Tensor

    def __init__(self, quantizer: Quantizer, advice: str) -> None:
        super().__init__()
        self.advice = advice
        self.register_buffer("counts", torch.zeros(quantizer.entries, dtype=torch.int64))
        self.register_buffer("codebook", entries(quantizer))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("best", torch.zeros(()))
        self.register_buffer("alarmed", torch.tensor(False))

    def count(self, quantizer: Quantizer, codes: Tensor) -> None:
        """Add a batch's codes to the window, those of all processes: call it on each, in training mode."""
        self.counts += quantizer.count(codes)
        self.batches += 1

    def log_line(self, quantizer: Quantizer, step: int) -> LogLine:
        """The window that ends with `step`, and the start of the next one; nothing when no code was used in it.

        Scalars:
            window_usage: share of the codebook's entries with a feature.
            window_perplexity: of the entries' counts, in 1..entries.
            dead_codes: how many entries have none.
            codebook_moved: mean distance between an entry now and at the last line (or since `follow`), over the
                entries' mean length.
        """
        if not self.counts.any():
            return LogLine()
        now, used = entries(quantizer), usage(self.counts)
        length = now.norm(dim=1).mean().clamp(min=torch.finfo(now.dtype).eps)
        line = LogLine(
            scalars={
                "window_usage": used.item(),
                "window_perplexity": perplexity(self.counts).item(),
                "dead_codes": int((self.counts == 0).sum()),
                "codebook_moved": ((now - self.codebook).norm(dim=1).mean() / length).item(),
            },
            warnings=[self.warning(step)] if self.alarm(used) else [],
        )
        self.counts.zero_()
        self.codebook.copy_(now)
        return line

    def follow(self, quantizer: Quantizer) -> None:
        """The codebook was set anew: measure how far it moves from here on."""
        self.codebook.copy_(entries(quantizer))

    def alarm(self, used: Tensor) -> bool:
        """Whether a collapse begins with this window; one that goes on raises no second alarm."""
        if self.batches < GRACE or self.counts.sum() < FEATURES_PER_ENTRY * len(self.counts):
            return False
        self.best.copy_(torch.maximum(self.best, used))
        floor = (self.best * FALLEN).clamp(min=LOW)
        before = bool(self.alarmed)
        self.alarmed.copy_(used < (floor * RECOVERED if before else floor))
        return bool(self.alarmed) and not before

    def warning(self, step: int) -> str:
        used, size, best = int((self.counts > 0).sum()), len(self.counts), self.best.item()
        before = f", after {best:.1%} at best" if round(best * size) > used else ""
        return (
            f"step {step}: the codebook collapses: {used} of {size} codes ({used / size:.1%}) in use since the last "
            f"line of the log{before}; try {self.advice}"
        )


@torch.no_grad()
def entries(quantizer: Quantizer) -> Tensor:
    """A copy of the codebook's vectors in rows, [entries, d], of several codebooks one after the other."""
    return quantizer.codebook.detach().flatten(0, -2).clone()


def advice(quantizer: str, *, warm_start: bool) -> str:
    """What helps against a collapse.

    Args:
        quantizer: the name of the one that collapses.
        warm_start: the run already begins with one.
    """
    others = ", ".join(name for name in REMEDIES if name in QUANTIZERS and name != quantizer)
    remedies = [f"a quantizer that keeps its codes in use ({others})", "a smaller optimizer.learning_rate"]
    if QUANTIZERS[quantizer].learns_codebook and not warm_start:
        remedies.insert(0, "a warm_start")
    return ", ".join(remedies) + " or a smaller quantizer.codebook_size"
