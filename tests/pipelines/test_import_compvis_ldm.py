"""Released latent diffusion models, small and with random weights: what comes out, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from pipelines import LatentDiffusionPipeline
from stage1_tokenizer import VQTokenizer
from stage2_ldm import LatentDenoiser

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "compvis"
UNET = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
EMBEDDER = "ldm.modules.encoders.modules.ClassEmbedder"
VQ = "ldm.models.autoencoder.VQModelInterface"

UNET_PARAMS = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [2],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_head_channels": 32,
}
CONDITION = {"target": EMBEDDER, "params": {"n_classes": 5, "embed_dim": 16, "key": "class_label"}}
ATTENDING = UNET_PARAMS | {"use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 16}
FIRST_STAGE = {
    "target": VQ,
    "params": {
        "embed_dim": 4,
        "n_embed": 16,
        "ddconfig": {
            "ch": 32,
            "ch_mult": [1, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "resolution": 16,
            "in_channels": 3,
            "out_ch": 3,
            "z_channels": 4,
            "double_z": False,
            "dropout": 0.0,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    },
}
PARAMS = {
    "linear_start": 0.0015,
    "linear_end": 0.0195,
    "timesteps": 100,
    "image_size": 8,
    "channels": 4,
    "monitor": "val/loss",
    "unet_config": {"target": UNET, "params": UNET_PARAMS},
    "cond_stage_config": "__is_unconditional__",
}
CONDITIONAL = PARAMS | {
    "conditioning_key": "crossattn",
    "unet_config": {"target": UNET, "params": ATTENDING},
    "cond_stage_config": CONDITION,
}


def golden(name):
    if not (GOLDENS / name).is_dir():
        pytest.skip(f"{name} is not here: parity with the published code is not checked")
    folder = GOLDENS / name
    return folder / "config.yaml", folder / "model.ckpt", load_file(folder / "expected.safetensors")


def unet_shapes(context=None):
    """The weights of the UNet of `UNET_PARAMS`, or `ATTENDING`, under the names that the published code gives them."""
    shapes = {}

    def put(place, **parts):
        shapes.update({f"model.diffusion_model.{place}.{part}": shape for part, shape in parts.items()})

    def layer(place, *shape):
        put(place, weight=shape, bias=shape[:1])

    def block(place, inputs, outputs):
        layer(f"{place}.in_layers.0", inputs)
        layer(f"{place}.in_layers.2", outputs, inputs, 3, 3)
        layer(f"{place}.emb_layers.1", outputs, 128)
        layer(f"{place}.out_layers.0", outputs)
        layer(f"{place}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f"{place}.skip_connection", outputs, inputs, 1, 1)

    def attention(place):
        layer(f"{place}.norm", 64)
        if context is None:
            layer(f"{place}.qkv", 192, 64, 1)
            layer(f"{place}.proj_out", 64, 64, 1)
            return
        layer(f"{place}.proj_in", 64, 64, 1, 1)
        layer(f"{place}.proj_out", 64, 64, 1, 1)
        inner = f"{place}.transformer_blocks.0"
        for one, width in (("attn1", 64), ("attn2", context)):
            put(f"{inner}.{one}.to_q", weight=(64, 64))
            put(f"{inner}.{one}.to_k", weight=(64, width))
            put(f"{inner}.{one}.to_v", weight=(64, width))
            layer(f"{inner}.{one}.to_out.0", 64, 64)
        layer(f"{inner}.ff.net.0.proj", 512, 64)
        layer(f"{inner}.ff.net.2", 64, 256)
        for norm in ("norm1", "norm2", "norm3"):
            layer(f"{inner}.{norm}", 64)

    layer("time_embed.0", 128, 32)
    layer("time_embed.2", 128, 128)
    layer("input_blocks.0.0", 32, 4, 3, 3)
    block("input_blocks.1.0", 32, 32)
    layer("input_blocks.2.0.op", 32, 32, 3, 3)
    block("input_blocks.3.0", 32, 64)
    attention("input_blocks.3.1")
    block("middle_block.0", 64, 64)
    attention("middle_block.1")
    block("middle_block.2", 64, 64)
    block("output_blocks.0.0", 64 + 64, 64)
    attention("output_blocks.0.1")
    block("output_blocks.1.0", 64 + 32, 64)
    attention("output_blocks.1.1")
    layer("output_blocks.1.2.conv", 64, 64, 3, 3)
    block("output_blocks.2.0", 64 + 32, 32)
    block("output_blocks.3.0", 32 + 32, 32)
    layer("out.0", 32)
    layer("out.2", 4, 32, 3, 3)
    return shapes


def unet(context=None, seed=0, classes=0):
    """Random weights for these names, and those of a class embedding."""
    generator = torch.Generator().manual_seed(seed)
    shapes = unet_shapes(context)
    if classes:
        shapes["cond_stage_model.embedding.weight"] = (classes, context)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def average(weights):
    """What a checkpoint holds of a moving average, with these weights."""
    names = {name: "model_ema." + name.removeprefix("model.").replace(".", "") for name in weights}
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return {names[name]: value for name, value in weights.items()} | counters


def first_stage():
    """Random weights of `FIRST_STAGE`, as a latent diffusion model's checkpoint holds them."""
    from pipelines.compvis.vq import VQParams, compvis_name

    params = VQParams.model_validate(FIRST_STAGE["params"])
    torch.manual_seed(1)
    tokenizer = VQTokenizer(params.ddconfig.options(), params.quantizer(), image_size=16, channels=3)
    name = compvis_name(levels=2)
    return {f"first_stage_model.{name(ours)}": value for ours, value in tokenizer.state_dict().items()}


@pytest.fixture
def released(tmp_path):
    """Writes a config and a checkpoint; gives the command's first three words."""

    def write(params=PARAMS, weights=None):
        config, checkpoint = tmp_path / "config.yaml", tmp_path / "model.ckpt"
        target = "ldm.models.diffusion.ddpm.LatentDiffusion"
        config.write_text(yaml.safe_dump({"model": {"target": target, "params": params}}))
        torch.save({"state_dict": unet() if weights is None else weights}, checkpoint)
        return "import-compvis", config, checkpoint

    return write


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


# What is refused


def changed(params, **unet_options):
    inner = params["unet_config"]["params"] | unet_options
    return params | {"unet_config": {"target": UNET, "params": inner}}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            CONDITIONAL | {"cond_stage_config": {"target": "ldm.modules.encoders.modules.BERTEmbedder"}},
            ("model.params.cond_stage_config.target: 'ldm.modules.encoders.modules.BERTEmbedder'", EMBEDDER),
        ),
        (PARAMS | {"cond_stage_config": "__is_first_stage__"}, ("cond_stage_config.target: '__is_first_stage__'",)),
        (PARAMS | {"cond_stage_config": None}, ("cond_stage_config.target: None",)),
        (PARAMS | {"unet_config": {"target": "ldm.UNet", "params": {}}}, ("unet_config.target: 'ldm.UNet'", UNET)),
        (PARAMS | {"unet_config": {"target": UNET, "params": 3}}, ("unet_config.params: 3", "a mapping")),
        (PARAMS | {"conditioning_key": "concat"}, ("conditioning_key: 'concat'", "crossattn")),
        (CONDITIONAL | {"conditioning_key": None}, ("conditioning_key: None", "crossattn")),
        (CONDITIONAL | {"cond_stage_config": "__is_unconditional__"}, ("cond_stage_config.target", EMBEDDER)),
        (PARAMS | {"cond_stage_config": CONDITION}, ("conditioning_key: None", "a UNet that has it")),
        (
            CONDITIONAL | {"cond_stage_config": {"target": EMBEDDER, "params": {"embed_dim": 17}}},
            ("cond_stage_config.params.embed_dim: 17", "context_dim (16)"),
        ),
        (CONDITIONAL | {"cond_stage_config": {"target": EMBEDDER}}, ("cond_stage_config.params: embed_dim: missing",)),
        (PARAMS | {"beta_schedule": "cosine"}, ("beta_schedule: 'cosine'", "'linear'")),
        (PARAMS | {"parameterization": "x0"}, ("parameterization: 'x0'", "'eps'")),
        (PARAMS | {"linear_start": 0.5}, ("betas: [0.5, 0.0195]",)),
        (PARAMS | {"channels": 3}, ("unet_config.params.in_channels: 4", "model.params.channels (3)")),
        (PARAMS | {"image_size": 9}, ("denoiser.widths: [32, 64]", "latents of 9")),
        (PARAMS | {"scale_factor": 0.0}, ("scale_factor: 0.0", "greater than 0")),
        (changed(PARAMS, out_channels=8), ("unet_config.params: out_channels: 8", "in_channels (4)")),
        (changed(PARAMS, channel_mult=[2, 4]), ("channel_mult: [2, 4]", "starts with 1")),
        (changed(PARAMS, num_head_channels=-1), ("num_heads: -1", "num_head_channels")),
        (changed(PARAMS, context_dim=16), ("context_dim: 16", "use_spatial_transformer")),
        (changed(CONDITIONAL, resblock_updown=True), ("resblock_updown: True", "use_spatial_transformer")),
        (changed(CONDITIONAL, transformer_depth=2), ("transformer_depth: 2",)),
        (changed(PARAMS, use_new_attention_order=True), ("use_new_attention_order: True",)),
        (changed(PARAMS, num_classes=1000), ("num_classes: 1000",)),
        (changed(PARAMS, num_head_channel=8), ("num_head_channel: unknown key", "did you mean num_head_channels?")),
        (changed(PARAMS, num_head_channels=24), ("denoiser.head_dim: 24", "[64, 64]")),
    ],
)
def test_settings_without_a_counterpart(command, released, untouched, params, words):
    words_of_command = released(params)
    command(*words_of_command, "--output", untouched).assert_refused(words_of_command[1], *words)


def without(name):
    return {key: value for key, value in unet().items() if key != name}


TIME = "model.diffusion_model.time_embed.0.bias"
QKV = "model.diffusion_model.middle_block.1.qkv.weight"


@pytest.mark.parametrize(
    ("params", "weights", "words"),
    [
        (PARAMS, without(TIME), ("1 missing weights", f"'{TIME}'")),
        (PARAMS, {}, ("missing weights", "'model.diffusion_model.")),
        (PARAMS, unet() | {"model.diffusion_model.label_emb.weight": torch.zeros(1)}, ("1 unexpected weights",)),
        (PARAMS, unet() | {TIME: torch.zeros(64)}, (f"{TIME} of shape (64,)", "(128,)")),
        (PARAMS, unet() | {QKV: torch.zeros(190, 64, 1)}, (f"{QKV} of shape (190, 64, 1)", "heads of the config")),
        (PARAMS, unet() | {QKV: torch.zeros(30, 64, 1)}, (f"{QKV} of shape (30, 64, 1)", "heads of the config")),
        (PARAMS | {"scale_by_std": True}, unet(), ("1 missing weights", "'scale_factor'")),
        (PARAMS, unet() | {"scale_factor": torch.tensor(0.0)}, ("scale_factor: 0.0", "a positive number")),
        (CONDITIONAL, unet(16), ("1 missing weights", "'cond_stage_model.embedding.weight'")),
        (CONDITIONAL, unet(16, classes=4), ("cond_stage_model.embedding.weight of shape (5, 16)", "(6, 16)")),
        (PARAMS, unet() | {"cond_stage_model.embedding.weight": torch.zeros(5, 16)}, ("1 unexpected weights",)),
    ],
)
def test_weights_of_another_model(command, released, untouched, params, weights, words):
    words_of_command = released(params, weights)
    command(*words_of_command, "--output", untouched).assert_refused(words_of_command[2], *words)


def test_a_first_stage_that_the_config_does_not_name(command, released, untouched):
    words = released(weights=unet() | first_stage())
    answer = command(*words, "--output", untouched)
    answer.assert_refused(words[1], "first_stage_config.target: None is not imported", VQ)


def test_a_first_stage_that_is_not_whole(command, released, untouched):
    held = first_stage()
    del held["first_stage_model.quantize.embedding.weight"]
    words = released(PARAMS | {"first_stage_config": FIRST_STAGE}, unet() | held)
    answer = command(*words, "--output", untouched)
    answer.assert_refused(words[2], "1 missing weights", "'first_stage_model.quantize.embedding.weight'")


def test_a_first_stage_of_other_latents(command, released, untouched):
    words = released(PARAMS | {"first_stage_config": FIRST_STAGE, "image_size": 16}, unet() | first_stage())
    answer = command(*words, "--output", untouched)
    answer.assert_refused(words[1], "channels, image_size: (4, 16)", "those of first_stage_config, (4, 8)")


def test_a_mistake_in_the_first_stage_is_named_where_it_is(command, released, untouched):
    first = FIRST_STAGE | {"params": FIRST_STAGE["params"] | {"n_embed": "many"}}
    words = released(PARAMS | {"first_stage_config": first}, unet() | first_stage())
    answer = command(*words, "--output", untouched)
    answer.assert_refused(words[1], "model.params.first_stage_config.params: n_embed: 'many'")


def test_the_checkpoint_of_a_tokenizer(command, untouched):
    config, _, _ = golden("ldm_unet_lsun_churches")
    _, checkpoint, _ = golden("ldm_vq_f8")
    answer = command("import-compvis", config, checkpoint, "--output", untouched)
    answer.assert_refused(checkpoint, "missing weights", "'model.diffusion_model.")
