"""Codes side by side: "MoVQ: Modulating Quantized Vectors for High-Fidelity Image Generation" (Zheng et al., 2022).

    z = [z^1 .. z^q],   z_q = [c_{k_1} .. c_{k_q}],   k_i = nearest code to z^i                    (Sec. 3.2)

A feature is cut into q parts of d / q channels, all quantised with one codebook: 16 x 16 x 4 codes in the paper.
"""

from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from stage1_tokenizer.quantizers import INNER
from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput
from twostage.config import Count, component
from twostage.errors import refuse

PLAIN: dict[str, Any] = {"name": "vq"}


class Multichannel(Quantizer):
    """Another quantiser over parts of the features; `codebook` is [K, d / q].

    Args:
        codebook_size: K.
        dim: d, a multiple of q.
        parts: q.
        inner: the quantiser of the parts, `{name: ..., option: value}`.

    Raises:
        TwoStageError: d is not a multiple of q.
    """

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        parts: Count = 4,
        inner: component(INNER) = PLAIN,  # type: ignore[valid-type]
    ) -> None:
        super().__init__(codebook_size, dim)
        if dim % parts:
            raise refuse("dim", dim, f"a multiple of parts ({parts})")
        self.maps = parts
        self.inner: Quantizer = INNER.build(inner, codebook_size=codebook_size, dim=dim // parts)
        self.distance = self.inner.distance

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """[K, d / q]."""
        return self.inner.codebook

    def quantize(self, features: Tensor) -> QuantizerOutput:
        output = self.inner.quantize(rearrange(features, "n (q d) -> (n q) d", q=self.maps))
        return replace(
            output,
            z_q=rearrange(output.z_q, "(n q) d -> n (q d)", q=self.maps),
            codes=rearrange(output.codes, "(n q) -> n q", q=self.maps),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        return rearrange(self.inner.lookup(codes.flatten()), "(n q) d -> n (q d)", q=self.maps)

    def start_codebook(self, features: Tensor, generator: torch.Generator) -> None:
        self.inner.start_codebook(rearrange(features, "n (q d) -> (n q) d", q=self.maps), generator)

    def initialize_codebook(self, centroids: Tensor) -> None:
        """centroids: [K, d / q]."""
        self.inner.initialize_codebook(centroids)

    def set_progress(self, step: int, epoch: int) -> None:
        self.inner.set_progress(step, epoch)
