"""A user's mistake is one line that names the thing, its value and what is allowed; exit status 2, nothing written."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image


def assert_refused(answer, *words):
    assert answer.status == 2, answer
    assert len(answer.err.splitlines()) == 1, answer.err
    assert answer.err.startswith("twostage: ")
    for word in words:
        assert str(word) in answer.err
    assert "done" not in answer.out


@pytest.fixture
def output(tmp_path):
    """Where nothing is, and nothing may be afterwards."""
    output = tmp_path / "output"
    yield output
    assert not output.exists()
    assert not list(tmp_path.glob(".output*"))


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
def test_mistakes_in_a_config(configs, command, output, stage, assignment, words):
    answer = command("train", stage, configs.config(stage), "--output", output, "--set", assignment)
    assert_refused(answer, *words)


def test_a_dry_run_refuses_the_same(configs, command, output):
    mistake = ("--set", "training.steps=0", "--dry-run")
    assert_refused(command("train", "tokenizer", configs.config("tokenizer"), "--output", output, *mistake), "steps: 0")


def test_a_missing_section(configs, command, output, tmp_path):
    values = yaml.safe_load(configs.config("tokenizer").read_text())
    del values["quantizer"]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    assert_refused(command("train", "tokenizer", config, "--output", output), config, "quantizer: missing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: [1, 2", ("line 2", "not valid YAML")),
        ("a: 1\na: 2", ("line 2", "'a' is written twice")),
        ("- a\n- b", ("a config is a mapping", "list")),
        ("", ("a config is a mapping", "NoneType")),
    ],
)
def test_files_that_are_no_config(command, output, tmp_path, text, words):
    config = tmp_path / "config.yaml"
    config.write_text(text + "\n")
    assert_refused(command("train", "tokenizer", config, "--output", output), config, *words)


def test_a_missing_config(command, output, tmp_path):
    config = tmp_path / "nowhere.yaml"
    assert_refused(command("train", "ldm", config, "--output", output), config, "No such file")
    assert_refused(command("train", "ldm", tmp_path, "--output", output), tmp_path, "directory")


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
def test_networks_that_cannot_be(chain, command, output, stage, assignments, words):
    options = [option for assignment in assignments for option in ("--set", assignment)]
    assert_refused(command("train", stage, chain.config(stage), "--output", output, *options), *words)


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


def test_a_corrupt_picture_is_named_with_what_to_do(configs, command, output, pictures):
    config = configs.config("tokenizer")
    answer = command("train", "tokenizer", config, "--output", output, *on_pictures(pictures))
    assert_refused(answer, "corrupt (", "data check", "on_corrupt: skip")
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
    assert_refused(answer, "00.png: corrupt (")  # and not for being the run of another config


def test_data_check_names_corrupt_files(command, pictures, contents):
    before = contents(pictures)
    answer = command("data", "check", pictures)
    assert_refused(answer, pictures, "2 corrupt images")
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
    assert_refused(command("data", "check", pictures, "--output", pictures), "a file, not a folder")


@pytest.mark.parametrize("made", [False, True], ids=["missing", "empty"])
def test_data_folders_without_data(configs, command, output, tmp_path, made):
    root = tmp_path / "2024"  # a path is text, whatever YAML would make of it
    if made:
        root.mkdir()
    allowed = "holds no images" if made else "no such folder"
    config = configs.config("tokenizer")
    assert_refused(command("train", "tokenizer", config, "--output", output, *on_pictures(root)), root, allowed)
    options = (*on_pictures("anywhere"), "--data", root)
    assert_refused(command("train", "tokenizer", config, "--output", output, *options), root, allowed)
    assert_refused(command("data", "check", root), root, allowed)


def test_a_data_path_is_text(configs, command, output):
    options = (*on_pictures("anywhere"), "--data", "2024", "--dry-run")
    answer = command("train", "tokenizer", configs.config("tokenizer"), "--output", output, *options)
    assert answer.status == 0
    assert yaml.safe_load(answer.out)["data"]["root"] == "2024"


def test_data_without_a_root_takes_no_path(chain, command, output):
    encode = ("encode", "--tokenizer", chain / "tokenizer", "--output", output, "--data", "elsewhere")
    assert_refused(command(*encode), "data.root: unknown key", "image_size, count, seed")


# Run folders


@pytest.mark.parametrize("stage", ["tokenizer", "ldm", "transformer"])
def test_a_run_of_another_config_stays_as_it_is(chain, command, stage, contents):
    before = contents(chain / stage)
    other = ("--output", chain / stage, "--set", "training.seed=1")
    answer = command("train", stage, chain.config(stage), *other)
    assert_refused(answer, chain / stage, "training.seed: 0 there, 1 here", "another --output")
    assert contents(chain / stage) == before


@pytest.mark.parametrize("stage", ["tokenizer", "ldm", "transformer"])
def test_a_folder_of_something_else_stays_as_it_is(chain, command, tmp_path, stage, contents):
    (tmp_path / "thesis.tex").write_text("dear reader")
    before = contents(tmp_path)
    commands = [("train", stage, chain.config(stage)), ("encode", "--tokenizer", chain / "tokenizer")]
    for arguments in commands:
        assert_refused(command(*arguments, "--output", tmp_path), tmp_path, "is not empty")
        assert contents(tmp_path) == before


@pytest.mark.parametrize("arguments", [("train", "ldm"), ("train", "transformer")])
def test_paths_without_a_tokenizer_or_codes(chain, command, output, tmp_path, arguments):
    train = (*arguments, chain.config(arguments[1]), "--output", output)
    assert_refused(command(*train, "--set", f"tokenizer={tmp_path}"), tmp_path, "holds no tokenizer")
    assert_refused(command(*train, "--set", "tokenizer=nowhere"), "nowhere: holds no tokenizer")
    assert_refused(command(*train, "--set", f"codes={tmp_path}"), tmp_path / "manifest.json", "no such file")


def test_encode_and_evaluate_need_a_tokenizer(chain, command, output, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", chain / "codes"):
        assert_refused(command("encode", "--tokenizer", path, "--output", output), path)
        assert_refused(command("evaluate", "reconstruction", path, "--output", output), path)
    (tmp_path / "config.yaml").write_text("some: other program's\n")
    assert_refused(command("encode", "--tokenizer", tmp_path, "--output", output), tmp_path, "not the config of a run")


def test_sample_and_evaluate_need_a_pipeline(chain, command, output, tmp_path):
    for path in (tmp_path / "nowhere", chain / "tokenizer", chain / "codes"):
        assert_refused(command("sample", path, "--output", output), path, "holds no pipeline")
    evaluate = ("evaluate", "generation", chain / "tokenizer", "--num-images", 8, "--output", output)
    assert_refused(command(*evaluate), chain / "tokenizer", "holds no pipeline")


def test_a_pipeline_with_a_part_missing(chain, command, output, tmp_path):
    run = shutil.copytree(chain / "transformer", tmp_path / "run")
    (run / "pipeline" / "prior" / "diffusion_pytorch_model.safetensors").unlink()
    assert_refused(command("sample", run, "--output", output), run / "pipeline", "could not be loaded")


def test_a_pipeline_of_another_package(chain, command, output, tmp_path):
    run = shutil.copytree(chain / "transformer", tmp_path / "run")
    index = run / "pipeline" / "model_index.json"
    index.write_text(index.read_text().replace("AutoregressivePipeline", "FluxPipeline"))
    assert_refused(command("sample", run, "--output", output), index, "_class_name: 'FluxPipeline'")


# Sampling and measuring


SAMPLE_MISTAKES = [
    ("ldm", ["--class-label", 10], ("class_label: 10", "0..9")),
    ("ldm", ["--class-label", -1], ("class_label: -1", "0..9")),
    ("ldm", ["--class-label", "sqare"], ("class_label: 'sqare'", "circle, square", "did you mean square?")),
    ("ldm", ["--class-label", "--5"], ("class_label: '--5'", "circle, square")),
    ("ldm", ["--class-label", "³"], ("class_label: '³'", "circle, square")),
    ("transformer", ["--class-label", "0", "--class-label", "nothing"], ("class_label: 'nothing'", "circle")),
    ("unconditional", ["--class-label", 0], ("class_label: 0", "unconditional")),
    ("unconditional", ["--guidance-scale", 2], ("guidance_scale: 2.0", "1.0", "unconditional")),
    ("ldm", ["--guidance-scale", "nan"], ("guidance_scale: nan", "finite")),
    ("transformer", ["--guidance-scale", "inf"], ("guidance_scale: inf", "finite")),
    ("ldm", ["--steps", 0], ("num_inference_steps: 0", "1..20")),
    ("ldm", ["--steps", 21], ("num_inference_steps: 21", "1..20")),
    ("transformer", ["--steps", 5], ("num_inference_steps: 5", "AutoregressivePipeline understands")),
    ("ldm", ["--solver", "euler"], ("solver: 'euler' does not solve epsilon", "ddim, dpm, unipc")),
    ("transformer", ["--solver", "dpm"], ("solver: 'dpm'", "AutoregressivePipeline understands")),
    ("ldm", ["--guidance-interval", 0.9, 0.1], ("guidance_interval: (0.9, 0.1)", "0 <= first <= last <= 1")),
    ("transformer", ["--guidance-interval", 0.9, 0.1], ("guidance_interval: (0.9, 0.1)", "of the sequence")),
    ("transformer", ["--guidance-power", -1], ("guidance_power: -1.0", "at least 0")),
    ("ldm", ["--guidance-power", 1], ("guidance_power: 1.0", "LatentDiffusionPipeline understands")),
    ("transformer", ["--top-k", 17], ("top_k: 17", "1..16, the number of codes")),
    ("transformer", ["--top-k", -1], ("top_k: -1", "0 (all codes)")),
    ("transformer", ["--top-p", 0], ("top_p: 0.0", "above 0 and at most 1")),
    ("transformer", ["--top-p", 1.1], ("top_p: 1.1", "above 0 and at most 1")),
    ("transformer", ["--temperature", 0], ("temperature: 0.0", "above 0")),
    ("ldm", ["--num-images", 0], ("num_images: 0", "at least 1")),
    ("transformer", ["--num-images", -3], ("num_images: -3", "at least 1")),
]


@pytest.mark.parametrize(("prior", "options", "words"), SAMPLE_MISTAKES)
def test_mistakes_in_sampling(chain, command, output, prior, options, words):
    assert_refused(command("sample", chain / prior, "--output", output, *options), *words)


@pytest.mark.parametrize(
    ("prior", "options", "words"),
    [
        ("ldm", ["--num-images", 0], ("num_images: 0", "at least 4")),
        ("ldm", ["--num-images", 3], ("num_images: 3", "at least 4")),
        ("ldm", ["--split", "tset"], ("--split: 'tset'", "train or test")),
        ("ldm", ["--steps", 0], ("num_inference_steps: 0", "1..20")),
        ("transformer", ["--steps", 5], ("num_inference_steps: 5", "AutoregressivePipeline understands")),
        ("unconditional", ["--guidance-scale", 2], ("guidance_scale: 2.0", "unconditional")),
        ("ldm", ["--network", "nowhere.py:f"], ("nowhere.py",)),
    ],
)
def test_mistakes_in_measuring_samples(chain, command, output, prior, options, words):
    answer = command("evaluate", "generation", chain / prior, "--num-images", 8, "--output", output, *options)
    assert_refused(answer, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--split", "tset"], ("--split: 'tset'", "train or test")),
        (["--protocol", "none"], ("protocol: 'none'", "default")),
        (["--network", "nowhere.py"], ("nowhere.py",)),
    ],
)
def test_mistakes_in_measuring_reconstructions(chain, command, output, options, words):
    answer = command("evaluate", "reconstruction", chain / "tokenizer", "--output", output, *options)
    assert_refused(answer, *words)


def test_rows_are_written_to_a_file(chain, command, tmp_path, contents):
    before = contents(tmp_path)
    answer = command("evaluate", "reconstruction", chain / "tokenizer", "--output", tmp_path)
    assert_refused(answer, f"--output: '{tmp_path}'", "a file, not a folder")
    assert contents(tmp_path) == before


def test_encode_knows_its_splits(chain, command, output):
    encode = ("encode", "--tokenizer", chain / "tokenizer", "--output", output)
    assert_refused(command(*encode, "--split", "tset"), "--split: 'tset'", "train or test")


# Outputs that cannot be written


OUTPUTS = [
    ("train", "tokenizer", "tokenizer.yaml"),
    ("train", "ldm", "ldm.yaml"),
    ("train", "transformer", "transformer.yaml"),
    ("encode", "--tokenizer", "tokenizer"),
    ("sample", "ldm"),
    ("evaluate", "reconstruction", "tokenizer"),
    ("evaluate", "generation", "transformer", "--num-images", 8),
]


def on_chain(chain, arguments):
    return [chain / word if (chain / str(word)).exists() and i else word for i, word in enumerate(arguments)]


@pytest.mark.parametrize("arguments", OUTPUTS, ids=lambda arguments: "-".join(map(str, arguments[:2])))
def test_an_output_below_a_file(chain, command, tmp_path, arguments):
    (tmp_path / "file").write_text("precious")
    first = arguments[:2] if arguments[0] in ("train", "evaluate") else arguments[:1]
    rest = on_chain(chain, ("", *arguments[len(first) :]))[1:]
    output = tmp_path / "file" / "folder" / "output"
    assert_refused(command(*first, *rest, "--output", output), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# What typer answers itself


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["trian", "tokenizer"], "trian"),
        (["train", "tokeniser"], "tokeniser"),
        (["train", "tokenizer", "a.yaml", "--ouput", "b"], "--ouput"),
        (["sample", "a", "--output", "b", "--num-images", "few"], "--num-images"),
        (["sample", "a"], "--output"),
    ],
)
def test_unknown_commands_and_options(command, arguments, word):
    answer = command(*arguments)
    assert answer.status == 2
    assert word in answer.err
    assert "Usage" in answer.err
    assert "Traceback" not in answer.err
