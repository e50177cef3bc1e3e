"""Released latent diffusion models, small and with random weights: what comes of them."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDIMScheduler
from released_ldm import (
    CONDITION,
    CONDITIONAL,
    FIRST_STAGE,
    PARAMS,
    UNET,
    UNET_PARAMS,
    VQ,
    average,
    first_stage,
    unet,
    write,
)
from safetensors.torch import load_file

from pipelines import LatentDiffusionPipeline
from stage2_ldm import LatentDenoiser

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "compvis"


def golden(name):
    if not (GOLDENS / name).is_dir():
        pytest.skip(f"{name} is not here: parity with the published code is not checked")
    folder = GOLDENS / name
    return folder / "config.yaml", folder / "model.ckpt", load_file(folder / "expected.safetensors")


@pytest.fixture
def released(tmp_path):
    """(params, weights) -> the first three words of a command that imports them."""
    return partial(write, tmp_path)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


@pytest.fixture
def done(command, released, output):
    """Imports what is given, which must succeed; gives what was printed."""

    def run(params=PARAMS, weights=None):
        answer = command(*released(params, weights), "--output", output)
        assert (answer.status, answer.err) == (0, ""), answer
        return answer.out

    return run


def predict(denoiser, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    config = denoiser.config
    latents = torch.randn(2, config.latent_dim, config.latent_size, config.latent_size, generator=generator)
    with torch.no_grad():
        return denoiser(latents, torch.tensor([3, 70]), **options)


# What comes out


def assert_parity(denoiser, expected):
    """In float32 as far as float32 goes; in float64 only the recorded numbers are rounded."""
    labels = expected.get("class_labels")
    with torch.no_grad():
        single = denoiser(expected["latents"], expected["timesteps"], labels)
        double = denoiser.double()(expected["latents"].double(), expected["timesteps"], labels)
    torch.testing.assert_close(single, expected["eps"], atol=1e-4, rtol=0)
    torch.testing.assert_close(double.float(), expected["eps"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["lsun_churches", "lsun_beds_ffhq", "class_conditional_imagenet"])
def test_parity_with_the_published_code(command, output, name):
    config, checkpoint, expected = golden(f"ldm_unet_{name}")
    answer = command("import-compvis", config, checkpoint, "--output", output)
    assert (answer.status, answer.err) == (0, "")
    denoiser = LatentDenoiser.from_pretrained(output)
    assert_parity(denoiser, expected)
    assert denoiser.config.latents == "continuous"
    scale = float(torch.load(checkpoint, weights_only=True)["state_dict"]["scale_factor"])
    assert denoiser.config.latent_std == [1 / scale] * denoiser.config.latent_dim
    params = yaml.safe_load(config.read_text())["model"]["params"]
    assert_schedule(output / "scheduler", params["linear_start"], params["linear_end"], 1000)


def assert_schedule(folder, first, last, steps):
    scheduler = DDIMScheduler.from_pretrained(folder)
    betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), (1 - betas).cumprod(0), atol=1e-6, rtol=1e-4)
    config = scheduler.config
    assert (config.prediction_type, config.clip_sample, config.set_alpha_to_one) == ("epsilon", False, False)


def test_what_is_written_without_a_first_stage(done, output):
    assert done() == f"UNet: as it is, no moving average is there\ndone: LatentPrior in {output}\n"
    assert json.loads((output / "config.json").read_text())["_class_name"] == "LatentDenoiser"
    assert sorted(path.name for path in output.rglob("*") if path.is_file()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
    ]
    denoiser = LatentDenoiser.from_pretrained(output)
    assert not denoiser.training
    assert (denoiser.config.latent_size, denoiser.config.latent_dim, denoiser.config.num_classes) == (8, 4, None)
    assert (denoiser.config.latent_mean, denoiser.config.latent_std) == ([0.0] * 4, [1.0] * 4)
    assert_schedule(output / "scheduler", 0.0015, 0.0195, 100)


@pytest.mark.parametrize(("params", "context"), [(PARAMS, None), (CONDITIONAL, 16)])
def test_every_weight_has_its_place(done, output, params, context):
    weights = unet(context, classes=0 if context is None else 5)
    done(params, weights)
    stored = load_file(output / "diffusion_pytorch_model.safetensors")
    parts = [part for value in weights.values() for part in value.flatten().tolist()]
    kept = [part for value in stored.values() for part in value.flatten().tolist()]
    padding = [] if context is None else [0.0] * context
    assert sorted(kept) == sorted(parts + padding)


def test_a_whole_model(command, done, output, tmp_path):
    weights = unet(16, classes=5) | first_stage() | {"betas": torch.zeros(100), "scale_factor": torch.tensor(0.5)}
    out = done(CONDITIONAL | {"first_stage_config": FIRST_STAGE}, weights)
    assert out.endswith(f"done: LatentDiffusionPipeline in {output}\n")
    pipeline = LatentDiffusionPipeline.from_pretrained(output)
    assert pipeline.config.id2label == {str(i): str(i) for i in range(5)}
    assert pipeline.denoiser.config.latent_std == [2.0] * 4
    assert (pipeline.denoiser.config.num_classes, pipeline.denoiser.null_class) == (5, 5)
    stored = pipeline.tokenizer.quantizer.codebook
    assert torch.equal(stored, weights["first_stage_model.quantize.embedding.weight"])
    samples = tmp_path / "samples"
    words = ("--class-label", 4, "--num-images", 2, "--steps", 2)
    assert command("sample", output, "--output", samples, *words).status == 0
    assert len(list(samples.rglob("*class004.png"))) == 2


def test_a_whole_unconditional_model(done, output):
    done(PARAMS | {"first_stage_config": FIRST_STAGE}, unet() | first_stage())
    pipeline = LatentDiffusionPipeline.from_pretrained(output)
    assert pipeline.config.id2label is None
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="pt").images.shape == (1, 3, 16, 16)


@torch.no_grad()
def test_parity_of_a_whole_model(command, output, tmp_path):
    config, checkpoint, expected = golden("ldm_unet_class_conditional_imagenet")
    vq_config, vq_checkpoint, vq_expected = golden("ldm_vq_f8")
    values = yaml.safe_load(config.read_text())
    first = yaml.safe_load(vq_config.read_text())["model"]["params"]
    values["model"]["params"]["first_stage_config"] = {"target": VQ, "params": first}
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    first = torch.load(vq_checkpoint, weights_only=True)["state_dict"]
    weights |= {f"first_stage_model.{name}": value for name, value in first.items()}
    both = tmp_path / "both.yaml", tmp_path / "both.ckpt"
    both[0].write_text(yaml.safe_dump(values))
    torch.save({"state_dict": weights}, both[1])
    assert command("import-compvis", *both, "--output", output).status == 0
    pipeline = LatentDiffusionPipeline.from_pretrained(output)
    assert torch.equal(pipeline.tokenizer.encode(vq_expected["images"]).codes, vq_expected["indices"])
    assert_parity(pipeline.denoiser, expected)


# The moving average


@pytest.mark.parametrize(("params", "context"), [(PARAMS, None), (CONDITIONAL, 16)])
def test_the_moving_average_is_preferred(done, output, params, context):
    classes = 0 if context is None else 5
    raw, averaged = unet(context, classes=classes), unet(context, seed=1)
    out = done(params, raw | average(averaged))
    assert out.startswith("UNet: its moving average\n")
    denoiser = LatentDenoiser.from_pretrained(output)
    conv_in = next(value for name, value in denoiser.state_dict().items() if name.endswith("conv_in.weight"))
    assert torch.equal(conv_in, averaged["model.diffusion_model.input_blocks.0.0.weight"])
    if context is not None:  # which is not averaged
        assert torch.equal(denoiser.backbone.classes.weight[:5], raw["cond_stage_model.embedding.weight"])


def test_a_checkpoint_of_the_moving_average_alone(done, output, tmp_path):
    done(weights=average(unet(seed=1)))
    alone = predict(LatentDenoiser.from_pretrained(output))
    output.rename(tmp_path / "first")
    done(weights=unet(seed=1))
    assert torch.equal(predict(LatentDenoiser.from_pretrained(output)), alone)


def test_a_moving_average_that_is_not_whole(command, released, untouched):
    averaged = average(unet(seed=1))
    del averaged["model_ema.diffusion_modelinput_blocks00weight"]
    words = released(weights=unet() | averaged)
    answer = command(*words, "--output", untouched)
    answer.assert_refused(words[2], "1 missing weights", "'model.diffusion_model.input_blocks.0.0.weight'")


def test_a_moving_average_of_something_else(command, released, untouched):
    words = released(weights=unet() | average(unet(seed=1)) | {"model_ema.head": torch.zeros(1)})
    command(*words, "--output", untouched).assert_refused(words[2], "1 unexpected weights", "'model_ema.head'")


# Classes and scales


def test_a_class_embedding_without_no_class_gets_zeros(done, output):
    weights = unet(16, classes=5)
    assert 'none of them is "no class"' in done(CONDITIONAL, weights)
    denoiser = LatentDenoiser.from_pretrained(output)
    rows = denoiser.backbone.classes.weight
    assert torch.equal(rows[:5], weights["cond_stage_model.embedding.weight"])
    assert rows.shape == (6, 16)
    assert rows[5].eq(0).all()
    assert not denoiser.config.knows_no_class


def test_a_first_stage_without_codes_is_left_out(done, output):
    """As the released churches model has it: a KL autoencoder, its weights beside the UNet's."""
    kl = {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {}}
    weights = unet() | {"first_stage_model.encoder.conv_in.weight": torch.zeros(32, 3, 3, 3)}
    assert "first stage: a KL autoencoder" in done(PARAMS | {"first_stage_config": kl}, weights)
    assert LatentDenoiser.from_pretrained(output).config.knows_no_class
    assert DDIMScheduler.from_pretrained(output, subfolder="scheduler").config.num_train_timesteps == 100


def test_of_1001_rows_the_last_is_no_class(done, output):
    condition = CONDITION | {"params": {"n_classes": 1001, "embed_dim": 16}}
    weights = unet(16, classes=1001)
    assert "classes" not in done(CONDITIONAL | {"cond_stage_config": condition}, weights)
    denoiser = LatentDenoiser.from_pretrained(output)
    assert denoiser.null_class == 1000
    assert torch.equal(denoiser.backbone.classes.weight, weights["cond_stage_model.embedding.weight"])


def test_classes_number_1000_unless_told_otherwise(done, output):
    done(CONDITIONAL | {"cond_stage_config": CONDITION | {"params": {"embed_dim": 16}}}, unet(16, classes=1000))
    assert LatentDenoiser.from_pretrained(output).config.num_classes == 1000


@pytest.mark.parametrize(
    ("params", "weights", "std"),
    [
        ({}, {}, 1.0),
        ({"scale_factor": 0.5}, {}, 2.0),
        ({"scale_factor": 0.5}, {"scale_factor": torch.tensor(0.25)}, 4.0),
        ({"scale_by_std": True}, {"scale_factor": torch.tensor(0.25)}, 4.0),
    ],
)
def test_the_scale_of_the_latents(done, output, params, weights, std):
    done(PARAMS | params, unet() | weights)
    denoiser = LatentDenoiser.from_pretrained(output)
    assert denoiser.config.latent_std == [std] * 4
    z = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(denoiser.normalize(z), z / std)


# Networks


@pytest.mark.parametrize(
    ("heads", "counts"),
    [
        ({"num_head_channels": 32}, 2),
        ({"num_head_channels": -1, "num_heads": 8}, 8),
        ({"num_head_channels": 16, "num_heads": 8}, 4),
    ],
)
def test_how_many_heads_share_the_queries(done, output, heads, counts):
    weights = unet()
    done(PARAMS | {"unet_config": {"target": UNET, "params": UNET_PARAMS | heads}}, weights)
    middle = LatentDenoiser.from_pretrained(output).backbone.mid_block.attentions[0]
    assert middle.heads == counts
    theirs = weights["model.diffusion_model.middle_block.1.qkv.weight"].reshape(counts, 3, 64 // counts, 64)
    for k, mine in enumerate((middle.to_q, middle.to_k, middle.to_v)):
        assert torch.equal(mine.weight, theirs[:, k].reshape(64, 64))


def test_what_does_not_concern_the_network_is_passed_over(done, output, tmp_path):
    done()
    expected = predict(LatentDenoiser.from_pretrained(output))
    output.rename(tmp_path / "first")
    unet_params = UNET_PARAMS | {"use_checkpoint": True, "use_fp16": False, "image_size": 99, "transformer_depth": 1}
    done(PARAMS | {"unet_config": {"target": UNET, "params": unet_params}, "log_every_t": 200, "use_ema": False})
    assert torch.equal(predict(LatentDenoiser.from_pretrained(output)), expected)


def test_the_checkpoint_of_a_tokenizer(command, untouched):
    config, _, _ = golden("ldm_unet_lsun_churches")
    _, checkpoint, _ = golden("ldm_vq_f8")
    answer = command("import-compvis", config, checkpoint, "--output", untouched)
    answer.assert_refused(checkpoint, "missing weights", "'model.diffusion_model.")
