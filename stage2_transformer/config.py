"""The schema of an autoregressive prior's run."""

from typing import ClassVar, Self

from pydantic import model_validator

from stage2_transformer.backbones import BACKBONES
from stage2_transformer.backbones.heads import check_heads
from twostage.config import Fraction, OptimizerConfig, Section, TrainingConfig, component


class TransformerConfig(Section):
    """`twostage train transformer`: which frozen codes, whose tokenizer, what network, how it is trained.

    Attributes:
        codes: a folder that `twostage encode` wrote.
        tokenizer: the run folder of the tokenizer that wrote them.
        conditional: whether sequences begin with their class.
        label_dropout: how often a label is replaced by "no class" in training, which guidance needs.
        token_dropout: how often a code that others are predicted from is replaced by a random one in training.
        start_from: a prior's run folder or a saved pipeline, whose transformer is the start.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("codes", "tokenizer")
    """Where things lie is not part of what a run is: it may change between two commands of one run."""

    codes: str
    tokenizer: str
    start_from: str | None = None
    conditional: bool = True
    label_dropout: Fraction = 0.1
    token_dropout: Fraction = 0.0
    prior: component(BACKBONES)  # type: ignore[valid-type]
    optimizer: OptimizerConfig
    training: TrainingConfig

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.prior["width"], self.prior["heads"], self.prior.get("positions", "learned"))
        return self
