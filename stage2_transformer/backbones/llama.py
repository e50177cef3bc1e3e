"""LLaMA: "LLaMA: Open and Efficient Foundation Language Models" (Touvron et al., 2023), the prior of "Autoregressive
Model Beats Diffusion: Llama for Scalable Image Generation" (LlamaGen; Sun et al., 2024).

    h <- h + attention(RMSNorm(h)),   h <- h + W_2 (silu(W_1 n) * W_3 n),   n = RMSNorm(h);  no biases
"""

import math
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from stage2_transformer.backbones.heads import check_heads
from stage2_transformer.backbones.rotary import Rotary2D
from twostage.config import Count, Fraction


def llama(
    vocabulary: Count,
    grid: tuple[int, int, int],
    *,
    layers: Count,
    heads: Count,
    width: Count,
    feed_forward: Count | None = None,
    positions: Literal["rotary", "rotary_2d"] = "rotary_2d",
    dropout: Fraction = 0.1,
    attention_dropout: Fraction = 0.0,
) -> nn.Module:
    """transformers' LlamaForCausalLM.

    Args:
        vocabulary: how many tokens there are.
        grid: (q, h, w) of the codes; a sequence has at most 1 + q h w tokens.
        layers, heads, width: blocks, heads of attention, channels of a token.
        feed_forward: channels within a block's second branch; by default 8/3 of the width, to the next multiple of 32.
        positions: rotary along the sequence, or along rows and columns.
        dropout: of the embeddings and what each branch adds.
        attention_dropout: of the attention's weights.

    Raises:
        TwoStageError: a width that the heads cannot share.
    """
    check_heads(width, heads, positions)
    from transformers import LlamaConfig, LlamaForCausalLM

    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            max_position_embeddings=1 + math.prod(grid),
            hidden_size=width,
            intermediate_size=feed_forward or -(-width * 8 // 3 // 32) * 32,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            attention_dropout=attention_dropout,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            tie_word_embeddings=False,
        )
    )
    if positions == "rotary_2d":
        network.model.rotary_emb = Rotary2D(grid, width // heads)
    if dropout:
        _drop_out(network, dropout)
    return network


def _drop_out(network: Any, share: float) -> None:
    """Dropout where transformers' LLaMA has none; the names of its weights stay."""
    branches = [last for layer in network.model.layers for last in (layer.self_attn.o_proj, layer.mlp.down_proj)]
    for module in (network.model.embed_tokens, *branches):
        module.register_forward_hook(partial(_dropped, share))


def _dropped(share: float, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return F.dropout(output, share, module.training)


llama.PRESETS = {  # type: ignore[attr-defined]
    "B": {"layers": 12, "heads": 12, "width": 768, "feed_forward": 2048},
    "L": {"layers": 24, "heads": 16, "width": 1024, "feed_forward": 2816},
    "XL": {"layers": 36, "heads": 20, "width": 1280, "feed_forward": 3584},
    "XXL": {"layers": 48, "heads": 24, "width": 1536, "feed_forward": 4096},
}
