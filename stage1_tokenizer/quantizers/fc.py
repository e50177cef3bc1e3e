"""FC: factorised, l2-normalised codes, as in "Vector-quantized Image Modeling with Improved VQGAN" (Yu et al., 2021).

    L = ||sg(z') - c'||^2 + beta ||z' - sg(c')||^2,   z' = z / |z|,   c' = c / |c|

The lookup takes place in few dimensions, on the unit sphere: nearest by l2 and by cosine are the same there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics, vq_terms
from stage1_tokenizer.quantizers.nearest import nearest
from stage1_tokenizer.quantizers.straight_through import ESTIMATORS, StraightThrough
from twostage.config import Count, NonNegative


class FC(Quantizer):
    """VQ on the unit sphere; the decoder gets unit vectors.

    The projections to few dimensions and back are the autoencoder's own: the last convolution of the encoder ends in
    `dim` channels and the first of the decoder begins with them. The published settings have 3 to 64 of them.

    Args:
        codebook_size: K; the codes start at random directions.
        dim: d, few: 8 where nothing else is known.
        straight_through: how the gradient gets past the code.
        commitment_weight: beta.
    """

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        straight_through: StraightThrough = "plain",
        commitment_weight: NonNegative = 0.25,
    ) -> None:
        super().__init__(codebook_size, dim)
        self.distance = "cosine"
        self.estimator = ESTIMATORS[straight_through]
        self.commitment_weight = commitment_weight
        self.vectors = nn.Parameter(F.normalize(torch.randn(codebook_size, dim), dim=1))

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """c', [K, d], of length 1."""
        return F.normalize(self.vectors, dim=1)

    def quantize(self, features: Tensor) -> QuantizerOutput:
        table = self.codebook
        codes = nearest(features, table, self.distance)
        counts = self.count(codes)
        directions, vectors = F.normalize(features, dim=1), F.embedding(codes, table)
        commitment, codebook = vq_terms(directions, vectors)
        return QuantizerOutput(
            z_q=self.estimator(directions, vectors, counts.sum()) if self.training else vectors,
            codes=codes,
            loss=self.commitment_weight * commitment + codebook,
            metrics={"commitment": commitment.detach(), **codebook_metrics(counts)},
        )

    def initialize_codebook(self, centroids: Tensor) -> None:
        """Afterwards `codebook` holds the centroids' directions."""
        self.vectors.data.copy_(F.normalize(centroids, dim=1))
