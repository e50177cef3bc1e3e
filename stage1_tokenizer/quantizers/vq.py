"""VQ: "Neural Discrete Representation Learning" (van den Oord et al., 2017).

    L = ||sg(z) - c||^2 + beta ||z - sg(c)||^2,   c the code nearest to z                          (Eq. 3)

Both terms are means over features and dimensions. beta weighs the commitment term, the one that moves the encoder.
(CompVis' published tokenizers were trained with beta on the other term: weights 1 and 0.25 in place of 0.25 and 1.)
"""

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics, uniform_codebook, vq_terms
from stage1_tokenizer.quantizers.nearest import Distance, nearest
from stage1_tokenizer.quantizers.straight_through import ESTIMATORS, StraightThrough
from twostage.config import Count, NonNegative


class VQ(Quantizer):
    """A codebook moved by gradient only; codes that are never nearest never move.

    Args:
        codebook_size: K; the codes start at U(-1/K, 1/K).
        dim: d.
        distance: what "nearest" means. The vectors themselves are used as they are, of any norm.
        straight_through: how the gradient gets past the code.
        commitment_weight: beta of Eq. 3.
        codebook_weight: of the other term; 1 in Eq. 3.
    """

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        distance: Distance = "l2",
        straight_through: StraightThrough = "plain",
        commitment_weight: NonNegative = 0.25,
        codebook_weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(codebook_size, dim)
        self.distance = distance
        self.estimator = ESTIMATORS[straight_through]
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.codebook = nn.Parameter(uniform_codebook(codebook_size, dim))

    def quantize(self, features: Tensor) -> QuantizerOutput:
        codes = nearest(features, self.codebook, self.distance)
        counts = self.count(codes)
        vectors = F.embedding(codes, self.codebook)
        commitment, codebook = vq_terms(features, vectors)
        return QuantizerOutput(
            z_q=self.estimator(features, vectors, counts.sum()) if self.training else vectors,
            codes=codes,
            loss=self.commitment_weight * commitment + self.codebook_weight * codebook,
            metrics={"commitment": commitment.detach(), **codebook_metrics(counts)},
        )

    def initialize_codebook(self, centroids: Tensor) -> None:
        self.codebook.data.copy_(centroids)
