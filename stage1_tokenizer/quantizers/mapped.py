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
        self._kept: tuple[tuple[Tensor, ...], Tensor] | None = None

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """C', [K, d] in the base's dtype whatever the autocast; in eval without a gradient, and kept."""
        with torch.autocast(self.base.device.type, enabled=False):
            return self.mapped() if self.training else self._mapped_once()

    def mapped(self) -> Tensor:
        """P(C), [K, d]."""
        return self.mapping(self.base)

    def _mapped_once(self) -> Tensor:
        """P(C), computed anew only when the state is not that of the last time.

        The state's values are compared: versions and addresses do not tell of writes through `.data` (as averages of
        weights are copied in), of memory given out a second time, or of anything in inference mode.
        """
        state = (*self.parameters(), *self.buffers())
        if self._kept is None or not all(map(same, self._kept[0], state)):
            with torch.inference_mode(False), torch.no_grad():
                self._kept = tuple(x.detach().clone() for x in state), self.mapped()
        return self._kept[1]

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


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in device, dtype, shape and every value."""
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
