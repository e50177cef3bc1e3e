"""Tokens per second of an autoregressive transformer: the pipeline's loop beside transformers', on the same weights.

    python benchmarks/sampling.py [--quick] [--threads 2] [--busy] [--output results.json]

The ways take turns, and of each its fastest run counts: what else the machine does slows all of them, but not in the
same turn. On a machine that is never idle, `--busy` counts the processor's time on one thread in place of the wall
clock's. For every token, weights, keys and values have to be read: `of which read` is the time in which the machine
sums as many bytes. On a CUDA device, LlamaGen's smallest network is timed too.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from timing import Row, Step, Watch, run
from torch import Tensor
from transformers import DynamicCache

from stage2_transformer.backbones import BACKBONES
from stage2_transformer.decoding import Compiled
from stage2_transformer.guidance import Guidance
from stage2_transformer.prior import TransformerPrior
from stage2_transformer.sampling import Sampling, sample_codes
from twostage.training.loop import COMPILERS

COMPILER = any(map(shutil.which, COMPILERS))
EVERY = 16
"""Without a cache only every so many codes are timed, and counted so many times."""


@dataclass(frozen=True)
class Case:
    """What is sampled.

    Attributes:
        options: of a backbone of `BACKBONES`.
        side: of the square of codes.
    """

    options: dict[str, Any]
    codebook_size: int
    side: int
    batch: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def n(self) -> int:
        return self.side**2

    def prior(self) -> TransformerPrior:
        options = BACKBONES.resolve(self.options, "prior")
        prior = TransformerPrior(options, self.codebook_size, [self.side, self.side], num_classes=10).eval()
        prior.backbone.to(self.device, self.dtype)
        return prior

    def bytes(self, prior: TransformerPrior, rows: int) -> int:
        """Read for one code, on average: the weights, and half of the keys and values that there will be."""
        weights = sum(weight.numel() for weight in prior.parameters())
        weights -= prior.backbone.get_input_embeddings().weight.numel()
        cache = 2 * self.options["layers"] * rows * self.n * self.options["width"]
        return (weights + cache // 2) * self.dtype.itemsize


LLAMA = {"name": "llama", "dropout": 0.0}
CASES = {
    "6 layers x 384, 256 codes of 1,024, 16 images": Case(
        {**LLAMA, "layers": 6, "heads": 6, "width": 384}, codebook_size=1024, side=16, batch=16
    ),
    "as in the quickstart: 3 layers x 128, 64 codes of 64, 100 images": Case(
        {"name": "gpt2", "dropout": 0.0, "layers": 3, "heads": 4, "width": 128}, codebook_size=64, side=8, batch=100
    ),
}
LLAMAGEN_B = {**LLAMA, "layers": 12, "heads": 12, "width": 768, "feed_forward": 2048}
ON_CUDA = {
    f"LlamaGen-B, {side * side} codes of 16,384, {batch} images, bf16": Case(
        LLAMAGEN_B, codebook_size=16384, side=side, batch=batch, dtype=torch.bfloat16, device="cuda"
    )
    for side in (16, 32)
    for batch in (1, 8, 64)
}


def ours(case: Case, prior: TransformerPrior, scale: float, **options: Any) -> Tensor:
    """What the pipeline does."""
    labels = torch.arange(case.batch, device=case.device) % 10
    generators = [torch.Generator().manual_seed(i) for i in range(case.batch)]
    return sample_codes(prior, labels, Sampling(guidance=Guidance(scale=scale)), generators, **options)


def start(case: Case, prior: TransformerPrior) -> tuple[Tensor, Tensor]:
    """Class tokens [b, 1], and as many that mean "no class"."""
    labels = torch.arange(case.batch, device=case.device) % 10
    return prior.class_tokens(labels), prior.class_tokens(torch.full_like(labels, prior.null_class))


@torch.no_grad()
def bare_loop(case: Case, prior: TransformerPrior, scale: float) -> Tensor:
    """The shortest loop over transformers' model and its default cache; the codes of both classes in one batch."""
    tokens, cache = torch.cat(start(case, prior)[: 2 if scale != 1 else 1]), DynamicCache()
    for _ in range(case.n):
        logits = prior.backbone(input_ids=tokens, past_key_values=cache, use_cache=True).logits[:, -1]
        tokens = drawn(logits, scale)
    return tokens


def drawn(logits: Tensor, scale: float) -> Tensor:
    """Next tokens, for every row: [b, 1], with guidance [2 b, 1]."""
    if scale == 1:
        return logits.softmax(-1).multinomial(1)
    conditional, unconditional = logits.chunk(2)
    return (unconditional + scale * (conditional - unconditional)).softmax(-1).multinomial(1).repeat(2, 1)


@torch.no_grad()
def generate(case: Case, prior: TransformerPrior, scale: float) -> Tensor:
    """transformers' own, with its default cache."""
    tokens, none = start(case, prior)
    options: dict[str, Any] = {"attention_mask": torch.ones_like(tokens), "do_sample": True, "top_k": 0}
    if scale != 1:
        options |= {"guidance_scale": scale, "negative_prompt_ids": none}
    found: Tensor = prior.backbone.generate(tokens, max_new_tokens=case.n, **options)
    return found


@torch.no_grad()
def no_cache(case: Case, prior: TransformerPrior, scale: float) -> Tensor:
    """The whole sequence through the network for a code, for one code of `EVERY`."""
    first = torch.cat(start(case, prior)[: 2 if scale != 1 else 1])
    tokens = first
    for i in range(EVERY // 2, case.n, EVERY):
        sequence = torch.cat([first, torch.zeros_like(first).expand(-1, i)], dim=1)
        tokens = drawn(prior.backbone(input_ids=sequence, use_cache=False).logits[:, -1], scale)
    return tokens


def ways(case: Case, prior: TransformerPrior, scale: float) -> dict[str, Step]:
    given: dict[str, Callable[..., Tensor]] = {"the pipeline": ours}
    if COMPILER:
        given["the pipeline, compiled"] = partial(ours, make_decoder=Compiled())
    given |= {"loop over transformers' model": bare_loop, "transformers' generate": generate}
    if case.device == "cpu":
        given["without a cache"] = no_cache
    return {name: partial(finished, partial(way, case, prior, scale)) for name, way in given.items()}


def finished(step: Callable[[], Tensor]) -> Tensor:
    """Wait for what was computed on a GPU."""
    return step().cpu()


def compare(case: Case, watch: Watch) -> list[Row]:
    """Every way, without guidance and with it."""
    prior, rows = case.prior(), []
    memory = torch.ones(2**28 // 4, device=case.device)
    reading: Step = partial(finished, memory.sum)
    for guidance, scale in (("no", 1.0), ("yes", 2.0)):
        times = watch.fastest({**ways(case, prior, scale), "read": reading})
        per_byte = times.pop("read") / memory.nbytes
        if "without a cache" in times:
            times["without a cache"] *= EVERY
        read = case.n * per_byte * case.bytes(prior, case.batch * (1 if scale == 1 else 2))
        for way, taken in times.items():
            tokens, peer = 1000 * case.batch * case.n / taken, times["transformers' generate"] / taken
            row = {"guidance": guidance, "way": way, "tokens/s": tokens, "times generate": peer}
            rows.append({**row, "ms a token of all": taken / case.n, "of which read": read / case.n})
    return rows


def measure(watch: Watch, console: Console) -> dict[str, list[Row]]:
    if not COMPILER:
        console.print(f"no C++ compiler ({', '.join(COMPILERS)}): nothing is compiled")
    cases = CASES | (ON_CUDA if torch.cuda.is_available() else {})
    return {title: compare(case, watch) for title, case in track(cases.items(), "sampling", console=console)}


if __name__ == "__main__":
    run(__doc__, measure, repetitions=3, transformers=metadata.version("transformers"))
