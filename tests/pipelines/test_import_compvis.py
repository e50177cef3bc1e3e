"""Released CompVis checkpoints, small and with random weights: what comes out, and what is refused."""

import json
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pipelines.runs import load_tokenizer
from stage1_tokenizer import VQTokenizer

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "compvis"
DDCONFIG = {
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "z_channels": 6,
    "double_z": False,
    "dropout": 0.0,
}
PARAMS = {"embed_dim": 4, "n_embed": 16, "ddconfig": DDCONFIG, "monitor": "val/rec_loss", "lossconfig": {"target": "x"}}


def golden(name):
    if not (GOLDENS / name).is_dir():
        pytest.skip(f"{name} is not here: parity with the published code is not checked")
    return GOLDENS / name / "config.yaml", GOLDENS / name / "model.ckpt"


def weights_of_the_config():
    """Random weights under the names that the published code gives them."""
    shapes = {"quantize.embedding": (16, 4), "quant_conv": (4, 6, 1, 1), "post_quant_conv": (6, 4, 1, 1)}

    def block(place, inputs, outputs):
        shapes.update({f"{place}.norm1": (inputs,), f"{place}.conv1": (outputs, inputs, 3, 3)})
        shapes.update({f"{place}.norm2": (outputs,), f"{place}.conv2": (outputs, outputs, 3, 3)})
        if inputs != outputs:
            shapes[f"{place}.nin_shortcut"] = (outputs, inputs, 1, 1)

    def attention(place):
        shapes[f"{place}.norm"] = (64,)
        shapes.update({f"{place}.{part}": (64, 64, 1, 1) for part in ("q", "k", "v", "proj_out")})

    for side, first, last in (("encoder", (32, 3, 3, 3), (6, 64, 3, 3)), ("decoder", (64, 6, 3, 3), (3, 32, 3, 3))):
        shapes.update({f"{side}.conv_in": first, f"{side}.norm_out": last[1:2], f"{side}.conv_out": last})
        block(f"{side}.mid.block_1", 64, 64)
        block(f"{side}.mid.block_2", 64, 64)
        attention(f"{side}.mid.attn_1")
    block("encoder.down.0.block.0", 32, 32)
    shapes["encoder.down.0.downsample.conv"] = (32, 32, 3, 3)
    block("encoder.down.1.block.0", 32, 64)
    attention("encoder.down.1.attn.0")
    for i, inputs in enumerate((64, 64)):
        block(f"decoder.up.1.block.{i}", inputs, 64)
        attention(f"decoder.up.1.attn.{i}")
    shapes["decoder.up.1.upsample.conv"] = (64, 64, 3, 3)
    for i, inputs in enumerate((64, 32)):
        block(f"decoder.up.0.block.{i}", inputs, 32)
    generator = torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    biases = {f"{name}.bias": torch.randn(shape[0], generator=generator) for name, shape in shapes.items()}
    del biases["quantize.embedding.bias"]
    return weights | biases


@pytest.fixture
def released(tmp_path):
    """Writes a config and a checkpoint; gives the command's first three words."""

    def write(params=PARAMS, weights=None, target="taming.models.vqgan.VQModel", **others):
        config, checkpoint = tmp_path / "config.yaml", tmp_path / "model.ckpt"
        config.write_text(yaml.safe_dump({"model": {"target": target, "params": params}}))
        torch.save({"state_dict": weights_of_the_config() if weights is None else weights, **others}, checkpoint)
        return "import-compvis", config, checkpoint

    return write


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


# What comes out


@pytest.mark.parametrize("name", ["taming_vqgan_f16", "ldm_vq_f8", "ldm_vq_f4_noattn"])
@torch.no_grad()
def test_parity_with_the_published_code(command, output, name):
    config, checkpoint = golden(name)
    answer = command("import-compvis", config, checkpoint, "--output", output)
    assert (answer.status, answer.err) == (0, "")
    expected = load_file(config.with_name("expected.safetensors"))
    single = VQTokenizer.from_pretrained(output)
    assert torch.equal(single.encode(expected["images"]).codes, expected["indices"])
    tokenizer = single.double()  # the recorded numbers are rounded; ours should add nothing to that
    z = tokenizer.encode_latents(expected["images"].double())
    z_q = tokenizer.quantize(z).z_q
    for mine, key in ((z, "pre_quant"), (z_q, "z_q"), (tokenizer.decode(z_q), "reconstruction")):
        torch.testing.assert_close(mine.float(), expected[key], atol=1e-5, rtol=0)
    assert torch.equal(tokenizer.quantize(z).codes, expected["indices"])
    torch.testing.assert_close(
        tokenizer.decode_codes(expected["indices"]).float(), expected["reconstruction"], atol=1e-5, rtol=0
    )


def test_every_weight_has_its_place(command, released, output):
    weights = weights_of_the_config()
    assert command(*released(weights=weights), "--output", output).status == 0
    stored = load_file(output / "diffusion_pytorch_model.safetensors").values()
    assert sorted(float(value.double().sum()) for value in stored) == sorted(
        float(value.double().sum()) for value in weights.values()
    )


def test_what_is_written_is_a_tokenizer(command, released, output):
    answer = command(*released(), "--output", output)
    assert answer.out == f"done: VQTokenizer in {output}\n"
    assert json.loads((output / "config.json").read_text())["_class_name"] == "VQTokenizer"
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    tokenizer = load_tokenizer(output)
    assert not tokenizer.training
    assert (tokenizer.latent_size, tokenizer.config["image_size"], tokenizer.config["channels"]) == (8, 16, 3)


@pytest.mark.parametrize("target", ["taming.models.vqgan.VQModel", "ldm.models.autoencoder.VQModelInterface"])
def test_both_repositories_are_known(command, released, output, target):
    assert command(*released(target=target), "--output", output).status == 0


@pytest.mark.parametrize(
    ("given", "weights"), [({}, (1.0, 0.25)), ({"legacy": True}, (1.0, 0.25)), ({"legacy": False}, (0.25, 1.0))]
)
def test_the_weights_of_the_loss_are_those_it_was_trained_with(command, released, output, given, weights):
    assert command(*released(PARAMS | given), "--output", output).status == 0
    quantizer = VQTokenizer.from_pretrained(output).quantizer
    assert (quantizer.commitment_weight, quantizer.codebook_weight) == weights


def test_sizes_without_a_level_attend_nowhere(command, released, output):
    params = PARAMS | {"ddconfig": DDCONFIG | {"attn_resolutions": [8, 4, 7]}}
    assert command(*released(params), "--output", output).status == 0
    assert VQTokenizer.from_pretrained(output).config["autoencoder_config"]["attention_at"] == [2]


def test_no_attention_at_all(command, released, output):
    weights = {name: value for name, value in weights_of_the_config().items() if ".attn" not in name}
    params = PARAMS | {"ddconfig": DDCONFIG | {"attn_type": "none"}}
    assert command(*released(params, weights), "--output", output).status == 0


def test_the_discriminator_beside_the_model_is_left_out(command, released, output):
    weights = weights_of_the_config() | {"loss.discriminator.main.0.weight": torch.zeros(2)}
    assert command(*released(weights=weights), "--output", output).status == 0


def test_lightnings_own_state_is_left_out(command, released, output, monkeypatch):
    """Released files name the class of Lightning's checkpoint callback, which nobody needs to have installed."""
    place = "pytorch_lightning.callbacks.model_checkpoint"
    module = ModuleType(place)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": place})
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks", place):
            patch.setitem(sys.modules, name, module)
        words = released(callbacks={module.ModelCheckpoint: {"best_model_score": torch.zeros(())}}, epoch=3)
    assert command(*words, "--output", output).status == 0


# What is refused


def without(name):
    return {key: value for key, value in weights_of_the_config().items() if key != name}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (without("decoder.up.1.attn.0.q.bias"), ("1 missing weights", "'decoder.up.1.attn.0.q.bias'")),
        (weights_of_the_config() | {"quantize.used": torch.zeros(1)}, ("1 unexpected weights", "'quantize.used'")),
        ({}, ("missing weights", "'decoder.conv_in.bias'")),
        (
            weights_of_the_config() | {"quantize.embedding.weight": torch.zeros(8, 4)},
            ("quantize.embedding.weight of shape (8, 4)", "(16, 4)"),
        ),
        (weights_of_the_config() | {"quant_conv.bias": "a word"}, ("is no checkpoint", "state_dict")),
    ],
)
def test_weights_of_another_model(command, released, untouched, weights, words):
    words_of_command = released(weights=weights)
    command(*words_of_command, "--output", untouched).assert_refused(words_of_command[2], *words)


class Harm:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


OTHER_FILES = {
    "text": lambda path: path.write_text("these are not weights\n" * 100),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "safetensors": lambda path: save_file({"a": torch.zeros(3)}, path),
    "numbers": lambda path: path.write_bytes(pickle.dumps({"state_dict": {"a": 1}})),
    "tensor": lambda path: torch.save(torch.zeros(3), path),
    "bare": lambda path: torch.save(weights_of_the_config(), path),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_files_of_another_kind(command, released, untouched, kind):
    words = released()
    OTHER_FILES[kind](words[2])
    command(*words, "--output", untouched).assert_refused(words[2], "is no checkpoint; allowed: a whole .ckpt")


def test_a_file_that_would_run_code(command, released, untouched, tmp_path):
    words = released(harm=Harm(tmp_path / "harm"))
    command(*words, "--output", untouched).assert_refused(words[2], "mkdir, which could run code")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("place", [1, 2])
def test_missing_files(command, released, untouched, place):
    words = list(released())
    words[place] = words[place].with_name("nowhere")
    command(*words, "--output", untouched).assert_refused(words[place], "could not be read (No such file")
    words[place] = words[place].parent
    command(*words, "--output", untouched).assert_refused(words[place], "could not be read")


def test_the_checkpoint_of_a_unet(command, untouched):
    config, _ = golden("ldm_vq_f8")
    _, checkpoint = golden("ldm_unet_lsun_churches")
    answer = command("import-compvis", config, checkpoint, "--output", untouched)
    answer.assert_refused(checkpoint, "missing weights", "'decoder.conv_in.bias'")


@pytest.mark.parametrize(
    ("target", "suggestion"),
    [
        ("taming.models.vqgan.GumbelVQ", "did you mean taming.models.vqgan.VQModel?"),
        ("ldm.models.autoencoder.AutoencoderKL", "allowed: taming.models.vqgan.VQModel, "),
        (["VQModel"], "allowed: "),
    ],
)
def test_models_of_another_kind(command, released, untouched, target, suggestion):
    words = released(target=target)
    command(*words, "--output", untouched).assert_refused(words[1], "model.target", repr(target), suggestion)


@pytest.mark.parametrize("text", ["a: 1", "model: {target: taming.models.vqgan.VQModel}", "model: 3"])
def test_configs_of_something_else(command, released, untouched, text):
    words = released()
    words[1].write_text(text)
    command(*words, "--output", untouched).assert_refused(words[1], "allowed: one with model.target")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"n_embed": "many"}, ("n_embed: 'many'", "integer")),
        ({"remap": "used.npy"}, ("remap: 'used.npy'", "None")),
        ({"use_ema": True}, ("use_ema: True", "False")),
        ({"ddconfig": DDCONFIG | {"double_z": True}}, ("ddconfig.double_z: True", "False")),
        ({"ddconfig": DDCONFIG | {"attn_type": "linear"}}, ("ddconfig.attn_type: 'linear'", "'vanilla' or 'none'")),
        ({"ddconfig": DDCONFIG | {"tanh_out": True}}, ("ddconfig.tanh_out: unknown key",)),
        ({"ddconfig": DDCONFIG | {"out_ch": 1}}, ("ddconfig.out_ch: 1", "ddconfig.in_channels (3)")),
        ({"ddconfig": DDCONFIG | {"ch_mult": [2, 2]}}, ("ddconfig.ch_mult: [2, 2]", "starts with 1")),
        ({"ddconfig": DDCONFIG | {"resolution": 15}}, ("ddconfig.resolution: 15", "a multiple of 2")),
        ({"ddconfig": DDCONFIG | {"ch": 40}}, ("autoencoder.width: 40", "multiple of 32")),
        ({"ddconfig": None}, ("ddconfig: None",)),
    ],
)
def test_settings_without_a_counterpart(command, released, untouched, params, words):
    words_of_command = released(PARAMS | params)
    command(*words_of_command, "--output", untouched).assert_refused(words_of_command[1], *words)


def test_an_output_that_holds_something(command, released, output, contents):
    output.mkdir()
    (output / "thesis.txt").write_text("precious")
    before = contents(output)
    answer = command(*released(), "--output", output)
    assert (answer.status, contents(output)) == (2, before)
    assert f"{output}: is not empty" in answer.err
