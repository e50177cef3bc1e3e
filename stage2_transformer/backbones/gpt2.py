"""GPT-2, with learned positions: the prior of "Taming Transformers for High-Resolution Image Synthesis" (Esser et al.,
2021).

    h <- h + attention(LN(h)),   h <- h + W_2 gelu(W_1 LN(h))
"""

import math
from typing import Any, Literal

from torch import nn

from stage2_transformer.backbones.heads import check_heads
from twostage.config import Count, Fraction

ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu"}
"""Our names -> those of transformers; the first is GPT-2's approximation in a single operation."""


def gpt2(
    vocabulary: Count,
    grid: tuple[int, int, int],
    *,
    layers: Count,
    heads: Count,
    width: Count,
    dropout: Fraction = 0.1,
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh",
) -> nn.Module:
    """transformers' GPT2LMHeadModel.

    Args:
        vocabulary: how many tokens there are.
        grid: (q, h, w) of the codes; a sequence has at most 1 + q h w tokens.
        layers, heads, width: blocks, heads of attention, channels of a token.
        dropout: of the embeddings, the attention and what each branch adds.
        activation: GPT-2's approximation, or the exact function, which taming's checkpoints were trained with.

    Raises:
        TwoStageError: a width that the heads cannot share.
    """
    check_heads(width, heads, "learned")
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=1 + math.prod(grid),
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            activation_function=ACTIVATIONS[activation],
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=False,
        )
    )


TAMING: dict[str, Any] = {"dropout": 0.0, "activation": "gelu"}
gpt2.PRESETS = {  # type: ignore[attr-defined]
    "faceshq": {"layers": 24, "heads": 16, "width": 1024, **TAMING},
    "imagenet": {"layers": 48, "heads": 24, "width": 1536, **TAMING},
}
