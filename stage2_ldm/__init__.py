"""Stage two, latent diffusion: a denoiser over a frozen tokenizer's latents."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import ModelMixin as ModelMixin

    from stage2_ldm.denoiser import LatentDenoiser as LatentDenoiser

# diffusers' loader looks a component up in its package, and wants ModelMixin beside it.
_EXPORTS = {"LatentDenoiser": "stage2_ldm.denoiser", "ModelMixin": "diffusers"}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
