"""Latent diffusion models: unconditional ones, and those conditioned on a class."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor

from pipelines.compvis import parts
from pipelines.compvis.checkpoint import copy_weights
from pipelines.compvis.parts import FIRST_STAGE
from pipelines.compvis.unet import UNetParams
from pipelines.compvis.unet_weights import CLASSES, is_averaged, split_attention, unet_name, unet_weights
from pipelines.compvis.vq import import_vq
from pipelines.latent_diffusion import LatentDiffusionPipeline
from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_ldm.backbones import BACKBONES
from stage2_ldm.denoiser import LatentDenoiser
from stage2_ldm.objectives import OBJECTIVES
from twostage.config import Count, Positive, Section, load
from twostage.errors import TwoStageError, refuse

AT = "model.params"
UNETS = ("ldm.modules.diffusionmodules.openaimodel.UNetModel",)
FIRST_STAGES = ("ldm.models.autoencoder.VQModelInterface", "ldm.models.autoencoder.VQModel")
KL_FIRST_STAGE = "ldm.models.autoencoder.AutoencoderKL"
UNCONDITIONAL = "__is_unconditional__"
CONDITIONS = (UNCONDITIONAL, "ldm.modules.encoders.modules.ClassEmbedder")
EMBEDDING = f"{CLASSES}embedding.weight"

WITH_NO_CLASS = 1001
"""Rows of the one released class embedding that has a "no class": ImageNet's 1000 classes, and it as the last."""


class ClassEmbedderParams(Section):
    """`cond_stage_config.params`: rows and width of the class embedding; the key is the data set's."""

    embed_dim: Count
    n_classes: Count = 1000
    key: str = "class"

    @property
    def has_no_class(self) -> bool:
        return self.n_classes == WITH_NO_CLASS

    @property
    def num_classes(self) -> int:
        return self.n_classes - self.has_no_class


class LDMParams(Section):
    """`params` of a latent diffusion model; what concerns only its training is passed over.

    Attributes:
        channels, image_size: d, and h = w of the latents.
        scale_factor: what the latents were multiplied with, unless the checkpoint says otherwise.
        scale_by_std: whether the checkpoint must say so, as it was measured.
    """

    model_config = ConfigDict(extra="ignore")

    channels: Count
    image_size: Count
    unet_config: Any
    cond_stage_config: Any
    first_stage_config: Any = None
    conditioning_key: Literal["crossattn"] | None = None
    timesteps: Count = 1000
    linear_start: Positive = 1e-4
    linear_end: Positive = 2e-2
    beta_schedule: Literal["linear"] = "linear"
    parameterization: Literal["eps"] = "eps"
    scale_factor: Positive = 1.0
    scale_by_std: bool = False


@dataclass(frozen=True)
class LatentPrior:
    """A denoiser and its scheduler: a latent diffusion model without its first stage.

    With a tokenizer of its latents it becomes a pipeline: `LatentDiffusionPipeline(tokenizer,
    LatentDenoiser.from_pretrained(folder), DDIMScheduler.from_pretrained(folder, subfolder="scheduler"))`.
    """

    denoiser: LatentDenoiser
    scheduler: Any

    def save_pretrained(self, folder: str | Path, safe_serialization: bool = True) -> None:
        """The denoiser in `folder` itself, the scheduler in `folder/scheduler`."""
        self.denoiser.save_pretrained(folder, safe_serialization=safe_serialization)
        self.scheduler.save_pretrained(Path(folder) / "scheduler")


def import_ldm(
    params: Mapping[str, Any], weights: Mapping[str, Tensor], config: Path, checkpoint: Path
) -> LatentDiffusionPipeline | LatentPrior:
    """The latent diffusion model that `params` describe, with the weights of the checkpoint.

    The UNet gets the moving average of its weights where the checkpoint holds one. A class embedding without a row for
    "no class" is given one of zeros, which no training has seen: such a model can be asked for classes only, without
    guidance. A KL first stage has no codes and is left out. All that is printed. The latents are the encoder's output
    before quantisation, times the checkpoint's `scale_factor`.

    Args:
        params: `model.params` of the config.
        weights: the checkpoint's.
        config, checkpoint: where they come from, for error messages.

    Returns:
        A whole pipeline, its classes named by their numbers; without first stage weights in the checkpoint only the
        denoiser and the scheduler.

    Raises:
        TwoStageError: a setting that has no counterpart here (a text condition), or weights that are
            not those of the config.
    """
    checked = load(LDMParams, params, f"{config}: {AT}")
    unet_params = parts.params(checked.unet_config, UNETS, f"{config}: {AT}.unet_config")
    unet = load(UNetParams, unet_params, f"{config}: {AT}.unet_config.params")
    classes = _classes(checked, unet, config)
    objective = {"timesteps": checked.timesteps, "betas": [checked.linear_start, checked.linear_end]}
    scheduler = OBJECTIVES.build(OBJECTIVES.resolve({"name": "diffusion", **objective}, f"{config}: {AT}")).scheduler()
    tokenizer = _tokenizer(checked, weights, config, checkpoint)
    scale = _scale(checked, weights, checkpoint)
    denoiser = _denoiser(checked, unet, classes, scale, config)
    _fill(denoiser, unet, classes, weights, checkpoint)
    if tokenizer is None:
        return LatentPrior(denoiser.eval(), scheduler)
    id2label = None if classes is None else {str(i): str(i) for i in range(classes.num_classes)}
    return LatentDiffusionPipeline(tokenizer, denoiser.eval(), scheduler, id2label=id2label)


def _classes(checked: LDMParams, unet: UNetParams, config: Path) -> ClassEmbedderParams | None:
    """The class embedding, if there is one, and whether it fits the UNet."""
    at = f"{config}: {AT}.cond_stage_config"
    params = parts.params(checked.cond_stage_config, CONDITIONS, at)
    if checked.cond_stage_config == UNCONDITIONAL:
        if unet.use_spatial_transformer:
            raise refuse(f"{at}.target", UNCONDITIONAL, f"{CONDITIONS[1]}, with use_spatial_transformer")
        return None
    classes = load(ClassEmbedderParams, params, f"{at}.params")
    if checked.conditioning_key is None or unet.context_dim is None:
        raise refuse(f"{config}: {AT}.conditioning_key", checked.conditioning_key, "crossattn, with a UNet that has it")
    if classes.embed_dim != unet.context_dim:
        raise refuse(f"{at}.params.embed_dim", classes.embed_dim, f"the UNet's context_dim ({unet.context_dim})")
    return classes


def _tokenizer(checked: LDMParams, weights: Mapping[str, Tensor], config: Path, checkpoint: Path) -> VQTokenizer | None:
    """The first stage, if the checkpoint holds it."""
    at = f"{AT}.first_stage_config"
    held = {name: value for name, value in weights.items() if name.startswith(FIRST_STAGE)}
    if not held and checked.first_stage_config is None:
        return None
    if parts.target(checked.first_stage_config) == KL_FIRST_STAGE:
        print("first stage: a KL autoencoder, which has no codes and is left out; the denoiser and its scheduler alone")
        return None
    params = parts.params(checked.first_stage_config, FIRST_STAGES, f"{config}: {at}")
    if not held:
        return None
    tokenizer = import_vq(params, held, config, checkpoint, at=f"{at}.params", prefix=FIRST_STAGE)
    found, given = (tokenizer.quantizer.dim, tokenizer.latent_size), (checked.channels, checked.image_size)
    if found != given:
        raise refuse(f"{config}: {AT}: channels, image_size", given, f"those of first_stage_config, {found}")
    return tokenizer


def _scale(checked: LDMParams, weights: Mapping[str, Tensor], checkpoint: Path) -> float:
    if "scale_factor" not in weights:
        if checked.scale_by_std:
            raise TwoStageError(f"{checkpoint}: 1 missing weights, first 'scale_factor'; allowed: one with it")
        return checked.scale_factor
    scale = float(weights["scale_factor"])
    if not (scale > 0 and math.isfinite(scale)):
        raise refuse(f"{checkpoint}: scale_factor", scale, "a positive number")
    return scale


def _denoiser(
    checked: LDMParams, unet: UNetParams, classes: ClassEmbedderParams | None, scale: float, config: Path
) -> LatentDenoiser:
    if unet.in_channels != checked.channels:
        at = f"{config}: {AT}.unet_config.params.in_channels"
        raise refuse(at, unet.in_channels, f"{AT}.channels ({checked.channels})")
    try:
        return LatentDenoiser(
            backbone_config=BACKBONES.resolve(unet.options(), "denoiser"),
            latent_size=checked.image_size,
            latent_dim=checked.channels,
            num_classes=None if classes is None else classes.num_classes,
            prediction_type="epsilon",
            latents="continuous",
            latent_mean=[0.0] * checked.channels,
            latent_std=[1 / scale] * checked.channels,
            knows_no_class=classes is None or classes.has_no_class,
        )
    except TwoStageError as error:
        raise TwoStageError(f"{config}: {error}") from None


def _fill(
    denoiser: LatentDenoiser,
    unet: UNetParams,
    classes: ClassEmbedderParams | None,
    weights: Mapping[str, Tensor],
    checkpoint: Path,
) -> None:
    """Copy the weights, and print which."""
    name = unet_name(unet)
    names = [name(ours).replace(".q.", ".qkv.") for ours in denoiser.state_dict()]
    chosen = split_attention(unet_weights(weights, names), unet.heads, checkpoint)
    lacks_no_class = classes is not None and not classes.has_no_class
    if lacks_no_class and EMBEDDING in chosen:
        chosen[EMBEDDING] = torch.cat([chosen[EMBEDDING], torch.zeros_like(chosen[EMBEDDING][:1])])
    copy_weights(denoiser, chosen, name, (), checkpoint)
    print("UNet: its moving average" if is_averaged(weights) else "UNet: as it is, no moving average is there")
    if lacks_no_class:
        print('classes: none of them is "no class"; samples need a class_label, and cannot be guided')
