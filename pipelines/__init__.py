"""The two stages composed: diffusers-style pipelines, the evaluation, the quickstart, and the command `twostage`."""

from typing import TYPE_CHECKING

from twostage.lazy import exports

if TYPE_CHECKING:
    from pipelines.autoregressive import AutoregressivePipeline as AutoregressivePipeline
    from pipelines.latent_diffusion import LatentDiffusionPipeline as LatentDiffusionPipeline

__getattr__ = exports(
    __name__,
    {
        "LatentDiffusionPipeline": "pipelines.latent_diffusion",
        "AutoregressivePipeline": "pipelines.autoregressive",
    },
)
