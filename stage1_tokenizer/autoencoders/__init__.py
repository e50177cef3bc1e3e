"""Encoder-decoder pairs by name, each an `Autoencoder`."""

from twostage.registry import Registry

AUTOENCODERS = Registry(
    "autoencoder",
    {
        "vqvae": "stage1_tokenizer.autoencoders.vqvae:VQVAE",
        "celebahq": "stage1_tokenizer.autoencoders.celebahq:CelebAHQ",
        "vqgan": "stage1_tokenizer.autoencoders.vqgan:VQGAN",
        "movq": "stage1_tokenizer.autoencoders.movq:MoVQ",
    },
    provided=("channels", "latent_dim"),
)
