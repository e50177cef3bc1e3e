"""Autoregressive models of "Taming Transformers for High-Resolution Image Synthesis" (Esser et al., 2021).

A GPT over the codes of a VQGAN, after one token that is the number of a class, or after a start token.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict
from torch import Tensor

from pipelines.autoregressive import AutoregressivePipeline
from pipelines.compvis import parts
from pipelines.compvis.checkpoint import copy_weights
from pipelines.compvis.gpt_weights import NETWORK, gpt_weights, taming_name
from pipelines.compvis.parts import FIRST_STAGE
from pipelines.compvis.vq import VQParams, import_vq
from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_transformer.backbones import BACKBONES
from stage2_transformer.prior import TransformerPrior
from twostage.config import Count, Fraction, NonNegativeInt, Section, load
from twostage.errors import TwoStageError, refuse

AT = "model.params"
GPTS = ("taming.modules.transformer.mingpt.GPT",)
FIRST_STAGES = ("taming.models.vqgan.VQModel",)
PERMUTERS = ("taming.modules.transformer.permuter.Identity",)
UNCONDITIONAL = "__is_unconditional__"
CONDITIONS = (UNCONDITIONAL, "taming.modules.util.Labelator")


class GPTParams(Section):
    """`transformer_config.params`; dropout, which theirs has in three places, is taken from the branches."""

    model_config = ConfigDict(extra="ignore")

    vocab_size: Count
    block_size: Count
    n_layer: Count
    n_head: Count
    n_embd: Count
    resid_pdrop: Fraction = 0.0
    n_unmasked: Literal[0] = 0

    def options(self) -> dict[str, Any]:
        """The same as our `gpt2` has it."""
        return {
            "name": "gpt2",
            "layers": self.n_layer,
            "heads": self.n_head,
            "width": self.n_embd,
            "dropout": self.resid_pdrop,
            "activation": "gelu",
        }


class LabelatorParams(Section):
    """`cond_stage_config.params` of a class-conditional model."""

    model_config = ConfigDict(extra="ignore")

    n_classes: Count


class TamingParams(Section):
    """`params` of the model; what concerns only its training is passed over.

    Attributes:
        unconditional, sos_token: whether images begin with the start token, whatever the condition's config; and which
            of the codes' tokens that is.
        permuter_config: of the order of the codes; must be the raster order.
    """

    model_config = ConfigDict(extra="ignore")

    transformer_config: Any
    cond_stage_config: Any
    first_stage_config: Any = None
    permuter_config: Any = PERMUTERS[0]
    unconditional: bool = False
    sos_token: NonNegativeInt = 0


def import_taming(
    params: Mapping[str, Any], weights: Mapping[str, Tensor], config: Path, checkpoint: Path
) -> AutoregressivePipeline | TransformerPrior:
    """The model that `params` describe, with the weights of the checkpoint.

    A class there is a token that is also a code; here it is a token with a copy of that one's embedding. The models
    were not trained without a class: samples need one and cannot be guided, which is printed.

    Args:
        params: `model.params` of the config.
        weights: the checkpoint's.
        config, checkpoint: where they come from, for error messages.

    Returns:
        A whole pipeline, its classes named by their numbers; without first stage weights in the checkpoint only the
        prior, whose codes are the largest square that the GPT has positions for if the config names no first stage.

    Raises:
        TwoStageError: a setting that has no counterpart here (a segmentation, coordinates or another order of codes as
            in the other models of the paper), parts that do not fit each other, or weights that are not those of the
            config.
    """
    checked = load(TamingParams, params, f"{config}: {AT}")
    gpt_params = parts.params(checked.transformer_config, GPTS, f"{config}: {AT}.transformer_config")
    gpt = load(GPTParams, gpt_params, f"{config}: {AT}.transformer_config.params")
    parts.params(checked.permuter_config or PERMUTERS[0], PERMUTERS, f"{config}: {AT}.permuter_config")
    classes = _num_classes(checked, gpt, config)
    side = _side(checked, gpt, config)
    tokenizer = _tokenizer(checked, weights, config, checkpoint)
    try:
        prior = TransformerPrior(
            backbone_config=BACKBONES.resolve(gpt.options(), "prior"),
            codebook_size=gpt.vocab_size,
            code_shape=[side, side],
            num_classes=classes,
            knows_no_class=classes is None,
        )
    except TwoStageError as error:
        raise TwoStageError(f"{config}: {error}") from None
    tokens = slice(checked.sos_token, checked.sos_token + 1) if classes is None else slice(0, classes)
    held = {name: value for name, value in weights.items() if name.startswith(NETWORK)}
    theirs = gpt_weights(held, tokens, int(classes is not None), prior.length + 1, checkpoint)
    copy_weights(prior, theirs, taming_name, (), checkpoint)
    if classes is not None:
        print('classes: none of them is "no class"; samples need a class_label, and cannot be guided')
    if tokenizer is None:
        return prior.eval()
    id2label = None if classes is None else {str(i): str(i) for i in range(classes)}
    return AutoregressivePipeline(tokenizer, prior.eval(), id2label=id2label)


def _num_classes(checked: TamingParams, gpt: GPTParams, config: Path) -> int | None:
    """N, or None of a model with a start token."""
    if checked.unconditional or checked.cond_stage_config == UNCONDITIONAL:
        if checked.sos_token >= gpt.vocab_size:
            raise refuse(f"{config}: {AT}.sos_token", checked.sos_token, f"a token, below {gpt.vocab_size}")
        return None
    at = f"{config}: {AT}.cond_stage_config"
    found = load(LabelatorParams, parts.params(checked.cond_stage_config, CONDITIONS, at), f"{at}.params")
    if found.n_classes > gpt.vocab_size:
        raise refuse(
            f"{at}.params.n_classes", found.n_classes, f"as many tokens as there are, {gpt.vocab_size}, or fewer"
        )
    return found.n_classes


def _side(checked: TamingParams, gpt: GPTParams, config: Path) -> int:
    """h = w of the codes: the first stage's, if the config names one, for which the GPT must have been made."""
    if checked.first_stage_config is None:
        return math.isqrt(gpt.block_size)
    at = f"{config}: {AT}.first_stage_config"
    first = load(VQParams, parts.params(checked.first_stage_config, FIRST_STAGES, at), f"{at}.params")
    if first.n_embed != gpt.vocab_size:
        allowed = f"the first stage's n_embed, {first.n_embed}"
        raise refuse(f"{config}: {AT}.transformer_config.params.vocab_size", gpt.vocab_size, allowed)
    side = first.ddconfig.resolution // 2 ** (len(first.ddconfig.ch_mult) - 1)
    if side**2 > gpt.block_size:
        allowed = f"at least {side**2}, for a class and the {side}x{side} codes of an image but the last"
        raise refuse(f"{config}: {AT}.transformer_config.params.block_size", gpt.block_size, allowed)
    return side


def _tokenizer(
    checked: TamingParams, weights: Mapping[str, Tensor], config: Path, checkpoint: Path
) -> VQTokenizer | None:
    """The first stage, if the checkpoint holds it."""
    held = {name: value for name, value in weights.items() if name.startswith(FIRST_STAGE)}
    at = f"{AT}.first_stage_config"
    if not held:
        return None
    params = parts.params(checked.first_stage_config, FIRST_STAGES, f"{config}: {at}")
    return import_vq(params, held, config, checkpoint, at=f"{at}.params", prefix=FIRST_STAGE)
