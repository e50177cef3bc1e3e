"""Stage two, latent diffusion: a denoiser over a frozen tokenizer's latents."""

from typing import TYPE_CHECKING

from twostage.lazy import exports

if TYPE_CHECKING:
    from diffusers import ModelMixin as ModelMixin

    from stage2_ldm.denoiser import LatentDenoiser as LatentDenoiser

# diffusers' loader looks a component up in its package, and wants ModelMixin beside it.
__getattr__ = exports(__name__, {"LatentDenoiser": "stage2_ldm.denoiser", "ModelMixin": "diffusers"})
