"""Help and mistakes answer at once: what a command imports, and what a dry run prints."""

import importlib
import json
import os
import subprocess
import sys

import pytest
import yaml

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "matplotlib", "datasets")


def imported(code):
    """Which of the heavy libraries a fresh interpreter has imported after running `code`."""
    script = f"""
import atexit, json, sys
atexit.register(lambda: print("\\n" + json.dumps([name for name in {HEAVY!r} if name in sys.modules])))
{code}
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, env=environment)
    return done, set(json.loads(done.stdout.splitlines()[-1]))


def run(*arguments):
    return imported(f"sys.argv = {['twostage', *map(str, arguments)]!r}\nfrom pipelines.cli import main\nmain()")


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("train", "--help"), ("train", "tokenizer", "--help"), ("import-compvis", "--help"), ()],
)
def test_help_imports_no_library(arguments):
    done, libraries = run(*arguments)
    assert "Usage: twostage" in done.stdout + done.stderr
    assert libraries == set()


@pytest.mark.parametrize("stage", ["tokenizer", "ldm", "transformer"])
def test_a_config_error_imports_at_most_torch(configs, stage):
    done, libraries = run("train", stage, configs.config(stage), "--set", "training.steps=0")
    assert done.returncode == 2
    assert done.stderr.startswith("twostage: ")
    assert libraries <= {"torch"}


def test_missing_run_folders_are_noticed_before_diffusers_is_imported(tmp_path):
    done, libraries = run("sample", tmp_path / "nowhere", "--output", tmp_path / "output")
    assert done.returncode == 2
    assert "diffusers" not in libraries


def test_packages_import_no_library():
    _, libraries = imported(
        "import pipelines, stage1_tokenizer, stage2_ldm, stage2_transformer, twostage, twostage.data"
    )
    assert libraries == set()


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("pipelines", ["LatentDiffusionPipeline", "AutoregressivePipeline"]),
        ("stage1_tokenizer", ["VQTokenizer", "QUANTIZERS", "ModelMixin"]),
        ("stage2_ldm", ["LatentDenoiser", "ModelMixin"]),
        ("stage2_transformer", ["TransformerPrior", "ModelMixin"]),
    ],
)
def test_packages_export_lazily_what_they_say(package, names):
    module = importlib.import_module(package)
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("stage", ["tokenizer", "ldm", "transformer"])
def test_a_dry_run_prints_the_config_it_would_run(configs, command, tmp_path, stage):
    output = tmp_path / "output"
    options = ("--output", output, "--dry-run", "--set", "training.seed=7")
    answer = command("train", stage, configs.config(stage), *options)
    assert (answer.status, answer.err) == (0, "")
    assert not output.exists()
    printed = tmp_path / "printed.yaml"
    printed.write_text(answer.out)
    assert yaml.safe_load(answer.out)["training"]["seed"] == 7
    assert yaml.safe_load(answer.out)["training"]["accumulation"] == 1  # defaults are written out
    assert command("train", stage, printed, "--dry-run").out == answer.out
