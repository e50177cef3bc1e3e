"""TransformerPrior: p(codes | class), one code after another in raster order.

    p(c_1 .. c_n | y) = prod_i p(c_i | y, c_1 .. c_{i-1}),      L = -log p / n

The sequence is [class token, c_1 .. c_n]; where a position has q codes, they follow each other. The vocabulary holds
the K codes of every map, then N class tokens, then "no class".
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from stage2_transformer.backbones import BACKBONES
from twostage.errors import refuse
from twostage.models import CheckedLoading
from twostage.training.noise import rand_rows, randint_rows


class TransformerPrior(CheckedLoading, ModelMixin, ConfigMixin):
    """An autoregressive prior over the codes of one image.

    Args:
        backbone_config: `{name: ..., option: value}` of `BACKBONES`.
        codebook_size: K.
        code_shape: (h, w) of the codes of one image, or (q, h, w) with several code maps; n = q h w.
        num_classes: N, or None for an unconditional model.
        knows_no_class: whether it was also trained without a class, which guidance needs.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        backbone_config: dict[str, Any],
        codebook_size: int,
        code_shape: list[int],
        num_classes: int | None,
        knows_no_class: bool = True,
    ) -> None:
        super().__init__()
        *maps, h, w = code_shape
        self.maps = maps[0] if maps else 1
        self.length = self.maps * h * w
        vocabulary = self.maps * codebook_size + (num_classes or 0) + 1
        self.backbone = BACKBONES.build(backbone_config, vocabulary=vocabulary, grid=(self.maps, h, w))

    @property
    def null_class(self) -> int:
        """The class id that means "no class"."""
        return self.config["num_classes"] or 0

    def class_tokens(self, class_label: Tensor) -> Tensor:
        """Class ids [b] in 0..N, N meaning "no class" -> tokens [b, 1]."""
        return (class_label + self.maps * self.config["codebook_size"])[:, None]

    def sequence(self, codes: Tensor) -> Tensor:
        """Codes [b, h, w] or [b, q, h, w] -> [b, n], in the order in which they are predicted."""
        return codes.reshape(len(codes), self.maps, -1).transpose(1, 2).flatten(1)

    def codes(self, sequence: Tensor) -> Tensor:
        """The inverse of `sequence`."""
        by_map = sequence.reshape(len(sequence), -1, self.maps).transpose(1, 2)
        return by_map.reshape(len(sequence), *self.config["code_shape"])

    def code_tokens(self, sequence: Tensor, first: int = 0) -> Tensor:
        """Codes [b, m], of which the first is the sequence's number `first`, as tokens [b, m]."""
        return sequence + self._map_of(first, sequence) * self.config["codebook_size"]

    def _map_of(self, first: int, sequence: Tensor) -> Tensor:
        return (torch.arange(sequence.shape[1], device=sequence.device) + first) % self.maps

    def forward(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """Logits of the code after each token.

        Args:
            tokens: int64 [b, n], the whole sequence so far, or with a cache only what it has not seen.
            cache: a transformers Cache, extended in place.

        Returns:
            [b, n, K]; only codes can follow, of the map whose turn it is.

        Raises:
            TwoStageError: more tokens than a class and the codes of one image.
        """
        seen = 0 if cache is None else cache.get_seq_length()
        if (length := seen + tokens.shape[1]) > self.length + 1:
            raise refuse("tokens", f"{length} of them", f"at most {self.length + 1}: a class and the codes of an image")
        following = self._map_of(seen, tokens)
        output = self.backbone(input_ids=tokens, past_key_values=cache, use_cache=cache is not None)
        by_map = output.logits[..., : self.maps * self.config["codebook_size"]].unflatten(-1, (self.maps, -1))
        return by_map[:, torch.arange(tokens.shape[1], device=tokens.device), following]


def code_loss(
    prior: TransformerPrior, codes: Tensor, class_label: Tensor, label_dropout: float, token_dropout: float = 0.0
) -> Tensor:
    """What training descends: the mean negative log-likelihood of a code, in nats, a scalar.

    Args:
        codes: int64 [b, h, w] or [b, q, h, w].
        class_label: int64 [b] in 0..N-1; ignored by an unconditional prior.
        label_dropout: the probability with which each label becomes "no class".
        token_dropout: the probability with which each code that others are predicted from is replaced by a random one
            ("Taming Transformers", 2021: 1 - pkeep); the predicted ones stay.
    """
    if prior.config["num_classes"] is not None:
        dropped = rand_rows(codes) < label_dropout
        class_label = class_label.masked_fill(dropped, prior.null_class)
    sequence = prior.sequence(codes)
    given = sequence[:, :-1]
    if token_dropout:
        replaced = rand_rows(given, given.shape[1]) < token_dropout
        given = torch.where(replaced, randint_rows(given, prior.config["codebook_size"], given.shape[1]), given)
    return next_code_loss(prior, class_label, given, sequence)


def next_code_loss(prior: TransformerPrior, class_label: Tensor, given: Tensor, following: Tensor) -> Tensor:
    """-log p of codes that follow a class and other codes, in nats, their mean, a scalar.

    Args:
        class_label: int64 [b] in 0..N; ignored by an unconditional prior.
        given: int64 [b, n - 1], the codes before each but the first.
        following: int64 [b, n].
    """
    if prior.config["num_classes"] is None:
        class_label = torch.zeros_like(class_label)
    tokens = torch.cat([prior.class_tokens(class_label), prior.code_tokens(given)], dim=1)
    return F.cross_entropy(prior(tokens).flatten(0, 1).float(), following.flatten())


TransformerPrior.__module__ = "stage2_transformer"
