"""The two stages composed: diffusers-style pipelines, the evaluation, the quickstart, and the command `twostage`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.autoregressive import AutoregressivePipeline as AutoregressivePipeline
    from pipelines.latent_diffusion import LatentDiffusionPipeline as LatentDiffusionPipeline

_EXPORTS = {
    "LatentDiffusionPipeline": "pipelines.latent_diffusion",
    "AutoregressivePipeline": "pipelines.autoregressive",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
