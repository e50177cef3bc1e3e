"""The weights of latent diffusion's UNets: which of the two copies, and under which names ours are there."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from pipelines.compvis.unet import UNetParams
from twostage.errors import TwoStageError

NETWORK, AVERAGE, CLASSES = "model.diffusion_model.", "model_ema.", "cond_stage_model."
"""How the names begin of the UNet, of its moving average, and of the class embedding (which is not averaged)."""

COUNTERS = (f"{AVERAGE}decay", f"{AVERAGE}num_updates")

RESIDUAL = r"\.(resnets\.\d+|downsamplers\.0|upsamplers\.0)"
ATTENTION = r"\.(attentions\.\d+)"
RENAMES = (
    (r"^backbone\.classes\.", f"{CLASSES}embedding."),
    (r"^backbone\.(unet\.)?", NETWORK),
    (r"\.time_embedding\.linear_1\.", ".time_embed.0."),
    (r"\.time_embedding\.linear_2\.", ".time_embed.2."),
    (r"\.conv_in\.", ".input_blocks.0.0."),
    (r"\.conv_norm_out\.", ".out.0."),
    (r"\.conv_out\.", ".out.2."),
    (RESIDUAL + r"\.norm1\.", r".\1.in_layers.0."),
    (RESIDUAL + r"\.conv1\.", r".\1.in_layers.2."),
    (RESIDUAL + r"\.time_emb_proj\.", r".\1.emb_layers.1."),
    (RESIDUAL + r"\.norm2\.", r".\1.out_layers.0."),
    (RESIDUAL + r"\.conv2\.", r".\1.out_layers.3."),
    (RESIDUAL + r"\.conv_shortcut\.", r".\1.skip_connection."),
    (ATTENTION + r"\.group_norm\.", r".\1.norm."),
    (ATTENTION + r"\.to_([qkv])\.", r".\1.\2."),
    (ATTENTION + r"\.to_out\.0\.", r".\1.proj_out."),
    (r"\.downsamplers\.0\.conv\.", ".downsamplers.0.op."),
    (r"\.mid_block\.resnets\.0\.", ".middle_block.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle_block.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle_block.2."),
)
"""Our names -> theirs, one after another; what is left is the place in the levels."""

PLACE = re.compile(r"\.(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.")


def unet_name(unet: UNetParams) -> Callable[[str], str]:
    """The name of a weight of our denoiser -> theirs, but `q`, `k` and `v` where theirs have one `qkv`.

    They count through all levels, one number for a residual block with its attention, and one for each halving; a
    doubling is the last part of the block before it.
    """
    depth, attends = unet.num_res_blocks + 1, unet.attends

    def place(match: re.Match[str]) -> str:
        side, kind = match[1], match[3]
        level, block = int(match[2]), int(match[4])
        if side == "down":
            number = 1 + level * depth + (depth - 1 if kind == "downsamplers" else block)
            return f".input_blocks.{number}.{int(kind == 'attentions')}."
        number = level * depth + (depth - 1 if kind == "upsamplers" else block)
        part = {"resnets": 0, "attentions": 1, "upsamplers": 1 + attends[-1 - level]}[kind]
        return f".output_blocks.{number}.{part}."

    def name(ours: str) -> str:
        for pattern, replacement in RENAMES:
            ours = re.sub(pattern, replacement, ours)
        return PLACE.sub(place, ours)

    return name


def unet_weights(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The UNet's and the class embedding's weights; the UNet's moving average, where the checkpoint holds one.

    Args:
        weights: the checkpoint's.
        names: of the UNet's weights. The moving average has them without dots, which cannot be put back unknown.
    """
    network = {name: value for name, value in weights.items() if name.startswith(NETWORK)}
    if is_averaged(weights):
        dotted = {AVERAGE + name.removeprefix("model.").replace(".", ""): name for name in names}
        average = {name for name in weights if name.startswith(AVERAGE)}.difference(COUNTERS)
        network = {dotted.get(name, name): weights[name] for name in average}
    return network | {name: value for name, value in weights.items() if name.startswith(CLASSES)}


def is_averaged(weights: Mapping[str, Tensor]) -> bool:
    """Whether the checkpoint holds a moving average of the UNet's weights."""
    return any(name.startswith(AVERAGE) for name in weights)


def split_attention(weights: Mapping[str, Tensor], heads: Callable[[int], int], source: Path) -> dict[str, Tensor]:
    """`qkv` [3 c, c, 1], which holds q, k and v of the first head, then of the second, ... -> `q`, `k`, `v` [c, c, 1].

    Args:
        heads: the number of channels c -> of heads.
        source: the checkpoint, for error messages.

    Raises:
        TwoStageError: channels that cannot be split into q, k and v of so many heads.
    """
    split = {}
    for name, value in weights.items():
        if ".qkv." not in name:
            split[name] = value
            continue
        count = heads(len(value) // 3)
        if count == 0 or len(value) % (3 * count):
            shape = tuple(value.shape)
            raise TwoStageError(f"{source}: {name} of shape {shape} is not allowed; allowed: 3 x heads of the config")
        parts = value.unflatten(0, (count, 3, -1)).unbind(1)
        split |= {name.replace(".qkv.", f".{key}."): part.flatten(0, 1) for key, part in zip("qkv", parts)}
    return split
