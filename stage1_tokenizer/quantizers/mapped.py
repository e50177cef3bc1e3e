"""Mapped codebooks: a frozen base codebook C and a learned map P, C' = P(C). Every step moves every code.

"Beyond Stationarity" (2026), Eq. 21, 25 and 26; codes are looked up in C', and the losses are VQ's over C'.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics, vq_terms
from stage1_tokenizer.quantizers.nearest import nearest
from stage1_tokenizer.quantizers.straight_through import ESTIMATORS, StraightThrough


class MappedCodebook(Quantizer):
    """VQ over P(C).

    Args:
        base: C, [K, d].
        mapping: P, [K, d] -> [K, d]; the whole codebook at once.
        straight_through: how the gradient gets past the code.
        commitment_weight: beta of the commitment loss.
    """

    base: Tensor

    def __init__(
        self, base: Tensor, mapping: nn.Module, *, straight_through: StraightThrough, commitment_weight: float
    ) -> None:
        super().__init__(*base.shape)
        self.estimator = ESTIMATORS[straight_through]
        self.commitment_weight = commitment_weight
        self.register_buffer("base", base)
        self.mapping = mapping
        self._cached: tuple[object, Tensor] | None = None

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """C', [K, d]; in eval computed once and kept until a weight changes."""
        if self.training:
            return self.mapping(self.base)
        state = (*self.mapping.parameters(), *self.mapping.buffers(), self.base)
        version = tuple((x.data_ptr(), x._version) for x in state)
        if self._cached is None or self._cached[0] != version:
            with torch.no_grad():
                self._cached = version, self.mapping(self.base)
        return self._cached[1]

    def quantize(self, features: Tensor) -> QuantizerOutput:
        table = self.codebook
        codes = nearest(features, table, self.distance)
        counts = self.count(codes)
        vectors = F.embedding(codes, table)
        commitment, codebook = vq_terms(features, vectors)
        return QuantizerOutput(
            z_q=self.estimator(features, vectors, counts.sum()) if self.training else vectors,
            codes=codes,
            loss=self.commitment_weight * commitment + codebook,
            metrics={"commitment": commitment.detach(), **codebook_metrics(counts)},
        )
