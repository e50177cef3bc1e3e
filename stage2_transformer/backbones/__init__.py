"""Decoder-only transformers by name, from the transformers library, imported when one is built.

A network is called with tokens int64 [b, n] and, where it goes on from earlier ones, a transformers cache; `.logits`
of what it returns is [b, n, vocabulary]. Token 0 of a sequence is the class; the codes of a grid of (q, h, w) follow in
raster order, the q of one position next to each other.
"""

from twostage.registry import Registry

BACKBONES = Registry(
    "prior",
    {"llama": "stage2_transformer.backbones.llama:llama", "gpt2": "stage2_transformer.backbones.gpt2:gpt2"},
    provided=("vocabulary", "grid"),
)
