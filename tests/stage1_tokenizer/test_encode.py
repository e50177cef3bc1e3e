"""Frozen codes are the tokenizer's own, view by view."""

import pytest
import torch
from torchvision.transforms.functional import ten_crop

from stage1_tokenizer.encode import encode
from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.views import VIEWS
from twostage.data import DATASETS
from twostage.data.codes import FrozenCodes
from twostage.errors import TwoStageError
from twostage.models import fingerprint

DATA = {"name": "shapes", "image_size": 16, "count": 20}


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    autoencoder = {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4}
    built = VQTokenizer(autoencoder, {"name": "vq", "codebook_size": 64, "dim": 4}, image_size=16, channels=3).eval()
    built.quantizer.codebook.data.normal_(std=0.1)
    return built


def views_of(data, views):
    """The images that the views of all of `data` should be, a view at a time."""
    size = 17 if views == "ten-crop" else 16
    dataset = DATASETS.build({**data, "image_size": size}, split="train")
    images = torch.stack([dataset[i]["images"] for i in range(20)])
    cuts = {"none": [images], "flips": [images]}.get(views)
    if cuts is None:
        cuts = [images[..., :16, :16]] + [images[..., t : t + 16, s : s + 16] for t in (0, 1) for s in (0, 1)]
    return cuts if views == "none" else cuts + [cut.flip(-1) for cut in cuts]


@pytest.mark.parametrize(("views", "count"), [("none", 1), ("flips", 2), ("ten-crop", 10)])
def test_every_view_is_the_code_of_its_image(tokenizer, tmp_path, views, count):
    manifest = encode(tokenizer, DATA, tmp_path / "codes", views=views, latents=True, batch_size=8)
    frozen = FrozenCodes(tmp_path / "codes", fingerprint(tokenizer))
    assert (manifest.views, manifest.shape, len(frozen), manifest.data) == (count, [4, 4], 20, DATA)
    expected = views_of(DATA, views)
    assert len(expected) == count
    for view, seen in enumerate(expected):
        codes = torch.stack([frozen[i]["codes"][view] for i in range(20)])
        assert (codes == tokenizer.encode(seen).codes).float().mean() > 0.99
        latents = torch.stack([frozen[i]["latents"][view] for i in range(20)])
        torch.testing.assert_close(latents, tokenizer.encode_latents(seen), rtol=1e-2, atol=1e-3)


def test_ten_crop_is_that_of_torchvision():
    """But for their order, and, with an odd number of pixels to spare, for one pixel in the mirrored centre."""
    images = torch.rand(2, 3, 36, 36)
    ours, theirs = VIEWS["ten-crop"].of(images, 32), ten_crop(images, 32)
    assert len(ours) == len(theirs)
    for cut, order in zip(ours, (4, 0, 1, 2, 3, 9, 6, 5, 8, 7)):
        assert torch.equal(cut, theirs[order])


@pytest.mark.parametrize(("size", "source"), [(256, 281), (384, 422), (32, 35)])
def test_ten_crop_reads_images_a_tenth_larger(size, source):
    assert VIEWS["ten-crop"].source_size(size) == source
    assert VIEWS["flips"].source_size(size) == size


def test_views_of_another_name_are_refused(tokenizer, tmp_path):
    with pytest.raises(TwoStageError, match="views: 'five' is not allowed; allowed: none, flips, ten-crop"):
        encode(tokenizer, DATA, tmp_path / "codes", views="five")
    assert not list(tmp_path.iterdir())
