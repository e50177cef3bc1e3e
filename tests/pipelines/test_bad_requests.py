"""A run folder, an output or an option that cannot be is one line, too; exit status 2, nothing written."""

import shutil

import pytest

# Run folders


@pytest.mark.parametrize("stage", ["tokenizer", "ldm", "transformer"])
def test_a_run_of_another_config_stays_as_it_is(chain, command, stage, contents):
    before = contents(chain / stage)
    other = ("--output", chain / stage, "--set", "training.seed=1")
    answer = command("train", stage, chain.config(stage), *other)
    answer.assert_refused(chain / stage, "training.seed: 0 there, 1 here", "another --output")
    assert contents(chain / stage) == before


@pytest.mark.parametrize("stage", ["tokenizer", "ldm", "transformer"])
def test_a_folder_of_something_else_stays_as_it_is(chain, command, tmp_path, stage, contents):
    (tmp_path / "thesis.tex").write_text("dear reader")
    before = contents(tmp_path)
    commands = [("train", stage, chain.config(stage)), ("encode", "--tokenizer", chain / "tokenizer")]
    for arguments in commands:
        command(*arguments, "--output", tmp_path).assert_refused(tmp_path, "is not empty")
        assert contents(tmp_path) == before


@pytest.mark.parametrize("arguments", [("train", "ldm"), ("train", "transformer")])
def test_paths_without_a_tokenizer_or_codes(chain, command, untouched, tmp_path, arguments):
    train = (*arguments, chain.config(arguments[1]), "--output", untouched)
    command(*train, "--set", f"tokenizer={tmp_path}").assert_refused(tmp_path, "holds no tokenizer")
    command(*train, "--set", "tokenizer=nowhere").assert_refused("nowhere: holds no tokenizer")
    command(*train, "--set", f"codes={tmp_path}").assert_refused(tmp_path / "manifest.json", "no such file")


def test_encode_and_evaluate_need_a_tokenizer(chain, command, untouched, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", chain / "codes"):
        command("encode", "--tokenizer", path, "--output", untouched).assert_refused(path)
        command("evaluate", "reconstruction", path, "--output", untouched).assert_refused(path)
    (tmp_path / "config.yaml").write_text("some: other program's\n")
    command("encode", "--tokenizer", tmp_path, "--output", untouched).assert_refused(
        tmp_path, "not the config of a run"
    )


def test_sample_and_evaluate_need_a_pipeline(chain, command, untouched, tmp_path):
    for path in (tmp_path / "nowhere", chain / "tokenizer", chain / "codes"):
        command("sample", path, "--output", untouched).assert_refused(path, "holds no pipeline")
    evaluate = ("evaluate", "generation", chain / "tokenizer", "--num-images", 8, "--output", untouched)
    command(*evaluate).assert_refused(chain / "tokenizer", "holds no pipeline")


def test_a_pipeline_with_a_part_missing(chain, command, untouched, tmp_path):
    run = shutil.copytree(chain / "transformer", tmp_path / "run")
    (run / "pipeline" / "prior" / "diffusion_pytorch_model.safetensors").unlink()
    command("sample", run, "--output", untouched).assert_refused(run / "pipeline", "could not be loaded")


def test_a_pipeline_of_another_package(chain, command, untouched, tmp_path):
    run = shutil.copytree(chain / "transformer", tmp_path / "run")
    index = run / "pipeline" / "model_index.json"
    index.write_text(index.read_text().replace("AutoregressivePipeline", "FluxPipeline"))
    command("sample", run, "--output", untouched).assert_refused(index, "_class_name: 'FluxPipeline'")


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
def test_mistakes_in_sampling(chain, command, untouched, prior, options, words):
    command("sample", chain / prior, "--output", untouched, *options).assert_refused(*words)


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
def test_mistakes_in_measuring_samples(chain, command, untouched, prior, options, words):
    answer = command("evaluate", "generation", chain / prior, "--num-images", 8, "--output", untouched, *options)
    answer.assert_refused(*words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--split", "tset"], ("--split: 'tset'", "train or test")),
        (["--protocol", "none"], ("protocol: 'none'", "default")),
        (["--network", "nowhere.py"], ("nowhere.py",)),
    ],
)
def test_mistakes_in_measuring_reconstructions(chain, command, untouched, options, words):
    answer = command("evaluate", "reconstruction", chain / "tokenizer", "--output", untouched, *options)
    answer.assert_refused(*words)


def test_rows_are_written_to_a_file(chain, command, tmp_path, contents):
    before = contents(tmp_path)
    answer = command("evaluate", "reconstruction", chain / "tokenizer", "--output", tmp_path)
    answer.assert_refused(f"--output: '{tmp_path}'", "a file, not a folder")
    assert contents(tmp_path) == before


def test_encode_knows_its_splits(chain, command, untouched):
    encode = ("encode", "--tokenizer", chain / "tokenizer", "--output", untouched)
    command(*encode, "--split", "tset").assert_refused("--split: 'tset'", "train or test")


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
    command(*first, *rest, "--output", output).assert_refused(tmp_path / "file")
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
