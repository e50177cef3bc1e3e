"""Denoising networks by name. Each signature is the schema of its options; diffusers is imported when one is built.

A network is called with noisy latents [b, d, h, w], timesteps [b] and class ids int64 [b] in 0..N, N meaning "no
class", or None for an unconditional model; its prediction is `.sample` of what it returns, as in diffusers.
"""

from twostage.registry import Registry

BACKBONES = Registry(
    "denoiser",
    {
        "unet": "stage2_ldm.backbones.unet:unet",
        "cross_attention_unet": "stage2_ldm.backbones.cross_attention_unet:CrossAttentionUNet",
        "dit": "stage2_ldm.backbones.dit:DiT",
    },
    provided=("latent_size", "latent_dim", "num_classes"),
)
