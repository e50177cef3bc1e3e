"""Decoder-only transformers by name, from the transformers library, imported when one is built."""

from torch import nn

from twostage.config import Count, Fraction
from twostage.errors import refuse
from twostage.registry import Registry

BACKBONES = Registry(
    "prior",
    {"llama": "stage2_transformer.backbones:llama", "gpt2": "stage2_transformer.backbones:gpt2"},
    provided=("vocabulary", "length"),
)


def gpt2(
    vocabulary: Count, length: Count, *, layers: Count, heads: Count, width: Count, dropout: Fraction = 0.1
) -> nn.Module:
    """GPT-2: learned positions, as in "Taming Transformers" (2021). `length` tokens at most."""
    _check_width(width, heads)
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=length,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            activation_function="gelu_pytorch_tanh",  # the same function as the default, in one operation
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=False,
        )
    )


def llama(vocabulary: Count, length: Count, *, layers: Count, heads: Count, width: Count) -> nn.Module:
    """LLaMA: rotary positions, RMSNorm, SwiGLU, as in "LlamaGen" (2024). `length` tokens at most."""
    _check_width(width, 2 * heads)  # rotary positions turn pairs of channels
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            max_position_embeddings=length,
            hidden_size=width,
            intermediate_size=-(-width * 8 // 3 // 32) * 32,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            tie_word_embeddings=False,
        )
    )


def _check_width(width: int, divisor: int) -> None:
    if width % divisor:
        raise refuse("prior.width", width, f"a multiple of {divisor}, for the heads to share it")
