"""VQ tokenizers of taming-transformers and latent diffusion: their configs and names, and ours."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from pipelines.compvis.checkpoint import copy_weights
from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.config import Count, Fraction, Section, load
from twostage.errors import refuse

BETA = 0.25
"""Fixed in the published code."""

BESIDE_THE_MODEL = ("loss.",)
"""The discriminator and LPIPS, which the checkpoints hold too."""

RENAMES = (
    (r"^quantizer\.codebook$", "quantize.embedding.weight"),
    (r"^autoencoder\.", ""),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.down_blocks\.", ".down."),
    (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
)
"""Our names -> theirs, one after another."""


class Networks(Section):
    """`ddconfig`: the encoder and the decoder.

    Attributes:
        ch, ch_mult: channels, and their multiples per level.
        attn_resolutions: sizes, in pixels, of the levels that attend when an image is `resolution` large.
        double_z: true in KL autoencoders, which have no codebook.
    """

    ch: Count
    ch_mult: list[Count] = Field(min_length=1)
    num_res_blocks: Count
    attn_resolutions: list[Count]
    resolution: Count
    in_channels: Count
    out_ch: Count
    z_channels: Count
    double_z: Literal[False]
    dropout: Fraction = 0.0
    attn_type: Literal["vanilla", "none"] = "vanilla"
    resamp_with_conv: Literal[True] = True

    @model_validator(mode="after")
    def _has_a_counterpart(self) -> "Networks":
        if self.out_ch != self.in_channels:
            raise refuse("ddconfig.out_ch", self.out_ch, f"ddconfig.in_channels ({self.in_channels})")
        if self.ch_mult[0] != 1:
            raise refuse("ddconfig.ch_mult", self.ch_mult, "a list that starts with 1")
        factor = 2 ** (len(self.ch_mult) - 1)
        if self.resolution % factor:
            raise refuse("ddconfig.resolution", self.resolution, f"a multiple of {factor}, as ddconfig.ch_mult asks")
        return self

    def options(self) -> dict[str, Any]:
        """The same as our `VQGAN` has it; sizes that no level has attend nowhere, as in the published code."""
        factors = [2**level for level in range(len(self.ch_mult))]
        attends = self.attn_type == "vanilla"
        return {
            "name": "vqgan",
            "width": self.ch,
            "multipliers": self.ch_mult,
            "residual_blocks": self.num_res_blocks,
            "attention_at": [f for f in factors if attends and self.resolution // f in self.attn_resolutions],
            "middle_attention": attends,
            "z_channels": self.z_channels,
            "dropout": self.dropout,
        }


class VQParams(Section):
    """`params` of a VQ model; what concerns only its training is passed over.

    Attributes:
        n_embed, embed_dim: K and d.
        legacy: whether beta weighs the codebook term, as it does in the released code unless told otherwise.
        remap, use_ema: must be unset; checkpoints of models with them hold other weights.
    """

    model_config = ConfigDict(extra="ignore")

    ddconfig: Networks
    n_embed: Count
    embed_dim: Count
    legacy: bool = True
    remap: None = None
    use_ema: Literal[False] = False

    def quantizer(self) -> dict[str, Any]:
        """The same as our `VQ` has it."""
        commitment, codebook = (1.0, BETA) if self.legacy else (BETA, 1.0)
        return {
            "name": "vq",
            "codebook_size": self.n_embed,
            "dim": self.embed_dim,
            "commitment_weight": commitment,
            "codebook_weight": codebook,
        }


def import_vq(
    params: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    config: Path,
    checkpoint: Path,
    *,
    at: str = "model.params",
    prefix: str = "",
) -> VQTokenizer:
    """The tokenizer that `params` describe, with the weights of the checkpoint.

    Args:
        params: of the model, in the config.
        weights: the checkpoint's, each name beginning with `prefix`.
        config, checkpoint: where they come from, for error messages.
        at: where in the config.

    Raises:
        TwoStageError: a setting that has no counterpart here, or weights that are not those of the config.
    """
    checked = load(VQParams, params, f"{config}: {at}")
    tokenizer = VQTokenizer(
        autoencoder_config=AUTOENCODERS.resolve(checked.ddconfig.options(), f"{config}: autoencoder"),
        quantizer_config=QUANTIZERS.resolve(checked.quantizer(), f"{config}: quantizer"),
        image_size=checked.ddconfig.resolution,
        channels=checked.ddconfig.in_channels,
    )
    theirs = compvis_name(len(checked.ddconfig.ch_mult))
    ignore = [prefix + beginning for beginning in BESIDE_THE_MODEL]
    copy_weights(tokenizer, weights, lambda ours: prefix + theirs(ours), ignore, checkpoint)
    return tokenizer.eval()


def compvis_name(levels: int) -> Callable[[str], str]:
    """Our name of a weight -> theirs. Their decoder counts levels from the finest, ours in the order they act."""

    def name(ours: str) -> str:
        for pattern, replacement in RENAMES:
            ours = re.sub(pattern, replacement, ours)
        return re.sub(r"\.up_blocks\.(\d+)\.", lambda match: f".up.{levels - 1 - int(match[1])}.", ours)

    return name
