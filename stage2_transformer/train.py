"""`twostage train transformer`: next-code prediction over frozen codes."""

import math
from pathlib import Path

import torch
from torch import Tensor

from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_transformer.backbones import BACKBONES
from stage2_transformer.config import TransformerConfig
from stage2_transformer.prior import TransformerPrior, code_loss
from twostage.config import claim_run
from twostage.data.codes import FrozenCodes, one_view
from twostage.finetune import check_alike, inherit
from twostage.models import fingerprint
from twostage.training.loop import fit, make_accelerator
from twostage.training.task import StepOutput, Task


class TransformerTask(Task):
    """Predict every code from the class and the codes before it.

    Args:
        label_dropout, token_dropout: see `code_loss`.
    """

    model: TransformerPrior

    def __init__(self, model: TransformerPrior, label_dropout: float, token_dropout: float = 0.0) -> None:
        super().__init__()
        self.model, self.label_dropout, self.token_dropout = model, label_dropout, token_dropout

    def forward(self, batch: dict[str, Tensor]) -> StepOutput:
        codes = one_view(batch)["codes"]
        loss = code_loss(self.model, codes, batch["class_label"], self.label_dropout, self.token_dropout)
        return StepOutput(loss=loss, metrics={"bits_per_image": loss.detach() * self.model.length / math.log(2)})


def train(
    config: TransformerConfig, tokenizer: VQTokenizer, run: Path, start: TransformerPrior | None = None
) -> TransformerPrior:
    """Train, or go on training, the prior of `config` in the folder `run`; returns it, or its moving average.

    Args:
        start: the prior at `config.start_from`, needed only as long as the run has no checkpoint.

    Raises:
        TwoStageError: the codes are another tokenizer's, or broken, or the run cannot start from `start`.
    """
    torch.manual_seed(config.training.seed)
    accelerator = make_accelerator(config.training)
    codes = FrozenCodes(config.codes, fingerprint(tokenizer))
    model = TransformerPrior(
        backbone_config=config.prior,
        codebook_size=codes.manifest.codebook_size,
        code_shape=codes.manifest.shape,
        num_classes=codes.manifest.num_classes(conditional=config.conditional),
        knows_no_class=config.label_dropout > 0,
    )
    if start is not None:
        check_alike(_anatomy(model), _anatomy(start), str(config.start_from))
        inherit(model, start)
    claim_run(run, config, TransformerConfig.PLACES.__contains__)
    task = TransformerTask(model, config.label_dropout, config.token_dropout)
    prior = fit(task, codes, config.training, config.optimizer, run, accelerator)
    assert isinstance(prior, TransformerPrior)
    return prior


def _anatomy(model: TransformerPrior) -> dict[str, object]:
    """What must be the same to go on; an option that is new since it was saved has its default."""
    shared = {key: model.config[key] for key in ("codebook_size", "code_shape")}
    return {**shared, "prior": BACKBONES.resolve(model.config["backbone_config"], "prior")}
