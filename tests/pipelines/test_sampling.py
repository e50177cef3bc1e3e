"""Laws of sampling latents: how a batch is split, what guidance asks for, and in what form the networks are."""

import copy
import subprocess
import sys

import pytest
import torch

from pipelines import LatentDiffusionPipeline
from pipelines.evaluation.provenance import pipeline_fingerprint
from pipelines.runs import load_pipeline
from stage2_ldm.objectives.diffusion import Diffusion
from stage2_ldm.objectives.flow import Flow
from twostage.errors import TwoStageError

LABELS = [0, 1, 2, 0]
WAYS = {
    "ddim": {"guidance_scale": 3.0},
    "ddim, eta 1": {"eta": 1.0},
    "ddim, guided in part": {"guidance_scale": 3.0, "guidance_interval": (0.3, 0.7)},
    "dpm": {"solver": "dpm", "guidance_scale": 3.0},
    "unipc": {"solver": "unipc"},
    "flow": {"guidance_scale": 3.0},
    "flow, heun": {"solver": "heun"},
}


def generators():
    return [torch.Generator().manual_seed(i) for i in range(len(LABELS))]


def latents(pipeline, labels=LABELS, **options):
    """[b, d, h, w], not quantised, of 6 steps; image i has a seed of its own."""
    options = {"generator": generators(), "num_inference_steps": 6, "snap": False, **options}
    return pipeline(labels, output_type="latent", **options).images


def of_flow(pipeline):
    """The same network, taken for a velocity field."""
    denoiser = type(pipeline.denoiser).from_config(pipeline.denoiser.config, prediction_type="flow_prediction")
    denoiser.load_state_dict(pipeline.denoiser.state_dict())
    made = LatentDiffusionPipeline(pipeline.tokenizer, denoiser.eval(), Flow().scheduler(), pipeline.config.id2label)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def copied(ldm):
    """(way of sampling) -> a pipeline for it that may be changed."""
    return lambda way="ddim": copy.deepcopy(of_flow(ldm) if "flow" in way else ldm)


@pytest.mark.parametrize("way", WAYS)
def test_how_a_batch_is_split_does_not_change_an_image(copied, way):
    """Within 1e-5: a flow's solver computes in float32."""
    pipeline = copied(way)
    pipeline.denoiser.double()
    pipeline.tokenizer.double()
    whole = latents(pipeline, **WAYS[way])
    for parts in ([slice(0, 1), slice(1, 4)], [slice(0, 3), slice(3, 4)]):
        drawn = [latents(pipeline, LABELS[part], generator=generators()[part], **WAYS[way]) for part in parts]
        torch.testing.assert_close(torch.cat(drawn), whole, rtol=0, atol=1e-5)
    assert len({image.sum().item() for image in whole}) == 4


@pytest.mark.parametrize("way", ["ddim", "ddim, eta 1", "flow"])
def test_how_a_completion_is_split_does_not_change_an_image(copied, way):
    pipeline = copied(way)
    pipeline.denoiser.double()
    pipeline.tokenizer.double()
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:] = 1

    def complete(part):
        given = {"image": images[part], "mask": mask, "resamplings": 3, **WAYS[way]}
        return latents(pipeline, LABELS[part], generator=generators()[part], **given)

    whole = complete(slice(0, 4))
    torch.testing.assert_close(torch.cat([complete(slice(0, 1)), complete(slice(1, 4))]), whole, rtol=0, atol=1e-5)


def test_guidance_one_is_the_conditional_model_bit_by_bit(ldm):
    """Against the scheduler's own loop over the network."""
    scheduler = Diffusion().scheduler()
    scheduler.set_timesteps(6)
    x = torch.stack([torch.randn(4, 4, 4, generator=g, dtype=torch.float64) for g in generators()]).float()
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(ldm.denoiser(x, t, torch.tensor(LABELS)), t, x).prev_sample
        expected = ldm.denoiser.denormalize(x)
    assert torch.equal(latents(ldm, guidance_scale=1.0), expected)


def test_guidance_zero_is_the_unconditional_model(ldm):
    unconditional = latents(ldm, [None] * 4)
    torch.testing.assert_close(latents(ldm, guidance_scale=0.0), unconditional, rtol=1e-4, atol=1e-4)
    assert (latents(ldm) - unconditional).abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, [4] * 6),
        ({"guidance_scale": 2.0}, [8] * 6),
        ({"guidance_scale": 2.0, "guidance_interval": (0.2, 0.6)}, [4, 4, 8, 8, 4, 4]),  # 0.83, 0.67, 0.5 ...
    ],
)
def test_no_class_is_asked_for_only_where_guidance_acts(copied, options, rows):
    pipeline, seen = copied(), []
    pipeline.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    latents(pipeline, **options)
    assert seen == rows


@pytest.mark.parametrize("way", WAYS)
def test_no_number_is_read_back_from_the_device(copied, way):
    """Meta tensors have shapes but no numbers: to look at one is an error, where a GPU would only be waited for."""
    pipeline = copied(way).to("meta")
    images = latents(pipeline, **WAYS[way])
    assert images.device.type == "meta"
    assert images.shape == (4, 4, 4, 4)


FORMS = {
    "channels last": ([lambda network: network.to(memory_format=torch.channels_last)], 1e-4),
    "compiled": ([lambda network: network.compile(backend="aot_eager")], 1e-4),
    "bf16": ([lambda network: network.to(torch.bfloat16)], 0.01),
}
FORMS["all"] = ([change for changes, _ in FORMS.values() for change in changes], 0.01)
"""What may be done to a network before sampling, and how far off the latents may then be, as a share of theirs."""


@pytest.mark.parametrize("way", ["ddim", "flow"])
@pytest.mark.parametrize("form", FORMS)
def test_a_network_in_another_form_samples_the_same(copied, form, way):
    pipeline, (changes, tolerance) = copied(way), FORMS[form]
    expected = latents(pipeline, **WAYS[way])
    for change in changes:
        change(pipeline.denoiser)
    deviation = latents(pipeline, **WAYS[way]) - expected
    assert deviation.square().mean().sqrt() < tolerance * expected.std()


def test_the_steps_of_a_network_in_bf16_are_taken_in_float32(copied):
    """The rounding of every step would stay and add up."""
    pipeline, seen = copied(), set()
    step = pipeline.scheduler.step

    def noted(prediction, t, sample, **options):
        seen.update([prediction.dtype, sample.dtype])
        return step(prediction, t, sample, **options)

    pipeline.denoiser.to(torch.bfloat16)
    pipeline.scheduler.step = noted
    latents(pipeline)
    assert seen == {torch.float32}


@pytest.mark.parametrize("form", FORMS)
def test_a_tokenizer_in_another_form_decodes_the_same_codes(copied, form):
    pipeline, (changes, tolerance) = copied(), FORMS[form]

    def images_and_codes():
        images = pipeline(LABELS, generator=generators(), num_inference_steps=6, output_type="pt").images
        return images, pipeline.tokenizer.quantize(latents(pipeline, snap=True).float()).codes

    images, codes = images_and_codes()
    for change in changes:
        change(pipeline.tokenizer)
    changed, same_codes = images_and_codes()
    assert torch.equal(same_codes, codes)
    torch.testing.assert_close(changed, images, rtol=0, atol=tolerance)


FRESH = """
import sys, torch
from pipelines import LatentDiffusionPipeline
from pipelines.evaluation.provenance import pipeline_fingerprint
from pipelines.runs import load_pipeline
pipe = LatentDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(0)
torch.save(pipe("fish", num_inference_steps=3, generator=generator, output_type="pt").images, sys.argv[2])
ours = {name for name in sys.modules if name.startswith(("twostage.", "stage", "pipelines."))}
assert "stage2_ldm.denoiser" in ours
assert not {name for name in ours if name.endswith((".train", ".loop")) or ".objectives" in name}
state = sys.modules.get("accelerate.state")
assert state is None or not state.PartialState._shared_state
"""


def test_a_saved_pipeline_needs_nothing_of_training(ldm, tmp_path):
    ldm.save_pretrained(tmp_path / "saved")
    subprocess.run([sys.executable, "-c", FRESH, tmp_path / "saved", tmp_path / "images.pt"], check=True)
    expected = ldm("fish", num_inference_steps=3, generator=generators()[0], output_type="pt").images
    assert torch.equal(torch.load(tmp_path / "images.pt"), expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"class_label": None}, "class_label: None is not allowed; allowed: 0..2, or a class name"),
        ({"class_label": 0, "guidance_scale": 2.0}, "guidance_scale: 2.0 is not allowed; allowed: 1.0"),
    ],
)
def test_what_needs_no_class_is_refused_where_it_was_never_trained(copied, call, words):
    pipeline = copied()
    pipeline.denoiser.register_to_config(knows_no_class=False)
    with pytest.raises(TwoStageError, match=words):
        pipeline(num_inference_steps=1, **call)
    assert len(pipeline(0, num_inference_steps=1).images) == 1


@pytest.mark.parametrize("prior", ["ldm", "transformer"])
def test_a_kept_checkpoint_is_the_model_of_its_step(chain, prior):
    run = chain / prior
    steps = sorted(int(path.stem.removeprefix("step_")) for path in (run / "checkpoints").iterdir())
    end, earlier, last = (pipeline_fingerprint(load_pipeline(run, step)) for step in (None, steps[0], steps[-1]))
    assert last == end
    assert earlier != end
    with pytest.raises(TwoStageError, match=f"--checkpoint: 1 is not allowed; .*{steps[0]}, {steps[-1]}"):
        load_pipeline(run, 1)


@pytest.mark.parametrize("words", [("sample",), ("evaluate", "generation")])
def test_commands_know_checkpoints(chain, command, tmp_path, words):
    answer = command(*words, chain / "ldm", "--output", tmp_path / "there", "--checkpoint", 1)
    answer.assert_refused("--checkpoint: 1 is not allowed")
