"""Frozen codes of nothing in particular."""

import pytest
import torch

from twostage.data.codes import EncodedBatch, FrozenCodes, write_codes

CLASSES = ["x", "y", "z"]


@pytest.fixture
def frozen(tmp_path):
    """`frozen(shape, classes, views)` -> 20 images' random codes of 7, written and read."""

    def make(shape=(3, 3), classes=CLASSES, views=2):
        generator = torch.Generator().manual_seed(0)
        codes = torch.randint(7, (20, views, *shape), generator=generator)
        labels = torch.arange(20) % max(1, len(classes))
        batch = EncodedBatch(codes=codes, labels=labels, latents=None)
        origin = {"tokenizer": "t" * 64, "data": {"name": "shapes"}, "split": "train", "classes": list(classes)}
        write_codes(tmp_path / "codes", [batch], codebook_size=7, **origin)
        return FrozenCodes(tmp_path / "codes", "t" * 64)

    return make
