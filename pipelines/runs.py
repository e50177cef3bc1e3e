"""Run folders and what is in them: a tokenizer, a pipeline, the data they were made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from twostage.config import read_yaml
from twostage.data import DATASETS
from twostage.data.codes import read_manifest
from twostage.errors import TwoStageError, refuse
from twostage.files import read_json

if TYPE_CHECKING:
    from stage1_tokenizer.tokenizer import VQTokenizer


def tokenizer_folder(path: Path) -> Path:
    """The saved tokenizer in a tokenizer's run folder, in a pipeline's folder, or `path` itself."""
    for folder in (path / "tokenizer", path / "pipeline" / "tokenizer", path):
        if (folder / "config.json").is_file():
            return folder
    raise TwoStageError(f"{path}: holds no tokenizer (no tokenizer/config.json); train one first")


def load_tokenizer(path: str | Path) -> "VQTokenizer":
    """The tokenizer of a run folder, a pipeline folder, or a folder of its own, in eval mode."""
    from stage1_tokenizer.tokenizer import VQTokenizer

    return VQTokenizer.from_pretrained(tokenizer_folder(Path(path))).eval()


def pipeline_folder(path: Path) -> Path:
    """The saved pipeline in a stage-two run folder, or `path` itself."""
    for folder in (path / "pipeline", path):
        if (folder / "model_index.json").is_file():
            return folder
    raise TwoStageError(f"{path}: holds no pipeline (no model_index.json); train a prior first")


def load_pipeline(path: str | Path) -> Any:
    """The pipeline of a run folder or of a folder of its own, of whichever kind it is."""
    import pipelines

    folder = pipeline_folder(Path(path))
    name = read_json(folder / "model_index.json").get("_class_name")
    if name not in ("LatentDiffusionPipeline", "AutoregressivePipeline"):
        raise refuse(f"{folder / 'model_index.json'}: _class_name", name, "a pipeline of this package")
    return getattr(pipelines, name).from_pretrained(folder)


def data_of(path: Path) -> dict[str, Any]:
    """The data set component that a tokenizer's or a prior's run was trained on."""
    run = next((p for p in (path, *path.parents) if (p / "config.yaml").is_file()), None)
    if run is None:
        raise TwoStageError(f"{path}: no config.yaml here or above says which data this was trained on")
    values = read_yaml(run / "config.yaml")
    return values["data"] if "data" in values else read_manifest(Path(values["codes"])).data


def with_root(data: dict[str, Any], root: str | None) -> dict[str, Any]:
    """The data set component with its `root` replaced, where the command line names another."""
    if root is None:
        return data
    return DATASETS.resolve({**data, "root": root}, "data")
