"""A tokenizer in bfloat16: the autoencoder is, the codes are not."""

import pytest
import torch

from stage1_tokenizer.tokenizer import VQTokenizer


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    autoencoder = {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4}
    quantizer = {"name": "vq", "codebook_size": 16, "dim": 4}
    return VQTokenizer(autoencoder, quantizer, image_size=16, channels=3).eval()


@pytest.mark.parametrize("loaded", [False, True])
def test_bfloat16_encodes_and_decodes(tokenizer, tmp_path, loaded):
    if loaded:
        tokenizer.save_pretrained(tmp_path)
        half = VQTokenizer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    else:
        half = tokenizer.to(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.quantizer.codebook.dtype == torch.float32
    images = torch.rand(2, 3, 16, 16, dtype=torch.bfloat16) * 2 - 1
    encoded = half.encode(images)
    assert encoded.z_q.dtype == torch.bfloat16
    assert torch.equal(half.decode(encoded.z_q), half.decode_codes(encoded.codes))
