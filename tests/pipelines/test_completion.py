"""Completion: what is known stays, what is not is drawn, and nothing of it is looked at."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import AutoregressivePipeline
from pipelines.completion import Known, known_part
from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_transformer.prior import TransformerPrior
from twostage.errors import TwoStageError


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))


@pytest.fixture
def lower_half():
    mask = np.zeros((16, 16), np.uint8)
    mask[8:] = 255
    return Image.fromarray(mask)


def complete(pipeline, image, mask, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    quick = {"num_inference_steps": 4} if hasattr(pipeline, "denoiser") else {}
    options = {"class_label": "dog", "output_type": "np", **quick, **options}
    return pipeline(image=image, mask=mask, generator=generator, **options).images


def test_known_pixels_come_out_as_they_went_in(pipeline, picture, lower_half):
    images = complete(pipeline, picture, lower_half, num_images=2)
    original = np.asarray(picture) / 255
    np.testing.assert_allclose(images[:, :8], np.stack([original[:8]] * 2), atol=1e-6)
    assert np.abs(images[0, 8:] - original[8:]).mean() > 0.05
    assert np.abs(images[0, 8:] - images[1, 8:]).mean() > 1e-3  # each draws its own


def test_what_is_to_be_drawn_is_not_looked_at(pipeline, picture, lower_half):
    other = np.asarray(picture).copy()
    other[8:] = 255 - other[8:]
    first = complete(pipeline, picture, lower_half)
    np.testing.assert_allclose(first, complete(pipeline, Image.fromarray(other), lower_half), atol=1e-6)


def test_what_is_known_matters(ldm, lower_half):
    drawn = [complete(ldm, Image.new("RGB", (16, 16), colour), lower_half, snap=False) for colour in ("black", "white")]
    assert np.abs(drawn[0] - drawn[1])[:, 8:].mean() > 1e-3


def test_nothing_to_draw_gives_the_image_back(pipeline, picture):
    nothing = Image.fromarray(np.zeros((16, 16), np.uint8))
    np.testing.assert_allclose(complete(pipeline, picture, nothing)[0], np.asarray(picture) / 255, atol=1e-6)


def test_everything_to_draw_is_to_sample(transformer, picture):
    everything = Image.fromarray(np.full((16, 16), 255, np.uint8))
    drawn = complete(transformer, picture, everything)
    np.testing.assert_array_equal(drawn, complete(transformer, None, None))


def test_codes_whose_whole_patch_is_known_are_kept_and_no_others(transformer, picture):
    mask = np.zeros((16, 16), np.uint8)
    mask[6, 9], mask[12:] = 255, 255  # of the codes 4x4: one in the second row, and the last row
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    known = Known(images=pixels, mask=torch.from_numpy(mask)[None, None] > 0)
    codes = transformer.tokenizer.encode(known.blanked()).codes[0]
    drawn = [complete(transformer, picture, mask / 255, seed, output_type="latent")[0] for seed in range(12)]
    changes = torch.stack([image != codes for image in drawn]).any(0)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[1, 2], expected[3] = True, True
    assert torch.equal(changes, expected)


def test_codes_that_are_kept_know_nothing_of_the_pixels_beside_their_patch(transformer, picture, lower_half):
    """The encoder would look at them."""
    pixels, kept = np.asarray(picture).copy(), []
    for seed in range(12):
        pixels[8:] = np.random.default_rng(seed).integers(0, 255, (8, 16, 3))
        kept.append(complete(transformer, Image.fromarray(pixels), lower_half, output_type="latent")[0, :2])
    assert all(torch.equal(codes, kept[0]) for codes in kept)


def test_codes_are_fitted_to_what_is_known_before_them(transformer, lower_half):
    colours = [complete(transformer, Image.new("RGB", (16, 16), c), lower_half) for c in ("black", "white")]
    assert np.abs(colours[0] - colours[1])[:, 8:].mean() > 1e-3


def test_a_completion_can_be_guided_and_split(transformer, picture, lower_half):
    def codes(labels, seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        options = {"guidance_scale": 3.0, "guidance_power": 1.0, "output_type": "latent"}
        return transformer(labels, image=picture, mask=lower_half, generator=generators, **options).images

    transformer.prior.double()
    whole = codes([0, 1, 2], [4, 5, 6])
    assert torch.equal(torch.cat([codes([0], [4]), codes([1, 2], [5, 6])]), whole)


def test_codes_in_several_maps_are_kept_together(picture, lower_half):
    tokenizer = VQTokenizer(
        autoencoder_config={"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4},
        quantizer_config={"name": "residual", "codebook_size": 16, "dim": 4, "stages": 2},
        image_size=16,
        channels=3,
    ).eval()
    options = {"name": "gpt2", "layers": 1, "heads": 2, "width": 16}
    prior = TransformerPrior(options, codebook_size=16, code_shape=[2, 4, 4], num_classes=None).eval()
    pipeline = AutoregressivePipeline(tokenizer, prior)
    first, second = (
        complete(pipeline, picture, lower_half, i, class_label=None, output_type="latent")[0] for i in (0, 1)
    )
    assert first.shape == (2, 4, 4)
    assert torch.equal(first[:, :2], second[:, :2])
    assert (first[:, 2:] != second[:, 2:]).flatten(1).any(1).all()


def test_completion_needs_a_solver_that_can_step_back(ldm, picture, lower_half):
    with pytest.raises(TwoStageError, match=r"^solver: DPMSolver\w+ cannot complete images; allowed: ddim"):
        complete(ldm, picture, lower_half, solver="dpm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, "image and mask belong together"),
        ({"image": Image.new("RGB", (8, 8))}, "image: '8x8 pixels' is not allowed; allowed: 16x16"),
        ({"mask": Image.new("L", (16, 8))}, "mask: '16x8 pixels'"),
        (
            {"image": torch.rand(3, 3, 16, 16)},
            r"image: '3 of them' is not allowed; allowed: one, or one per sample \(2\)",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused(pipeline, picture, lower_half, change, message, monkeypatch):
    """Before anything is computed."""
    given = {"image": picture, "mask": lower_half, **change}
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *inputs: pytest.fail("something was computed"))
    with pytest.raises(TwoStageError, match=f"^{message}"):
        pipeline([0, 1], **given)


def test_a_latent_position_is_known_only_if_all_its_pixels_are():
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 3, 4] = True
    latent = Known(images=torch.zeros(1, 3, 8, 8), mask=mask).latent_mask(4)
    assert latent.tolist() == [[[[False, True], [False, False]]]]


def test_gray_tokenizers_read_colour_pictures(picture):
    gray = type("T", (), {"config": {"channels": 1, "image_size": 16}})
    assert known_part(picture, picture, 1, gray).images.shape == (1, 1, 16, 16)
