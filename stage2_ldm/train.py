"""`twostage train ldm`: the denoising loss over frozen codes, and the pipeline's parts that the run leaves behind."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from warnings import warn

import torch
from torch import Tensor

from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_ldm.backbones import BACKBONES
from stage2_ldm.config import LDMConfig
from stage2_ldm.denoiser import LatentDenoiser
from stage2_ldm.objectives import OBJECTIVES
from stage2_ldm.objectives.diffusion import Diffusion
from stage2_ldm.objectives.flow import Flow
from twostage.config import claim_run
from twostage.data.codes import FrozenCodes, all_views, one_view
from twostage.errors import refuse
from twostage.files import read_json, write_json
from twostage.finetune import check_alike, inherit
from twostage.models import fingerprint
from twostage.training.loop import fit, make_accelerator
from twostage.training.noise import rand_rows
from twostage.training.task import StepOutput, Task

STATISTICS = 10_000
"""Images over which the latents' mean and standard deviation are measured (all, if there are fewer)."""

STATISTICS_FILE = "latents.json"
"""Where a run keeps them: what it started from may have changed by the time it goes on."""

LatentSource = Callable[[dict[str, Tensor]], Tensor]
"""A batch of frozen codes -> latents [b, d, h, w], not normalised."""


class LDMTask(Task):
    """Denoise frozen latents, given their class.

    Args:
        model: the denoiser.
        objective: what it is trained to predict.
        latents_of: where a batch's latents come from.
        label_dropout: the probability with which each label becomes "no class".
    """

    model: LatentDenoiser

    def __init__(
        self,
        model: LatentDenoiser,
        objective: Diffusion | Flow,
        latents_of: LatentSource,
        label_dropout: float,
    ) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.latents_of, self.label_dropout = latents_of, label_dropout

    def forward(self, batch: dict[str, Tensor]) -> StepOutput:
        clean = self.model.normalize(self.latents_of(one_view(batch)))
        labels = drop_labels(self.model, batch["class_label"], self.label_dropout)
        return StepOutput(loss=self.objective.loss(self.model, clean, labels), metrics={})


def train(config: LDMConfig, tokenizer: VQTokenizer, run: Path, start: LatentDenoiser | None = None) -> LatentDenoiser:
    """Train, or go on training, the denoiser of `config` in the folder `run`; returns its moving average.

    Args:
        start: the denoiser at `config.start_from`, needed only as long as the run has no checkpoint.

    Raises:
        TwoStageError: the codes are another tokenizer's, or broken, or hold no continuous latents though asked for;
            or the run cannot start from `start`.
    """
    torch.manual_seed(config.training.seed)
    accelerator = make_accelerator(config.training)
    codes = FrozenCodes(config.codes, fingerprint(tokenizer))
    tokenizer.to(accelerator.device).eval().requires_grad_(False)
    latents_of = LATENTS[config.latents](codes, tokenizer)
    objective: Diffusion | Flow = OBJECTIVES.build(config.objective)
    statistics = recorded_statistics(run)
    if statistics is None:
        statistics = latent_statistics(codes, latents_of, accelerator.device)
        statistics = statistics if start is None else kept_statistics(start, statistics)
    model = LatentDenoiser(
        backbone_config=config.denoiser,
        latent_size=codes.manifest.shape[-1],
        latent_dim=tokenizer.quantizer.dim,
        num_classes=codes.manifest.num_classes(conditional=config.conditional),
        prediction_type=objective.prediction_type,
        latents=config.latents,
        latent_mean=statistics.mean,
        latent_std=statistics.std,
        knows_no_class=config.label_dropout > 0,
    )
    if start is not None:
        check_alike(_anatomy(model), _anatomy(start), str(config.start_from))
        inherit(model, start)
    claim_run(run, config, LDMConfig.PLACES.__contains__)
    write_json(run / STATISTICS_FILE, asdict(statistics))
    task = LDMTask(model, objective, latents_of, config.label_dropout)
    denoiser = fit(task, codes, config.training, config.optimizer, run, accelerator)
    assert isinstance(denoiser, LatentDenoiser)
    return denoiser


def drop_labels(denoiser: LatentDenoiser, class_label: Tensor, probability: float) -> Tensor:
    """Class ids [b] of which each is "no class" with this probability."""
    if denoiser.config["num_classes"] is None:
        return class_label
    dropped = rand_rows(class_label) < probability
    return class_label.masked_fill(dropped, denoiser.null_class)


def quantized_latents(codes: FrozenCodes, tokenizer: VQTokenizer) -> LatentSource:
    """Latents are the vectors of the codes."""
    return lambda batch: tokenizer.quantizer.decode(batch["codes"])


def continuous_latents(codes: FrozenCodes, tokenizer: VQTokenizer) -> LatentSource:
    """Latents are the encoder's output before quantisation, as kept on disk."""
    if not codes.manifest.latents:
        raise refuse("latents", "continuous", f"quantized; {codes.folder} was encoded without --latents")
    return lambda batch: batch["latents"]


LATENTS = {"quantized": quantized_latents, "continuous": continuous_latents}


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of each latent channel."""

    mean: list[float]
    std: list[float]


@torch.no_grad()
def latent_statistics(codes: FrozenCodes, latents_of: LatentSource, device: torch.device) -> LatentStatistics:
    """Mean and standard deviation per channel, over `STATISTICS` images, all views of each, evenly spaced."""
    rows = torch.linspace(0, len(codes) - 1, min(STATISTICS, len(codes))).long()
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for part in rows.split(256):
        examples = [codes[i] for i in part.tolist()]
        batch = {key: torch.stack([e[key] for e in examples]).to(device) for key in examples[0]}
        latents = latents_of(all_views(batch)).double().movedim(1, 0).flatten(1).cpu()
        total, squares, count = total + latents.sum(1), squares + latents.square().sum(1), count + latents.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    return LatentStatistics(mean.tolist(), std.tolist())


def recorded_statistics(run: Path) -> LatentStatistics | None:
    """Those of a run that has begun."""
    path = run / STATISTICS_FILE
    return LatentStatistics(**read_json(path)) if path.exists() else None


def kept_statistics(start: LatentDenoiser, measured: LatentStatistics) -> LatentStatistics:
    """Those that a denoiser was trained with, which stay; a warning where the latents now measured are far from them.

    Kept, a code has the same place in the space of the network as before. Measured anew, every code would move.
    """
    kept = LatentStatistics(start.config["latent_mean"], start.config["latent_std"])
    if len(kept.mean) != len(measured.mean):
        return measured  # another tokenizer's, refused by its width
    (mean, std), (new_mean, new_std) = (torch.tensor([s.mean, s.std]) for s in (kept, measured))
    square = (((new_mean - mean) / std).square() + (new_std / std).square()).mean().item()
    if not 1 / FAR < square < FAR:
        warn(
            f"these latents have a mean square of {square:.3g} where the denoiser to start from knows 1: "
            "is their tokenizer a relative of the one it was trained on?",
            stacklevel=2,
        )
    return kept


FAR = 4.0
"""A mean square of the latents, normalised as before, that is so many times too large or too small is announced."""


def _anatomy(model: LatentDenoiser) -> dict[str, object]:
    """What must be the same to go on; an option that is new since it was saved has its default."""
    shared = ("latent_size", "latent_dim", "prediction_type")
    backbone = BACKBONES.resolve(model.config["backbone_config"], "denoiser")
    return {**{key: model.config[key] for key in shared}, "denoiser": backbone}
