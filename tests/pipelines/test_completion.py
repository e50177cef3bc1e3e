"""Completion: what is known stays, what is not is drawn, and nothing of it is looked at."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.completion import Known, known_part
from twostage.errors import TwoStageError


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))


@pytest.fixture
def lower_half():
    mask = np.zeros((16, 16), np.uint8)
    mask[8:] = 255
    return Image.fromarray(mask)


@pytest.fixture
def ldm(pipeline):
    if not hasattr(pipeline, "denoiser"):
        pytest.skip("latent diffusion only")
    return pipeline


def complete(pipeline, image, mask, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    options = {"num_inference_steps": 4, "class_label": "dog", "output_type": "np", **options}
    return pipeline(image=image, mask=mask, generator=generator, **options).images


def test_known_pixels_come_out_as_they_went_in(ldm, picture, lower_half):
    images = complete(ldm, picture, lower_half, num_images=2)
    original = np.asarray(picture) / 255
    np.testing.assert_allclose(images[:, :8], np.stack([original[:8]] * 2), atol=1e-6)
    assert np.abs(images[0, 8:] - original[8:]).mean() > 0.05
    assert np.abs(images[0, 8:] - images[1, 8:]).mean() > 1e-3  # each draws its own


def test_what_is_to_be_drawn_is_not_looked_at(ldm, picture, lower_half):
    other = np.asarray(picture).copy()
    other[8:] = 255 - other[8:]
    first = complete(ldm, picture, lower_half)
    np.testing.assert_allclose(first, complete(ldm, Image.fromarray(other), lower_half), atol=1e-6)


def test_what_is_known_matters(ldm, lower_half):
    drawn = [complete(ldm, Image.new("RGB", (16, 16), colour), lower_half, snap=False) for colour in ("black", "white")]
    assert np.abs(drawn[0] - drawn[1])[:, 8:].mean() > 1e-3


def test_nothing_to_draw_gives_the_image_back(ldm, picture):
    nothing = Image.fromarray(np.zeros((16, 16), np.uint8))
    np.testing.assert_allclose(complete(ldm, picture, nothing)[0], np.asarray(picture) / 255, atol=1e-6)


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
def test_images_that_do_not_fit_are_refused(tokenizer, picture, lower_half, change, message):
    given = {"image": picture, "mask": lower_half, **change}
    with pytest.raises(TwoStageError, match=f"^{message}"):
        known_part(given["image"], given["mask"], 2, tokenizer)


def test_a_latent_position_is_known_only_if_all_its_pixels_are():
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 3, 4] = True
    latent = Known(images=torch.zeros(1, 3, 8, 8), mask=mask).latent_mask(4)
    assert latent.tolist() == [[[[False, True], [False, False]]]]


def test_gray_tokenizers_read_colour_pictures(picture):
    gray = type("T", (), {"config": {"channels": 1, "image_size": 16}})
    assert known_part(picture, picture, 1, gray).images.shape == (1, 1, 16, 16)
