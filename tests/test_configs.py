"""Every shipped config: what its first lines say, its networks at full size, and steps of a smaller one like it."""

import math
import re
import shlex
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from torch import Tensor, nn

from pipelines.cli import app
from pipelines.train import read_config
from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.config import LossConfig, TokenizerConfig, WarmStart
from stage1_tokenizer.losses import Perceptual
from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.train import TokenizerTask
from stage2_ldm.config import LDMConfig
from stage2_ldm.denoiser import LatentDenoiser
from stage2_ldm.objectives import OBJECTIVES
from stage2_ldm.train import LDMTask
from stage2_transformer.config import TransformerConfig
from stage2_transformer.prior import TransformerPrior
from stage2_transformer.train import TransformerTask
from twostage.config import to_yaml
from twostage.data.shapes import SHAPES
from twostage.training.task import Progress, Task

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SCHEMAS: dict[str, Any] = {"tokenizer": TokenizerConfig, "ldm": LDMConfig, "transformer": TransformerConfig}

IMAGES = {
    "ffhq": 60_000,
    "imagenet": 1_281_167,
    "church_outdoor": 126_227,
    "bedroom": 3_033_042,
    "celebahq": 30_000,
    "idx": 60_000,
    "cifar10": 50_000,
}
"""For training, as published; of CelebA-HQ all, for it has no split."""

CLASSES = {"imagenet": 1000, "idx": 10, "cifar10": 10, "shapes": len(SHAPES)}
GRAY = ("idx",)


def kind(path: Path) -> str:
    return path.stem.split("_")[0]


def each(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda path: f"{path.parent.name}/{path.stem}")


PATHS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "tables")
TOKENIZERS = [path for path in PATHS if kind(path) == "tokenizer"]
PRIORS = [path for path in PATHS if kind(path) != "tokenizer"]
PUBLISHED = [path for path in PATHS if path.stem.endswith("_paper") or path.parent.name.endswith("256")]


@cache
def checked(path: Path, *assignments: str) -> Any:
    return read_config(SCHEMAS[kind(path)], path, assignments)


def of_run(run: str) -> Path:
    """The config whose run lies in that folder if nothing else is asked for."""
    return CONFIGS / Path(run).relative_to("runs").with_suffix(".yaml")


def data_of(path: Path) -> dict[str, Any]:
    config = checked(path)
    return config.data if kind(path) == "tokenizer" else checked(of_run(config.tokenizer)).data


def header(path: Path) -> list[str]:
    """The comment that a config begins with; a line that ends in a backslash goes on in the next."""
    comment = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8"))
    assert comment is not None
    return re.sub(r"^# ?", "", comment[0], flags=re.MULTILINE).replace("\\\n", " ").splitlines()


def commands(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> what the command line makes of its options, of every command in the first lines."""
    found = (re.fullmatch(r"(?:.*: | *)twostage (.+)", line) for line in header(path))
    return dict(parsed(shlex.split(match[1])) for match in found if match)


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    command: Any = typer.main.get_command(app)
    names: list[str] = []
    while hasattr(command, "commands"):
        names.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return " ".join(names), command.make_context(names[-1], words).params


@each(PATHS)
def test_the_first_lines_have_the_command_to_train_with(path: Path) -> None:
    assert commands(path)[f"train {kind(path)}"]["config"] == path.relative_to(CONFIGS.parent)


@each(PATHS)
def test_the_first_lines_name_what_there_is(path: Path) -> None:
    text = "\n".join(header(path))
    codes = {checked(prior).codes for prior in PRIORS}
    assert all(run in codes or of_run(run).is_file() for run in re.findall(r"runs/\w+/\w+", text))
    others = re.findall(r"(?<![\w/])(?:(?:tokenizer|ldm|transformer)_\w+|ldm_paper|\w+\.yaml)", text)
    assert all((path.parent / other).with_suffix(".yaml").is_file() for other in others)


@each(PATHS)
def test_the_first_lines_offer_settings_that_are_allowed(path: Path) -> None:
    for line in header(path):
        for alternative in re.split(r", of |, or ", line):
            settings = re.findall(r"--set (\"[^\"]+\"|[^\s;,]+)", alternative)
            assert not settings or checked(path, *(setting.strip('"') for setting in settings)) != checked(path)


@each(PUBLISHED)
def test_steps_are_epochs_times_images_over_the_batch(path: Path) -> None:
    text = " ".join(header(path))
    sentence = re.search(r"([\d,]+) epochs x ([\d,]+) / ([\d,]+) = ([\d,]+) steps", text)
    assert sentence is not None
    epochs, images, batch, steps = (int(number.replace(",", "")) for number in sentence.groups())
    data, training = data_of(path), checked(path).training
    held_out = data["held_out"] if data["name"] == "celebahq" else 0
    assert images == IMAGES[data.get("category", data["name"])] - held_out
    assert (batch, steps) == (training.batch_size, training.steps)
    assert steps == math.ceil(epochs * images / batch)


@each(PRIORS)
def test_a_prior_and_its_codes_are_of_the_tokenizer_that_it_names(path: Path) -> None:
    config, encode = checked(path), commands(path)["encode"]
    assert (str(encode["tokenizer"]), str(encode["output"])) == (config.tokenizer, config.codes)
    assert config.conditional == (data_of(path)["name"] in CLASSES)
    assert encode["latents"] or getattr(config, "latents", "quantized") == "quantized"


def test_codes_in_one_folder_are_made_in_one_way() -> None:
    ways = defaultdict(set)
    for path in PRIORS:
        ways[checked(path).codes].add(str(commands(path)["encode"]))
    assert [codes for codes, found in ways.items() if len(found) > 1] == []


@cache
def tokenizer_of(path: Path) -> VQTokenizer:
    config = checked(path)
    with torch.device("meta"):
        return VQTokenizer(**config.model_options(channels=1 if config.data["name"] in GRAY else 3))


@each(TOKENIZERS)
def test_a_tokenizer_of_full_size(path: Path) -> None:
    tokenizer, image_size = tokenizer_of(path), checked(path).data["image_size"]
    channels, dim, size = tokenizer.config["channels"], tokenizer.quantizer.dim, tokenizer.latent_size
    through = shapes_through(to_yaml(checked(path).autoencoder), channels, dim, image_size)
    assert through == ((1, dim, size, size), (1, channels, image_size, image_size))


@cache
def shapes_through(autoencoder: str, channels: int, dim: int, image_size: int) -> tuple[tuple[int, ...], ...]:
    """Those of the latents and of the reconstruction of an image."""
    with torch.device("meta"):
        network = AUTOENCODERS.build(yaml.safe_load(autoencoder), channels=channels, latent_dim=dim)
        latents = network.encode(torch.empty(1, channels, image_size, image_size))
        return tuple(latents.shape), tuple(network.decode(latents).shape)


@each(PRIORS)
def test_a_prior_of_full_size(path: Path) -> None:
    config = checked(path)
    tokenizer, classes = tokenizer_of(of_run(config.tokenizer)), CLASSES.get(data_of(path)["name"])
    size, quantizer = tokenizer.latent_size, tokenizer.quantizer
    with torch.device("meta"):
        if kind(path) == "ldm":
            model = denoiser(config.model_dump(), size, quantizer.dim, classes)
            assert model.denormalize(torch.empty(1, quantizer.dim, size, size)).shape == (1, quantizer.dim, size, size)
        else:
            maps = [quantizer.maps] if quantizer.maps > 1 else []
            prior = TransformerPrior(config.prior, quantizer.codebook_size, [*maps, size, size], classes)
            assert prior.length == quantizer.maps * size**2


def denoiser(config: dict[str, Any], latent_size: int, latent_dim: int, classes: int | None) -> LatentDenoiser:
    return LatentDenoiser(
        backbone_config=config["denoiser"],
        latent_size=latent_size,
        latent_dim=latent_dim,
        num_classes=classes,
        prediction_type=OBJECTIVES.build(config["objective"]).prediction_type,
        latents=config["latents"],
        latent_mean=[0.0] * latent_dim,
        latent_std=[1.0] * latent_dim,
    )


SMALL = {
    "width": 32,
    "residual_blocks": 1,
    "residual_layers": 1,
    "residual_width": 8,
    "codebook_size": 16,
    "layers": 1,
    "heads": 2,
    "head_dim": 4,
    "norm_groups": 4,
    "context_dim": 8,
    "feed_forward": 16,
}
"""What these options become for a step on a CPU, wherever they are and not null."""

DIM = 8
IMAGE_SIZE = 32
PLACES = ("data", "codes", "tokenizer", "optimizer", "training", "start_from")
"""What a step on random numbers does not depend on."""


def smaller(options: Any) -> Any:
    if not isinstance(options, dict):
        return options
    small = {
        key: SMALL[key] if key in SMALL and value is not None else smaller(value) for key, value in options.items()
    }
    rules = {
        "multipliers": lambda multipliers: [1] * len(multipliers),
        "widths": lambda widths: [DIM] * len(widths),
        "dim": lambda dim: min(dim, DIM),
        "adversarial": lambda options: options and {**options, "start": 0, "warmup": 0, "ramp": 0},  # heard at once
        "warm_start": lambda options: options and {"steps": 0},
    }
    return {key: rules[key](value) if key in rules else value for key, value in small.items()}


class Difference(nn.Module):
    """Stands in for LPIPS, whose weights are not here."""

    def forward(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        return (images - reconstructions).square().mean((1, 2, 3))


def tokenizer_run(config: dict[str, Any]) -> tuple[Task, dict[str, Tensor]]:
    model = VQTokenizer(config["autoencoder"], config["quantizer"], IMAGE_SIZE, channels=3)
    warm_start = config["warm_start"] and WarmStart(**config["warm_start"])
    loss = LossConfig.model_validate(config["loss"])
    task = TokenizerTask(model, 1.0, warm_start, lambda model, _: torch.randn(64, model.quantizer.dim), loss=loss)
    return task, {"images": torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1}


def ldm_run(config: dict[str, Any]) -> tuple[Task, dict[str, Tensor]]:
    size = 2 ** len(config["denoiser"]["widths"])
    model = denoiser(config, size, DIM, 3 if config["conditional"] else None)
    task = LDMTask(
        model, OBJECTIVES.build(config["objective"]), lambda batch: batch["latents"], config["label_dropout"]
    )
    latents = torch.randn(2, 1, DIM, size, size)
    return task, {"codes": torch.zeros(2, 1), "latents": latents, "class_label": torch.tensor([0, 2])}


def transformer_run(config: dict[str, Any]) -> tuple[Task, dict[str, Tensor]]:
    model = TransformerPrior(config["prior"], SMALL["codebook_size"], [4, 4], 3 if config["conditional"] else None)
    codes = torch.randint(SMALL["codebook_size"], (2, 1, 4, 4))
    return TransformerTask(model, config["label_dropout"]), {"codes": codes, "class_label": torch.tensor([0, 2])}


RUNS = {"tokenizer": tokenizer_run, "ldm": ldm_run, "transformer": transformer_run}


LEARNS_NOTHING = re.compile(r"transformer_blocks\.\d+\.(norm2|attn2\.to_[qk])\.")
"""Queries and keys of attention to a single class: its softmax is 1 whatever they are."""


@each(PATHS)
def test_a_smaller_network_learns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Perceptual, "published", classmethod(lambda cls: cls(Difference())))
    values = {key: value for key, value in checked(path).model_dump().items() if key not in PLACES}
    check_two_steps(kind(path), to_yaml(smaller(values)))


@cache
def check_two_steps(stage: str, config: str) -> None:
    """Once for configs that differ in sizes only. In the first step a map that starts at zero passes nothing on."""
    torch.manual_seed(0)
    task, batch = RUNS[stage](yaml.safe_load(config))
    parameters = {name: p for name, p in task.named_parameters() if p.requires_grad}
    descent = torch.optim.AdamW(parameters.values(), lr=1e-3)
    task.train()
    for step in range(2):
        descent.zero_grad()
        task.before_step(Progress(step=step, steps=2, epoch=0))
        loss = task(batch).loss
        loss.backward()
        descent.step()
        assert loss.isfinite()
    unmoved = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
    assert [name for name in unmoved if not LEARNS_NOTHING.search(name)] == []
    assert all(p.isfinite().all() for p in parameters.values())
