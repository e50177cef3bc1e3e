"""`twostage train ...`: a checked config, a run folder, a stage's training, and for priors the finished pipeline."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.runs import load_start, load_tokenizer
from pipelines.sharing.card import write_card
from twostage.config import Section, load, override, read_yaml, to_yaml
from twostage.data import DATASETS
from twostage.data.codes import read_manifest
from twostage.models import save_model
from twostage.pictures import save_curves
from twostage.training.log import read_log

INSTALLED = Path(__file__).parents[1] / "configs"
"""Where the configs lie beside the packages, in a checkout as in an installation."""


def find_config(path: Path) -> Path:
    """The file at `path`, or else the config of that name that is installed with the package."""
    installed = INSTALLED / path.relative_to("configs") if path.parts[:1] == ("configs",) else INSTALLED / path
    return installed if installed.is_file() and not path.exists() else path


def read_config(
    schema: type[Section],
    path: Path,
    assignments: Sequence[str],
    data: str | None = None,
    start: str | None = None,
) -> Any:
    """The config file with the command line's overrides, checked."""
    values = override(read_yaml(find_config(path)), assignments)
    for key, place in (("data.root", data), ("start_from", start)):
        if place is not None:
            values = override(values, [f"{key}={json.dumps(place)}"])  # quoted: a path is text, whatever it looks like
    return load(schema, values, path)


def describe(config: Section) -> str:
    """What `--dry-run` prints: the resolved config."""
    return to_yaml(config.model_dump())


def train_tokenizer(config: Any, run: Path) -> Any:
    """Train stage one in `run`; returns the tokenizer, also saved in `run/tokenizer` with its card."""
    from accelerate import PartialState

    from stage1_tokenizer.train import train

    start = load_start(config, run, "tokenizer")
    tokenizer = train(config, DATASETS.build(config.data, split="train"), run, start)
    if PartialState().is_main_process:
        write_card(run / "tokenizer", run)
    return tokenizer


def train_ldm(config: Any, run: Path, pipeline_folder: Path | None = None) -> Any:
    """Train a latent diffusion prior in `run`; returns the pipeline, also saved, by default in `run/pipeline`."""
    from pipelines.latent_diffusion import LatentDiffusionPipeline
    from stage2_ldm.objectives import OBJECTIVES
    from stage2_ldm.train import train

    tokenizer = load_tokenizer(config.tokenizer)
    denoiser = train(config, tokenizer, run, load_start(config, run, "denoiser"))
    scheduler = OBJECTIVES.build(config.objective).scheduler()
    pipeline = LatentDiffusionPipeline(tokenizer.cpu(), denoiser.cpu(), scheduler, id2label=_names(config))
    return _finish(pipeline, run, pipeline_folder)


def train_transformer(config: Any, run: Path, pipeline_folder: Path | None = None) -> Any:
    """Train an autoregressive prior in `run`; returns the pipeline, also saved, by default in `run/pipeline`."""
    from pipelines.autoregressive import AutoregressivePipeline
    from stage2_transformer.train import train

    tokenizer = load_tokenizer(config.tokenizer)
    prior = train(config, tokenizer, run, load_start(config, run, "prior"))
    pipeline = AutoregressivePipeline(tokenizer.cpu(), prior.cpu(), id2label=_names(config))
    return _finish(pipeline, run, pipeline_folder)


def _names(config: Any) -> dict[str, str] | None:
    if not config.conditional:
        return None
    return {str(i): name for i, name in enumerate(read_manifest(Path(config.codes)).classes)}


def _finish(pipeline: Any, run: Path, folder: Path | None) -> Any:
    from accelerate import PartialState

    if PartialState().is_main_process:
        folder = folder or run / "pipeline"
        save_model(pipeline, folder)
        save_curves(read_log(run), ("loss", "gradient_norm", "learning_rate"), run / "pictures" / "curves.png")
        write_card(folder, run)
    return pipeline
