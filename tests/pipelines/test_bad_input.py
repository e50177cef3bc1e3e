"""A mistake in a config or its data is one line: the thing, its value, what is allowed; status 2, nothing written."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

# Configs


TOKENIZER_MISTAKES = [
    ("trainng.steps=3", "trainng: unknown key", "allowed: data,", "did you mean training?"),
    ("training.stepz=3", "training.stepz: unknown key", "steps", "did you mean steps?"),
    ("quantizer.codebok_size=4", "quantizer.codebok_size: unknown key", "did you mean codebook_size?"),
    ("data.sise=4", "data.sise: unknown key", "image_size"),
    ("training.steps=many", "training.steps: 'many'", "integer"),
    ("training.steps=2.5", "training.steps: 2.5", "integer"),
    ("training.steps='3'", "training.steps: '3'", "integer"),
    ("training.steps=0", "training.steps: 0", "greater than or equal to 1"),
    ("training.ema_decay=1.0", "training.ema_decay: 1.0", "less than 1"),
    ("optimizer.learning_rate=-1", "optimizer.learning_rate: -1", "greater than 0"),
    ("optimizer.learning_rate=.inf", "optimizer.learning_rate: inf", "finite"),
    ("training.seed=9223372036854775808", "training.seed: 9223372036854775808", "less than"),
    ("training.accumulation=3", "training.batch_size: 16", "a multiple of 3 (training.accumulation)"),
    ("autoencoder.width=1", "autoencoder.width: 1", "greater than or equal to 2"),
    ("optimizer.schedule=linear", "optimizer.schedule: 'linear'", "'constant' or 'cosine'"),
    ("quantizer.distance=l3", "quantizer.distance: 'l3'", "'l2'", "'cosine'"),
    ("quantizer.codebook_size=0", "quantizer.codebook_size: 0", "greater than or equal to 1"),
    ("quantizer={name: fsq, codebook_size: 11, dim: 4}", "quantizer.codebook_size: 11", "a product of integers"),
    ("quantizer={name: fsq, codebook_size: 16, dim: 4}", "warm_start: {", "fsq has no codebook to start"),
    ("quantizer={name: multichannel, codebook_size: 16, dim: 6}", "quantizer.dim: 6", "a multiple of parts (4)"),
    ("quantizer.name=cqv", "quantizer.name: 'cqv' is not a quantizer", "allowed: vq, ", "did you mean cvq?"),
    ("autoencoder.name=unet", "autoencoder.name: 'unet' is not a autoencoder", "vqvae"),
    (
        "data.name=shapez",
        "data.name: 'shapez' is not a dataset",
        "shapes, idx, cifar10, folder",
        "did you mean shapes?",
    ),
    ("quantizer=cvq", "quantizer: 'cvq'", "a mapping with a `name` key"),
    ("data.image_size=18", "data.image_size: 18", "a multiple of the autoencoder's downsampling factor 4"),
    ("warm_start.steps=8", "warm_start.steps: 8", "fewer than training.steps (8)"),
    ("training.steps", "--set 'training.steps'", "KEY=VALUE"),
    ("=3", "--set '=3'", "KEY=VALUE"),
    ("training.steps.deep=3", "--set training.steps.deep: steps holds 8"),
    ("training.steps=[1", "--set training.steps", "not valid YAML"),
]
LDM_MISTAKES = [
    ("latents=continous", "latents: 'continous'", "'quantized' or 'continuous'"),
    ("denoiser.width=8", "denoiser.width: unknown key", "did you mean widths?"),
    ("denoiser.name=dti", "denoiser.name: 'dti' is not a denoiser", "unet"),
    ("objective.timesteps=0", "objective.timesteps: 0", "greater than or equal to 1"),
    ("objective.betas=[0.5, 0.1]", "objective.betas: [0.5, 0.1]", "0 < first <= last < 1"),
    ("label_dropout=1.0", "label_dropout: 1.0", "less than 1"),
    ("denoiser.latent_size=8", "denoiser.latent_size: unknown key"),
]
TRANSFORMER_MISTAKES = [
    ("prior.name=gtp2", "prior.name: 'gtp2' is not a prior", "llama, gpt2", "did you mean gpt2?"),
    ("prior.dropout=2.0", "prior.dropout: 2.0", "less than 1"),
    ("prior.heads=two", "prior.heads: 'two'", "integer"),
    ("conditional=maybe", "conditional: 'maybe'", "boolean"),
]
MISTAKES = [("tokenizer", *case) for case in TOKENIZER_MISTAKES]
MISTAKES += [("ldm", *case) for case in LDM_MISTAKES] + [("transformer", *case) for case in TRANSFORMER_MISTAKES]


@pytest.mark.parametrize(("stage", "assignment", "words"), [(s, a, w) for s, a, *w in MISTAKES])
def test_mistakes_in_a_config(configs, command, untouched, stage, assignment, words):
    answer = command("train", stage, configs.config(stage), "--output", untouched, "--set", assignment)
    answer.assert_refused(*words)


def test_a_dry_run_refuses_the_same(configs, command, untouched):
    mistake = ("--set", "training.steps=0", "--dry-run")
    answer = command("train", "tokenizer", configs.config("tokenizer"), "--output", untouched, *mistake)
    answer.assert_refused("steps: 0")


def test_a_missing_section(configs, command, untouched, tmp_path):
    values = yaml.safe_load(configs.config("tokenizer").read_text())
    del values["quantizer"]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    command("train", "tokenizer", config, "--output", untouched).assert_refused(config, "quantizer: missing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: [1, 2", ("line 2", "not valid YAML")),
        ("a: 1\na: 2", ("line 2", "'a' is written twice")),
        ("- a\n- b", ("a config is a mapping", "list")),
        ("", ("a config is a mapping", "NoneType")),
    ],
)
def test_files_that_are_no_config(command, untouched, tmp_path, text, words):
    config = tmp_path / "config.yaml"
    config.write_text(text + "\n")
    command("train", "tokenizer", config, "--output", untouched).assert_refused(config, *words)


def test_a_missing_config(command, untouched, tmp_path):
    config = tmp_path / "nowhere.yaml"
    command("train", "ldm", config, "--output", untouched).assert_refused(config, "No such file")
    command("train", "ldm", tmp_path, "--output", untouched).assert_refused(tmp_path, "directory")


# Shapes that only the codes decide: refused before the run folder is touched


@pytest.mark.parametrize(
    ("stage", "assignments", "words"),
    [
        ("ldm", ["denoiser.widths=[12]", "denoiser.norm_groups=8"], ("denoiser.widths: [12]", "norm_groups (8)")),
        ("ldm", ["denoiser.widths=[]"], ("denoiser.widths: []", "at least one")),
        ("ldm", ["denoiser.head_dim=5"], ("denoiser.head_dim: 5", "[8, 8]")),
        ("ldm", ["denoiser.attention=[true, true]"], ("denoiser.attention: [True, True]", "each of the 1 widths")),
        ("ldm", ["denoiser.widths=[8, 8, 8, 8]", "denoiser.attention=null"], ("denoiser.widths", "latents of 4")),
        ("transformer", ["prior.heads=3"], ("prior.width: 16", "a multiple of 3")),
        ("transformer", ["prior={name: llama, layers: 1, heads: 16, width: 16}"], ("prior.width: 16", "of 64")),
    ],
)
def test_networks_that_cannot_be(chain, command, untouched, stage, assignments, words):
    options = [option for assignment in assignments for option in ("--set", assignment)]
    command("train", stage, chain.config(stage), "--output", untouched, *options).assert_refused(*words)


# Data


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures in two classes, and a function that spoils so many of them."""
    root = tmp_path / "pictures"
    for i in range(12):
        path = root / "train" / ("cat", "dog")[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    (root / "train" / "cat" / "00.png").write_bytes((root / "train" / "cat" / "02.png").read_bytes()[:400])
    (root / "train" / "dog" / "05.png").write_bytes(b"not a picture")
    return root


def on_pictures(root, on_corrupt="refuse"):
    data = {"name": "folder", "root": str(root), "image_size": 16, "on_corrupt": on_corrupt}
    return ("--set", f"data={json.dumps(data)}", "--set", "training.batch_size=4")


def test_a_corrupt_picture_is_named_with_what_to_do(configs, command, untouched, pictures):
    config = configs.config("tokenizer")
    answer = command("train", "tokenizer", config, "--output", untouched, *on_pictures(pictures))
    answer.assert_refused("corrupt (", "data check", "on_corrupt: skip")
    assert "cat/00.png" in answer.err or "dog/05.png" in answer.err


def test_the_next_picture_stands_in_when_asked(configs, command, pictures, tmp_path):
    config, run, codes = configs.config("tokenizer"), tmp_path / "run", tmp_path / "codes"
    answer = command("train", "tokenizer", config, "--output", run, *on_pictures(pictures, "skip"))
    assert answer.status == 0
    said = [line for line in answer.err.splitlines() if line.startswith("twostage: warning: ")]
    assert len(said) == 2, "once for each of them"
    assert all("the next image stands in for it" in line for line in said)
    answer = command("encode", "--tokenizer", run, "--output", codes)
    assert answer.status == 0
    assert "dog/05.png" in answer.err
    assert answer.out == f"done: 12 images in {codes}\n"
    answer = command("train", "tokenizer", config, "--output", run, *on_pictures(pictures, "refuse"))
    answer.assert_refused("00.png: corrupt (")  # and not for being the run of another config


def test_data_check_names_corrupt_files(command, pictures, contents):
    before = contents(pictures)
    answer = command("data", "check", pictures)
    answer.assert_refused(pictures, "2 corrupt images")
    assert "train: 10 images" in answer.out
    assert str(pictures / "train" / "dog" / "05.png") in answer.out
    assert contents(pictures) == before


def test_data_check_of_good_pictures_and_of_nothing(command, pictures, tmp_path):
    assert command("data", "check", pictures / "train" / "nowhere").status == 2
    (pictures / "train" / "cat" / "00.png").unlink()
    (pictures / "train" / "dog" / "05.png").unlink()
    answer = command("data", "check", pictures)
    assert (answer.status, answer.err) == (0, "")
    assert "cat (5), dog (5)" in answer.out


def test_data_check_draws_a_picture(command, pictures, tmp_path):
    answer = command("data", "check", pictures, "--output", tmp_path / "grid.png")
    assert answer.status == 2, "the picture is of the others"
    assert f"done: {tmp_path / 'grid.png'}" in answer.out
    assert Image.open(tmp_path / "grid.png").width > 100
    command("data", "check", pictures, "--output", pictures).assert_refused("a file, not a folder")


@pytest.mark.parametrize("made", [False, True], ids=["missing", "empty"])
def test_data_folders_without_data(configs, command, untouched, tmp_path, made):
    root = tmp_path / "2024"  # a path is text, whatever YAML would make of it
    if made:
        root.mkdir()
    allowed = "holds no images" if made else "no such folder"
    config = configs.config("tokenizer")
    command("train", "tokenizer", config, "--output", untouched, *on_pictures(root)).assert_refused(root, allowed)
    options = (*on_pictures("anywhere"), "--data", root)
    command("train", "tokenizer", config, "--output", untouched, *options).assert_refused(root, allowed)
    command("data", "check", root).assert_refused(root, allowed)


def test_a_data_path_is_text(configs, command, untouched):
    options = (*on_pictures("anywhere"), "--data", "2024", "--dry-run")
    answer = command("train", "tokenizer", configs.config("tokenizer"), "--output", untouched, *options)
    assert answer.status == 0
    assert yaml.safe_load(answer.out)["data"]["root"] == "2024"


def test_data_without_a_root_takes_no_path(chain, command, untouched):
    encode = ("encode", "--tokenizer", chain / "tokenizer", "--output", untouched, "--data", "elsewhere")
    command(*encode).assert_refused("data.root: unknown key", "image_size, count, seed")
