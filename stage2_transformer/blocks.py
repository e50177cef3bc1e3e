"""The networks of LLaMA and GPT-2, over keys and values that stay where they are.

The weights are those of transformers' modules, a block's arithmetic is theirs, in fewer operations:

    h <- h + W_o attention(q, k, v),   [q; k; v] = W_qkv norm(h)
    h <- h + W_2 f(W_1 norm(h)),       f(a) = gelu(a), or with W_1 = [W_g; W_u] f([g; u]) = silu(g) u
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage2_transformer.linear import Linear


@dataclass(frozen=True)
class Place:
    """Where m new tokens of some sequences stand.

    Attributes:
        rows: which sequences, of all that there is memory for.
        positions: int64 [m], in the sequence.
        span: attention looks at so many positions, from the first on.
        mask: bool [m, span], true where it may look; None: everywhere.
    """

    rows: slice
    positions: Tensor
    span: int
    mask: Tensor | None = None


Rotation = tuple[Tensor, Tensor] | None
"""Cosines and sines [m, 1, 1, 2, d / 2] that turn channel i with channel i + d / 2; the sign of the first half of the
sines is changed. None: nothing turns."""


class Attention(nn.Module):
    """Attention of new tokens to those before them and to themselves.

    Args:
        qkv: [..., w] -> [..., 3 w], queries, keys and values.
        out: [..., w] -> [..., w].
        cache: [rows, 2, heads, n, d], where keys and values are kept.
    """

    def __init__(self, qkv: Linear, out: Linear, cache: Tensor) -> None:
        super().__init__()
        self.qkv, self.out, self.cache = qkv, out, nn.Buffer(cache)

    def forward(self, x: Tensor, place: Place, rotation: Rotation) -> Tensor:
        """[r, m, w] -> [r, m, w]."""
        cache = self.cache[place.rows]
        qkv = self.qkv(x).unflatten(-1, (3, cache.shape[2], -1))
        if rotation is not None:
            (cos, sin), turned = rotation, qkv[:, :, :2].unflatten(-1, (2, -1))
            turned.copy_(torch.addcmul(turned * cos, turned.flip(-2), sin))
        q, kv = qkv.permute(0, 2, 3, 1, 4).split([1, 2], dim=1)
        cache.index_copy_(3, place.positions, kv)
        k, v = cache[:, :, :, : place.span].unbind(1)
        attended = F.scaled_dot_product_attention(q.squeeze(1), k, v, attn_mask=place.mask)
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return result


class Gated(nn.Module):
    """W_2 (silu(g) u) of [g; u] = W_1 x."""

    def __init__(self, first: Linear, activation: nn.Module, second: Linear) -> None:
        super().__init__()
        self.first, self.activation, self.second = first, activation, second

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.first(x).chunk(2, dim=-1)
        out: Tensor = self.second(self.activation(gate) * up)
        return out


class Block(nn.Module):
    """One layer: a branch with attention, then one without."""

    def __init__(self, norm: nn.Module, attention: Attention, second_norm: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.norm, self.attention, self.second_norm, self.branch = norm, attention, second_norm, branch

    def forward(self, x: Tensor, place: Place, rotation: Rotation) -> Tensor:
        x = x + self.attention(self.norm(x), place, rotation)
        out: Tensor = x + self.branch(self.second_norm(x))
        return out


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) w of a LlamaRMSNorm: in float32, like it, but in one operation.

    Args:
        own: whose weights these are.
    """

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.weight, self.eps = own.weight, own.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype)


class Llama(nn.Module):
    """The network of a LlamaForCausalLM, up to its hidden states.

    Args:
        backbone: whose weights these are.
        linear: what its linear layers become.
        rows: there is memory for so many sequences,
        length: of so many tokens each.
    """

    def __init__(self, backbone: Any, linear: type[Linear], rows: int, length: int) -> None:
        super().__init__()
        model = backbone.model
        self.tokens, self.norm = model.embed_tokens.weight, RMSNorm(model.norm)
        cos, sin = model.rotary_emb(self.tokens, torch.arange(length, device=self.tokens.device)[None])
        halves = (length, 1, 1, 2, cos.shape[-1] // 2)
        sign = torch.tensor([[-1.0], [1.0]], dtype=sin.dtype, device=sin.device)
        self.cos, self.sin = nn.Buffer(cos.view(halves)), nn.Buffer(sin.view(halves) * sign)
        shape = (rows, 2, backbone.config.num_attention_heads, length, cos.shape[-1])
        self.blocks = nn.ModuleList(self.block(layer, linear, shape) for layer in model.layers)

    def block(self, layer: Any, linear: type[Linear], cache: tuple[int, ...]) -> Block:
        own, mlp = layer.self_attn, layer.mlp
        qkv, out = linear.of(own.q_proj, own.k_proj, own.v_proj), linear.of(own.o_proj)
        attention = Attention(qkv, out, self.cos.new_zeros(cache))
        gated = Gated(linear.of(mlp.gate_proj, mlp.up_proj), mlp.act_fn, linear.of(mlp.down_proj))
        return Block(RMSNorm(layer.input_layernorm), attention, RMSNorm(layer.post_attention_layernorm), gated)

    def forward(self, tokens: Tensor, place: Place) -> Tensor:
        """Tokens int64 [r, m] -> hidden states [r, m, w]."""
        rotation = self.cos[place.positions], self.sin[place.positions]
        x = F.embedding(tokens, self.tokens)
        for block in self.blocks:
            x = block(x, place, rotation)
        hidden: Tensor = self.norm(x)
        return hidden


class GPT2(nn.Module):
    """The same of a GPT2LMHeadModel."""

    def __init__(self, backbone: Any, linear: type[Linear], rows: int, length: int) -> None:
        super().__init__()
        model, heads = backbone.transformer, backbone.config.n_head
        self.tokens, self.positions, self.norm = model.wte.weight, model.wpe.weight, model.ln_f
        shape = (rows, 2, heads, length, model.embed_dim // heads)
        self.blocks = nn.ModuleList(self.block(layer, linear, shape) for layer in model.h)

    def block(self, layer: Any, linear: type[Linear], cache: tuple[int, ...]) -> Block:
        qkv, out = linear.of(layer.attn.c_attn), linear.of(layer.attn.c_proj)
        attention = Attention(qkv, out, self.tokens.new_zeros(cache))
        branch = nn.Sequential(linear.of(layer.mlp.c_fc), layer.mlp.act, linear.of(layer.mlp.c_proj))
        return Block(layer.ln_1, attention, layer.ln_2, branch)

    def forward(self, tokens: Tensor, place: Place) -> Tensor:
        """Tokens int64 [r, m] -> hidden states [r, m, w]."""
        x = F.embedding(tokens, self.tokens) + F.embedding(place.positions, self.positions)
        for block in self.blocks:
            x = block(x, place, None)
        hidden: Tensor = self.norm(x)
        return hidden
