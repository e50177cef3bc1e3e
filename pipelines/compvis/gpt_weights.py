"""The weights of taming-transformers' GPT in the places of transformers' GPT-2."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from twostage.errors import TwoStageError

NETWORK = "transformer."
TOKENS, POSITIONS, HEAD = (f"{NETWORK}{name}" for name in ("tok_emb.weight", "pos_emb", "head.weight"))
MASK = ".attn.mask"
"""How the name of a constant ends that every block has, and no training changes."""

RENAMES = (
    (r"^backbone\.lm_head\.", f"{NETWORK}head."),
    (r"^backbone\.transformer\.wte\.", f"{NETWORK}tok_emb."),
    (r"^backbone\.transformer\.wpe\.weight$", POSITIONS),
    (r"^backbone\.transformer\.", NETWORK),
    (r"\.h\.(\d+)\.", r".blocks.\1."),
    (r"\.ln_([12])\.", r".ln\1."),
    (r"\.c_attn\.", ".qkv."),
    (r"\.attn\.c_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.0."),
    (r"\.mlp\.c_proj\.", ".mlp.2."),
)
"""Our names -> theirs, one after another, but `qkv` where theirs are three."""

INPUTS_FIRST = re.compile(r"\.(attn\.qkv|attn\.proj|mlp\.0|mlp\.2)\.weight$")
"""Weights that GPT-2 keeps as [inputs, outputs]."""


def taming_name(ours: str) -> str:
    for pattern, replacement in RENAMES:
        ours = re.sub(pattern, replacement, ours)
    return ours


def gpt_weights(
    weights: Mapping[str, Tensor], classes: slice, unknown: int, length: int, source: Path
) -> dict[str, Tensor]:
    """The weights of the network as ours has them, under their names.

    Args:
        weights: the checkpoint's, each name beginning with `NETWORK`.
        classes: which of the K tokens also stand for classes, or for the start of an image without one. With us these
            have tokens of their own, in the same order, after the codes; what the last layer says of them is not read.
        unknown: how many more tokens ours has, which theirs was never shown: rows of zeros.
        length: how many positions ours has; theirs may have more, or lack the last, whose output is not needed.

    Raises:
        TwoStageError: queries without their keys and values.
    """
    found = {name: value for name, value in _fused(weights, source).items() if not name.endswith(MASK)}
    for name, value in found.items():
        if INPUTS_FIRST.search(name):
            found[name] = value.T
    if TOKENS in found:
        found[TOKENS] = _longer(torch.cat([found[TOKENS], found[TOKENS][classes]]), unknown)
    if HEAD in found:
        found[HEAD] = _longer(found[HEAD], classes.stop - classes.start + unknown)
    if POSITIONS in found:
        positions = found[POSITIONS].flatten(0, -2)[:length]
        found[POSITIONS] = _longer(positions, min(1, length - len(positions)))
    return found


def _longer(rows: Tensor, count: int) -> Tensor:
    """[n, w] -> [n + count, w], of zeros at the end."""
    return torch.cat([rows, rows.new_zeros(count, *rows.shape[1:])])


def _fused(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Queries, keys and values, three layers there, as one."""
    fused = dict(weights)
    for name in [name for name in weights if ".attn.query." in name]:
        three = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        missing = [one for one in three if one not in weights]
        if missing:
            raise TwoStageError(f"{source}: {missing[0]!r} is missing; allowed: queries with their keys and values")
        fused[name.replace(".query.", ".qkv.")] = torch.cat([fused.pop(one) for one in three])
    return fused
