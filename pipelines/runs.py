"""Run folders and what is in them: a tokenizer, a pipeline, the data they were made from."""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twostage.config import read_yaml
from twostage.data import DATASETS
from twostage.data.codes import read_manifest
from twostage.errors import TwoStageError, refuse
from twostage.files import read_json

if TYPE_CHECKING:
    from stage1_tokenizer.tokenizer import VQTokenizer


def check_output(folder: Path) -> None:
    """Refuse a folder that could not be made or written to, before anything is computed for it."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise refuse("--output", str(folder), f"a folder that can be made; {place} is a file")
    if not os.access(place, os.W_OK):
        raise refuse("--output", str(folder), f"a folder that can be written to; {place} cannot")


def check_output_file(path: Path) -> None:
    """The same for a file."""
    if path.is_dir():
        raise refuse("--output", str(path), "a file, not a folder")
    check_output(path.parent)


MODELS: Mapping[str, tuple[str, str]] = {
    "tokenizer": ("stage1_tokenizer", "VQTokenizer"),
    "denoiser": ("stage2_ldm", "LatentDenoiser"),
    "prior": ("stage2_transformer", "TransformerPrior"),
}
"""What the parts of a pipeline are called, and the package and class of each."""


def model_folder(path: Path, part: str) -> Path:
    """The saved model of the kind of `part` in a run folder, in a pipeline's folder, or `path` itself."""
    for folder in (path / part, path / "pipeline" / part, path):
        config = folder / "config.json"
        if config.is_file() and read_json(config).get("_class_name") == MODELS[part][1]:
            return folder
    why = f"no {part}/config.json" if path.is_dir() else "there is no such folder"
    raise TwoStageError(f"{path}: holds no {part} ({why}); train one first")


def load_model(path: str | Path, part: str) -> Any:
    """The model of the kind of `part` of a run folder, a pipeline folder, or a folder of its own, in eval mode."""
    package, name = MODELS[part]
    folder = model_folder(Path(path), part)
    return getattr(import_module(package), name).from_pretrained(folder).eval()


def load_tokenizer(path: str | Path, checkpoint: int | None = None) -> "VQTokenizer":
    """The tokenizer of a run folder, a pipeline folder, or a folder of its own, in eval mode, on the GPU if any.

    Args:
        checkpoint: as of `load_pipeline`.
    """
    tokenizer = load_model(path, "tokenizer")
    if checkpoint is not None:
        tokenizer.load_state_dict(_weights_at(Path(path), checkpoint))
    return tokenizer.to(_device())


def load_start(config: Any, run: Path, part: str) -> Any:
    """The model that a run begins with, from the folder `config.start_from`; None where it begins with none.

    Nor does it with a checkpoint of its own: what it started from may be gone by then.
    """
    if config.start_from is None or any((run / "checkpoints").glob("step_*.pt")):
        return None
    return load_model(config.start_from, part)


def metrics_file(run: Path, protocol: str = "default", step: int | None = None) -> Path:
    """Where figures of a run are: under a protocol, of its end or of the checkpoint of a step."""
    how = "" if protocol == "default" else f"_{protocol}"
    when = "" if step is None else f"_step_{step:08d}"
    return run / f"metrics{how}{when}.json"


def pipeline_folder(path: Path) -> Path:
    """The saved pipeline in a stage-two run folder, or `path` itself."""
    for folder in (path / "pipeline", path):
        if (folder / "model_index.json").is_file():
            return folder
    why = "no model_index.json" if path.is_dir() else "there is no such folder"
    raise TwoStageError(f"{path}: holds no pipeline ({why}); train a prior first")


def load_pipeline(path: str | Path, checkpoint: int | None = None) -> Any:
    """The pipeline of a run folder or of a folder of its own, of whichever kind it is, on the GPU if any.

    Args:
        checkpoint: a step of the run, whose weights replace those of the end.
    """
    folder = pipeline_folder(Path(path))
    name = read_json(folder / "model_index.json").get("_class_name")
    if name not in ("LatentDiffusionPipeline", "AutoregressivePipeline"):
        raise refuse(f"{folder / 'model_index.json'}: _class_name", name, "a pipeline of this package")
    from diffusers.utils.logging import disable_progress_bar

    import pipelines

    disable_progress_bar()
    try:
        pipeline = getattr(pipelines, name).from_pretrained(folder).to(_device())
    except (OSError, ValueError) as error:
        raise TwoStageError(f"{folder}: could not be loaded ({error})") from error
    if checkpoint is not None:
        prior = pipeline.denoiser if name == "LatentDiffusionPipeline" else pipeline.prior
        prior.load_state_dict(_weights_at(Path(path), checkpoint))
    return pipeline


def _weights_at(run: Path, step: int) -> dict[str, Any]:
    from twostage.training.checkpoints import Checkpoints

    return Checkpoints(run / "checkpoints").averaged_weights(step)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def data_of(path: Path) -> dict[str, Any]:
    """The data set component that a tokenizer's or a prior's run was trained on."""
    run = next((p for p in (path, *path.parents) if (p / "config.yaml").is_file()), None)
    if run is None:
        raise TwoStageError(f"{path}: no config.yaml here or above says which data this was trained on")
    values = read_yaml(run / "config.yaml")
    if "data" in values:
        return DATASETS.resolve(values["data"], f"{run / 'config.yaml'}: data")
    if not isinstance(values.get("codes"), str):
        raise TwoStageError(f"{run / 'config.yaml'}: is not the config of a run (it names neither data nor codes)")
    return read_manifest(Path(values["codes"])).data


def with_root(data: dict[str, Any], root: str | None) -> dict[str, Any]:
    """The data set component with its `root` replaced, where the command line names another."""
    if root is None:
        return data
    return DATASETS.resolve({**data, "root": root}, "data")
