"""TransformerPrior: p(codes | class), one code after another in raster order.

    p(c_1 .. c_n | y) = prod_i p(c_i | y, c_1 .. c_{i-1}),      L = -log p / n

The sequence is [class token, c_1 .. c_n]. The vocabulary holds the K codes, then N class tokens, then "no class".
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from stage2_transformer.backbones import BACKBONES
from twostage.models import CheckedLoading


class TransformerPrior(CheckedLoading, ModelMixin, ConfigMixin):
    """An autoregressive prior over the codes of one image.

    Args:
        backbone_config: `{name: ..., option: value}` of `BACKBONES`.
        codebook_size: K.
        code_shape: (h, w) of the codes of one image; n = h w.
        num_classes: N, or None for an unconditional model.
    """

    @register_to_config
    def __init__(
        self, backbone_config: dict[str, Any], codebook_size: int, code_shape: list[int], num_classes: int | None
    ) -> None:
        super().__init__()
        self.length = code_shape[0] * code_shape[1]
        self.backbone = BACKBONES.build(
            backbone_config, vocabulary=codebook_size + (num_classes or 0) + 1, length=self.length + 1
        )

    @property
    def null_class(self) -> int:
        """The class id that means "no class"."""
        return self.config["num_classes"] or 0

    def class_tokens(self, class_label: Tensor) -> Tensor:
        """Class ids [b] in 0..N, N meaning "no class" -> tokens [b, 1]."""
        return (class_label + self.config["codebook_size"])[:, None]

    def forward(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """Logits of the code after each token.

        Args:
            tokens: int64 [b, n], the whole sequence so far, or with a cache only what it has not seen.
            cache: a transformers Cache, extended in place.

        Returns:
            [b, n, K]; only codes can follow.
        """
        output = self.backbone(input_ids=tokens, past_key_values=cache, use_cache=cache is not None)
        return output.logits[..., : self.config["codebook_size"]]


def code_loss(prior: TransformerPrior, codes: Tensor, class_label: Tensor, label_dropout: float) -> Tensor:
    """Mean negative log-likelihood of a code, in nats, a scalar.

    Args:
        codes: int64 [b, h, w].
        class_label: int64 [b] in 0..N-1; ignored by an unconditional prior.
        label_dropout: the probability with which each label becomes "no class".
    """
    if prior.config["num_classes"] is None:
        class_label = torch.zeros_like(class_label)
    else:
        dropped = torch.rand(len(codes), device=codes.device) < label_dropout
        class_label = class_label.masked_fill(dropped, prior.null_class)
    sequence = codes.flatten(1)
    tokens = torch.cat([prior.class_tokens(class_label), sequence[:, :-1]], dim=1)
    return F.cross_entropy(prior(tokens).flatten(0, 1).float(), sequence.flatten())


TransformerPrior.__module__ = "stage2_transformer"
