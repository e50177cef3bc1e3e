"""Residual quantisation: "Autoregressive Image Generation using Residual Quantization" (RQ-VAE, Lee et al., 2022).

    r_0 = z,   k_i = nearest code to r_{i-1},   r_i = r_{i-1} - c_{k_i},   z_q = sum_i c_{k_i}          (Eq. 2-3)

Every stage quantises what the stages before it left over; a feature gets q codes, from coarse to fine.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stage1_tokenizer.quantizers import INNER
from stage1_tokenizer.quantizers.base import Quantizer, QuantizerOutput, codebook_metrics
from twostage.config import Count, component

PLAIN: dict[str, Any] = {"name": "vq"}


class Residual(Quantizer):
    """Stages of another quantiser, each with a codebook of its own: `codebook` is [q, K, d].

    The loss is the sum of the stages' losses. Each stage passes a q-th of its gradient on to z: of straight-through
    estimators that is the identity in all, of the commitments their mean over the stages, as in the authors' code.

    Args:
        codebook_size: K, of every stage.
        dim: d.
        stages: q.
        inner: the stages' quantiser, `{name: ..., option: value}`.
    """

    def __init__(
        self,
        codebook_size: Count,
        dim: Count,
        *,
        stages: Count = 4,
        inner: component(INNER) = PLAIN,  # type: ignore[valid-type]
    ) -> None:
        super().__init__(codebook_size, dim)
        self.maps, self.entries = stages, stages * codebook_size
        built = (INNER.build(inner, codebook_size=codebook_size, dim=dim) for _ in range(stages))
        self.stages: Sequence[Quantizer] = nn.ModuleList(built)  # type: ignore[assignment]

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """[q, K, d]."""
        return torch.stack([stage.codebook for stage in self.stages])

    def quantize(self, features: Tensor) -> QuantizerOutput:
        left = features / self.maps + (features - features / self.maps).detach()
        outputs = []
        for stage in self.stages:
            outputs.append(stage.quantize(left))
            left = left - outputs[-1].z_q.detach()
        codes = torch.stack([output.codes for output in outputs], dim=1)
        means = defaultdict(list)
        for output in outputs:
            for key, value in output.metrics.items():
                means[key].append(value)
        return QuantizerOutput(
            z_q=sum((output.z_q for output in outputs[1:]), outputs[0].z_q) if self.training else self.lookup(codes),
            codes=codes,
            loss=torch.stack([output.loss for output in outputs]).sum(),
            metrics={
                **{key: torch.stack(values).mean() for key, values in means.items()},
                **codebook_metrics(self.count(codes)),
            },
        )

    def lookup(self, codes: Tensor) -> Tensor:
        vectors = [stage.lookup(column) for stage, column in zip(self.stages, codes.unbind(1))]
        return sum(vectors[1:], vectors[0])

    def count(self, codes: Tensor) -> Tensor:
        """Counts int64 [q K], stage after stage, of codes [n, q] or [b, q, h, w]."""
        first = torch.arange(self.maps, device=codes.device) * self.codebook_size
        return super().count(codes.movedim(1, -1) + first)

    def start_codebook(self, features: Tensor, generator: torch.Generator) -> None:
        """Stage by stage: k-means over what the stages before left of the features [n, d]."""
        training = self.training
        for stage in self.stages:
            stage.start_codebook(features, generator)
            features = features - stage.eval().quantize(features).z_q.detach()
        self.train(training)

    def initialize_codebook(self, centroids: Tensor) -> None:
        """centroids: [q, K, d]."""
        for stage, own in zip(self.stages, centroids):
            stage.initialize_codebook(own)

    def set_progress(self, step: int, epoch: int) -> None:
        for stage in self.stages:
            stage.set_progress(step, epoch)
