"""The model card: README.md in the folder of a saved tokenizer or pipeline, with the pictures and numbers of its run.

A card says nothing of the machine that it was written on: of absolute paths it keeps the last part.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import twostage
from pipelines.runs import data_of
from twostage.config import flatten, read_yaml, to_yaml
from twostage.errors import TwoStageError
from twostage.files import atomic, read_json, write_text

CARD = "README.md"

GENERATED = "<!-- Written by twostage, and written anew by `twostage card`. Without this line it is left alone. -->"

PICTURES = {
    "reconstructions": "Images, each with its reconstruction below it.",
    "codebook_usage": "The codebook while it trained.",
    "projection": "Features and codes.",
    "usage": "How often each code is used.",
    "curves": "Training curves.",
}
"""Of the pictures of a run, those for its card, by name; samples come before them."""

PAGE = Template("""---
$header---

$generated

# $title

$description

$pictures## Use

```python
$usage
```

$numbers${training}Made with twostage $version. Please add a licence, and what these images may be used for.
""")


@dataclass(frozen=True)
class Shared:
    """What can be shared: the folder of a saved model, and the run that made it, where it is known."""

    folder: Path
    run: Path | None


def shared(path: Path) -> Shared:
    """The saved pipeline or tokenizer of a run folder, or at `path` itself.

    Raises:
        TwoStageError: there is neither.
    """
    pipeline, model = "model_index.json", "config.json"
    for folder, file in (path, pipeline), (path / "pipeline", pipeline), (path / "tokenizer", model), (path, model):
        if (folder / file).is_file():
            return Shared(folder, next((p for p in (folder, folder.parent) if (p / "config.yaml").is_file()), None))
    why = "no model_index.json, no config.json" if path.is_dir() else "there is no such folder"
    raise TwoStageError(f"{path}: holds neither a pipeline nor a tokenizer ({why})")


def write_card(folder: Path, run: Path | None, name: str | None = None) -> Path:
    """Write the card of a saved model, and copy what it shows beside it.

    A card without the line `GENERATED` stays as it is, and so does one of which the run is not known.

    Args:
        folder: of the model.
        run: the folder of the run that made it, if known: config.yaml, metrics*.json, pictures, and the grids of
            samples that were drawn into folders of it.
        name: on the Hub, where it is about to go there.

    Returns:
        The card's path.
    """
    card = folder / CARD
    if card.exists() and (run is None or GENERATED not in card.read_text(encoding="utf-8")):
        return card
    model = _pipeline(folder) if (folder / "model_index.json").is_file() else _tokenizer(folder)
    title = (name or (run or folder).resolve().name).split("/")[-1]
    page = PAGE.substitute(
        header=to_yaml(_header(model, run)),
        generated=GENERATED,
        title=title,
        description=model.description,
        pictures="".join(f"![{caption}]({place})\n\n{caption}\n\n" for place, caption in _pictures(folder, run)),
        usage=model.usage.replace("NAME", name or "path/to/this/folder"),
        numbers="" if run is None else _numbers(run),
        training="" if run is None else _training(run),
        version=twostage.__version__,
    )
    write_text(card, page)
    return card


@dataclass(frozen=True)
class _Model:
    """What a card says of a model, whoever trained it."""

    task: str
    tags: list[str]
    description: str
    usage: str


def _tokenizer(folder: Path) -> _Model:
    config = read_json(folder / "config.json")
    autoencoder, quantizer = config["autoencoder_config"]["name"], config["quantizer_config"]["name"]
    size, channels = config["image_size"], config["channels"]
    return _Model(
        task="image-to-image",
        tags=["image-tokenizer", "vector-quantization", quantizer],
        description=(
            f"A discrete image tokenizer: autoencoder `{autoencoder}`, quantiser `{quantizer}`, "
            f"trained on images of {size} x {size} pixels with {channels} channel{'s' * (channels > 1)}."
        ),
        usage=(
            "from stage1_tokenizer import VQTokenizer\n\n"
            'tokenizer = VQTokenizer.from_pretrained("NAME")\n'
            f"codes = tokenizer.encode(images).codes  # images: float [b, {channels}, {size}, {size}] in [-1, 1]\n"
            "images = tokenizer.decode_codes(codes)"
        ),
    )


KINDS = {
    "LatentDiffusionPipeline": ("latent-diffusion", "Latent diffusion"),
    "AutoregressivePipeline": ("autoregressive", "An autoregressive transformer"),
}


def _pipeline(folder: Path) -> _Model:
    index = read_json(folder / "model_index.json")
    name, classes = index["_class_name"], index.get("id2label")
    tag, what = KINDS[name]
    tokenizer = _tokenizer(folder / "tokenizer")
    given = f"class_label={next(iter(classes.values()))!r}, " if classes else ""
    known = f" Classes: {', '.join(classes.values())}." if classes else ""
    return _Model(
        task="unconditional-image-generation",
        tags=[tag, *tokenizer.tags],
        description=f"{what} over the frozen codes of a tokenizer, which is part of it.{known}\n\n"
        f"The tokenizer: {tokenizer.description[0].lower()}{tokenizer.description[1:]}",
        usage=(
            f"from pipelines import {name}\n\n"
            f'pipeline = {name}.from_pretrained("NAME")\n'
            f"images = pipeline({given}num_images=4).images  # PIL images"
        ),
    )


def _header(model: _Model, run: Path | None) -> dict[str, Any]:
    data = _data(run)
    known = {} if data is None else {"datasets": [data["root"]]} if data["name"] == "hf" else {}
    named = [] if data is None or known else [data["name"]]
    return {"library_name": "twostage", "pipeline_tag": model.task, "tags": [*model.tags, *named], **known}


def _data(run: Path | None) -> dict[str, Any] | None:
    """The data set component behind a run; None where codes or config are no longer there to tell."""
    try:
        return None if run is None else shareable(data_of(run))
    except TwoStageError:
        return None


def _pictures(folder: Path, run: Path | None) -> list[tuple[str, str]]:
    """Copy the run's pictures beside the card; gives their places and captions."""
    if run is None:
        return []
    wanted = {grid: (grid.parent.name, "Samples.") for grid in sorted(run.glob("*/grid.png"))}
    wanted |= {run / "pictures" / f"{stem}.png": (stem, caption) for stem, caption in PICTURES.items()}
    shown = []
    for source, (stem, caption) in wanted.items():
        if source.is_file():
            place = Path("pictures") / f"{stem}.png"
            with atomic(folder / place) as temporary:
                shutil.copyfile(source, temporary)
            shown.append((place.as_posix(), caption))
    return shown


def _numbers(run: Path) -> str:
    """A table for every `metrics*.json` of the run, without the rows that could not be computed."""
    rows = [read_json(path) for path in sorted(run.glob("metrics*.json"))]
    tables = [_table(flatten(shareable(row))) for row in rows]
    return "\n".join(["## Numbers\n", *tables, ""]) if tables else ""


def _table(row: Mapping[str, Any]) -> str:
    cells = {key: f"{value:.4f}" if isinstance(value, float) else str(value) for key, value in row.items()}
    known = {key: cell.replace("|", "\\|") for key, cell in cells.items() if not re.match("missing: |None$", cell)}
    return "".join(["| | |\n|---|---|\n", *(f"| {key} | {cell} |\n" for key, cell in known.items())])


def _training(run: Path) -> str:
    config, data = shareable(read_yaml(run / "config.yaml")), _data(run)
    images = "" if data is None or "data" in config else f"Trained on `{data['name']}`.\n\n"
    return f"## Training\n\n{images}```yaml\n{to_yaml(config)}```\n\n"


def shareable(value: Any) -> Any:
    """Nested values in which an absolute path is only its last part."""
    if isinstance(value, Mapping):
        return {key: shareable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shareable(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
