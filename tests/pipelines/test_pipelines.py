"""What both pipelines promise: labels, seeds, batches, guidance, and coming back from disk as they were."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch

from twostage.errors import TwoStageError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(pipeline, labels=None, **options):
    return pipeline(labels, output_type="pt", **options).images


def test_labels_by_id_name_and_list(pipeline, quick):
    by_id = draw(pipeline, 1, num_images=2, generator=seeded(), **quick)
    by_name = draw(pipeline, "dog", num_images=2, generator=seeded(), **quick)
    by_list = draw(pipeline, ["dog", 1], generator=seeded(), **quick)
    assert by_id.shape == (2, 3, 16, 16)
    assert torch.equal(by_id, by_name)
    assert torch.equal(by_id, by_list)
    assert not torch.equal(by_id[0], by_id[1])
    assert not torch.equal(by_id, draw(pipeline, 0, num_images=2, generator=seeded(), **quick))


def test_no_class_is_the_null_class(pipeline, quick):
    images = draw(pipeline, None, num_images=2, generator=seeded(), **quick)
    assert images.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("label", [3, -1, "bird", True, 1.0])
def test_unknown_labels_are_refused_with_what_is_allowed(pipeline, label):
    with pytest.raises(TwoStageError, match=rf"class_label: {label!r}.*(0\.\.2|cat, dog, fish)"):
        pipeline(label)


def test_labels_and_guidance_of_an_unconditional_model_are_refused(unconditional):
    with pytest.raises(TwoStageError, match=r"class_label: 0 .*unconditional"):
        unconditional(0)
    with pytest.raises(TwoStageError, match=r"guidance_scale: 2\.0 .*unconditional"):
        unconditional(guidance_scale=2.0)


def test_unconditional_models_sample(unconditional):
    options = {"num_inference_steps": 2} if hasattr(unconditional, "denoiser") else {}
    assert len(unconditional(num_images=3, **options).images) == 3


@pytest.mark.parametrize("count", [0, -2])
def test_num_images_below_one_is_refused(pipeline, count):
    with pytest.raises(TwoStageError, match=f"num_images: {count}"):
        pipeline(0, num_images=count)


def test_same_seed_same_images_and_the_generator_moves_on(pipeline, quick):
    generator = seeded(3)
    first, second = (draw(pipeline, 0, generator=generator, **quick) for _ in range(2))
    assert torch.equal(first, draw(pipeline, 0, generator=seeded(3), **quick))
    assert not torch.equal(first, second)


def test_batching_does_not_change_an_image(pipeline, quick):
    """Identical codes in float64; images within 1e-4 in float32."""
    labels, generators = [0, 1, 2, 0], lambda: [seeded(i) for i in range(4)]
    whole = draw(pipeline, labels, generator=generators(), guidance_scale=1.5, **quick)
    single = [
        draw(pipeline, label, generator=[g], guidance_scale=1.5, **quick) for label, g in zip(labels, generators())
    ]
    torch.testing.assert_close(torch.cat(single), whole, atol=1e-4, rtol=0)

    double = copy.deepcopy(pipeline).to(dtype=torch.float64)
    double.set_progress_bar_config(disable=True)

    def codes(labels, generators):
        latents = double(labels, generator=generators, output_type="latent", **quick).images
        return latents if latents.ndim == 3 else double.tokenizer.quantize(latents).codes

    single = [codes(label, [g]) for label, g in zip(labels, generators())]
    assert torch.equal(torch.cat(single), codes(labels, generators()))


def test_an_image_does_not_depend_on_how_many_follow_it(pipeline, quick):
    few = draw(pipeline, 0, num_images=2, generator=seeded(), **quick)
    many = draw(pipeline, 0, num_images=5, generator=seeded(), **quick)
    torch.testing.assert_close(many[:2], few, atol=1e-4, rtol=0)


def test_wrong_number_of_generators_is_refused(pipeline):
    with pytest.raises(TwoStageError, match=r"generator: .*list of 2.*per image \(3\)"):
        pipeline(0, num_images=3, generator=[seeded(), seeded()])


def test_guidance_one_is_the_conditional_model_and_more_is_not(pipeline, quick):
    plain = draw(pipeline, 2, generator=seeded(), **quick)
    assert torch.equal(plain, draw(pipeline, 2, generator=seeded(), guidance_scale=1.0, **quick))
    assert not torch.equal(plain, draw(pipeline, 2, generator=seeded(), guidance_scale=6.0, **quick))


def test_output_types(pipeline, quick):
    pil = pipeline(0, generator=seeded(), **quick).images
    array = pipeline(0, generator=seeded(), output_type="np", **quick).images
    assert pil[0].size == (16, 16)
    assert array.shape == (1, 16, 16, 3)
    assert array.min() >= 0
    assert array.max() <= 1
    assert np.abs(np.asarray(pil[0]) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6


SCRIPT = """
import sys, torch
from pipelines import {kind}
pipe = {kind}.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
images = pipe("fish", num_images=2, generator=torch.Generator().manual_seed(0), output_type="pt", **{quick}).images
torch.save(images, sys.argv[2])
"""


def test_a_fresh_process_loads_the_same_pipeline(pipeline, quick, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    script = SCRIPT.format(kind=type(pipeline).__name__, quick=quick)
    subprocess.run([sys.executable, "-c", script, tmp_path / "saved", tmp_path / "images.pt"], check=True)
    expected = draw(pipeline, "fish", num_images=2, generator=seeded(), **quick)
    assert torch.equal(torch.load(tmp_path / "images.pt"), expected)
    assert not list((tmp_path / "saved").rglob("*.bin"))
