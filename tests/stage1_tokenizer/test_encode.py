"""Frozen codes are the tokenizer's own, view by view."""

import pytest
import torch

from stage1_tokenizer.encode import encode
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.data import DATASETS
from twostage.data.codes import FrozenCodes
from twostage.models import fingerprint

DATA = {"name": "shapes", "image_size": 16, "count": 20}


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    autoencoder = {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4}
    built = VQTokenizer(autoencoder, {"name": "vq", "codebook_size": 64, "dim": 4}, image_size=16, channels=3).eval()
    built.quantizer.codebook.data.normal_(std=0.1)
    return built


@pytest.mark.parametrize("flips", [False, True])
def test_every_view_is_the_code_of_its_image(tokenizer, tmp_path, flips):
    manifest = encode(tokenizer, DATA, tmp_path / "codes", flips=flips, latents=True, batch_size=8)
    frozen, dataset = FrozenCodes(tmp_path / "codes", fingerprint(tokenizer)), DATASETS.build(DATA, split="train")
    assert (manifest.views, manifest.shape, len(frozen)) == (2 if flips else 1, [4, 4], 20)
    images = torch.stack([dataset[i]["images"] for i in range(20)])
    for view, seen in enumerate([images, images.flip(-1)][: manifest.views]):
        codes = torch.stack([frozen[i]["codes"][view] for i in range(20)])
        assert (codes == tokenizer.encode(seen).codes).float().mean() > 0.99
        latents = torch.stack([frozen[i]["latents"][view] for i in range(20)])
        torch.testing.assert_close(latents, tokenizer.encode_latents(seen), rtol=1e-2, atol=1e-3)
