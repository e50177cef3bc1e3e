"""Decoding: from the tokens so far to the logits of the next code, with every token through the network once.

A decoder is called with longer and longer sequences, and keeps the keys and values of what it has seen. Rows that it
was not asked for in a while catch up, all their tokens in one pass: those without a class, say, of which guidance that
begins in the middle of an image has no use before.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from stage2_transformer.blocks import GPT2, Llama, Place
from stage2_transformer.linear import Linear, fastest
from stage2_transformer.prior import TransformerPrior

NETWORKS = {"LlamaForCausalLM": Llama, "GPT2LMHeadModel": GPT2}
"""Class of a prior's backbone -> the same network for decoding."""

Decoder = Callable[[Tensor], Tensor]
"""Tokens int64 [r, m] of the first r rows, the class and m - 1 codes, fewer than all -> logits [r, K] of the next code.
What it saw of a row before must be there again."""

MakeDecoder = Callable[[TransformerPrior, int], Decoder]
"""A prior and how many rows there will be at most -> a decoder that has seen nothing."""


def decoder(prior: TransformerPrior, rows: int) -> Decoder:
    """The fastest decoder there is for this prior, as its weights are now."""
    if not is_known(prior):
        return CachedDecoder(prior)
    return FusedDecoder(prior, rows, fastest(prior.backbone.get_input_embeddings().weight))


def is_known(prior: TransformerPrior) -> bool:
    """Whether the weights of `NETWORKS` are all there is to know: no adapters, and nothing to do before a call."""
    matrices = [module for module in prior.modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
    plain = all(type(module) in (nn.Linear, nn.Embedding, Conv1D) for module in matrices)
    return type(prior.backbone).__name__ in NETWORKS and plain and not hasattr(prior, "_hf_hook")  # of offloading


class CachedDecoder:
    """Of any backbone, with the transformers library's cache."""

    def __init__(self, prior: TransformerPrior) -> None:
        self.prior, self.rows, self.cache = prior, 0, DynamicCache()

    def __call__(self, tokens: Tensor) -> Tensor:
        if len(tokens) != self.rows:
            self.rows, self.cache = len(tokens), DynamicCache()
        logits: Tensor = self.prior(tokens[:, self.cache.get_seq_length() :], self.cache)[:, -1]
        return logits


class FusedDecoder(nn.Module):
    """Of the backbones in `NETWORKS`, with memory for keys and values that is taken once. Nothing is dropped out.

    Args:
        rows: there is memory for so many sequences.
        linear: what linear layers become; those of one input become one, with a copy of their weights.
    """

    def __init__(self, prior: TransformerPrior, rows: int, linear: type[Linear]) -> None:
        super().__init__()
        weight = prior.backbone.get_output_embeddings().weight.detach()
        network = NETWORKS[type(prior.backbone).__name__]
        self.network = network(prior.backbone, linear, rows, prior.length)
        heads = weight[: prior.maps * prior.config["codebook_size"]].chunk(prior.maps)
        self.heads = nn.ModuleList(linear(head) for head in heads)
        self.positions = nn.Buffer(torch.arange(prior.length, device=weight.device))
        self.seen = [0] * rows

    def forward(self, tokens: Tensor) -> Tensor:
        rows, length = tokens.shape
        first = 0
        for seen, group in groupby(self.seen[:rows]):
            behind = slice(first, first + len(list(group)))
            if seen < length - 1:
                self.catch_up(tokens[behind, seen:-1], behind, seen)
            first = behind.stop
        self.seen[:rows] = [length] * rows
        hidden = self.step(tokens[:, -1:], self.positions[length - 1 : length], length)
        logits: Tensor = self.heads[(length - 1) % len(self.heads)](hidden[:, 0])
        return logits

    def catch_up(self, tokens: Tensor, rows: slice, seen: int) -> None:
        """Keys and values of tokens [r, m] of some rows, which have seen so many before."""
        span = seen + tokens.shape[1]
        positions = self.positions[seen:span]
        self.network(tokens, Place(rows, positions, span, positions[:, None] >= self.positions[:span]))

    def step(self, tokens: Tensor, position: Tensor, span: int) -> Tensor:
        """Hidden states [r, 1, w] of tokens [r, 1] at one position [1], after span - 1 others."""
        hidden: Tensor = self.network(tokens, Place(slice(0, len(tokens)), position, span))
        return hidden


class StaticDecoder(FusedDecoder):
    """The same with steps of few different shapes, which are compiled.

    Args:
        options: of `torch.compile`.
    """

    SPAN = 256
    """Attention looks at 256, 512, ... positions, whatever of them there is; steps of each kind are compiled."""

    def __init__(self, prior: TransformerPrior, rows: int, options: dict[str, Any]) -> None:
        super().__init__(prior, rows, Linear)
        self.compiled = torch.compile(self.masked_step, dynamic=False, **options)

    def step(self, tokens: Tensor, position: Tensor, span: int) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        hidden: Tensor = self.compiled(tokens, position, min(-(-span // self.SPAN) * self.SPAN, len(self.positions)))
        return hidden

    def masked_step(self, tokens: Tensor, position: Tensor, span: int) -> Tensor:
        """A step whose attention is given more positions than there are yet."""
        mask = self.positions[:span] <= position[:, None]
        hidden: Tensor = self.network(tokens, Place(slice(0, len(tokens)), position, span, mask))
        return hidden


class Compiled:
    """Makes decoders whose steps are compiled, and keeps them for later calls with as many rows.

    Compilation takes a minute or so and is worth it on a GPU, where a step is mostly waiting for its many small
    operations to be launched; as a CUDA graph they are launched at once. A CPU has nothing to gain. A decoder keeps a
    copy of the weights; it is made anew when they have changed or moved.

    Args:
        options: of `torch.compile`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = {"mode": "reduce-overhead"} | options
        self.made: dict[int, StaticDecoder] = {}
        self.weights: list[tuple[int, int]] = []

    def __call__(self, prior: TransformerPrior, rows: int) -> Decoder:
        if not is_known(prior):
            return CachedDecoder(prior)
        weights = [(weight.data_ptr(), weight._version) for weight in prior.parameters()]
        if weights != self.weights:
            self.weights, self.made = weights, {}
        if rows not in self.made:
            self.made[rows] = StaticDecoder(prior, rows, self.options)
        self.made[rows].seen = [0] * rows
        return self.made[rows]
