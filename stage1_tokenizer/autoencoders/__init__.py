"""Encoder-decoder pairs by name. Each has `encode`, `decode` and `downsampling`."""

from twostage.registry import Registry

AUTOENCODERS = Registry(
    "autoencoder",
    {"vqvae": "stage1_tokenizer.autoencoders.vqvae:VQVAE"},
    provided=("channels", "latent_dim"),
)
