"""`twostage quickstart`: both stages, both priors, samples and metrics, small, on the embedded data set, on a CPU."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import train
from pipelines.evaluation.reconstruction import evaluate_reconstruction
from pipelines.report import Picture, write_report
from pipelines.sample import class_grid
from stage1_tokenizer.config import TokenizerConfig
from stage1_tokenizer.encode import encode
from stage2_ldm.config import LDMConfig
from stage2_transformer.config import TransformerConfig
from twostage.config import Section, load, read_yaml
from twostage.data import DATASETS
from twostage.data.images import ImageDataset, to_uint8
from twostage.files import write_json
from twostage.metrics.classifier import Classifier, accuracy, class_agreement, train_classifier
from twostage.metrics.features import FeatureNetwork, RowNames, load_network
from twostage.metrics.generation import Rows, generation_metrics

COLUMNS = 12
"""Samples per class and prior."""

SAMPLING: dict[str, dict[str, Any]] = {
    "ldm": {"num_inference_steps": 200, "guidance_scale": 4.0},
    "transformer": {"guidance_scale": 3.0, "top_p": 0.9},
}


@dataclass
class Stopwatch:
    """Seconds that each named part took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        print(f"\n== {name}", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


def run(output: Path) -> Path:
    """Do everything once in the folder `output`; the same call again goes on where it was interrupted.

    Writes the run folders `tokenizer`, `ldm` and `transformer`, `codes`, the pipelines `ldm_pipeline` and
    `transformer_pipeline`, `pictures`, `metrics.json` and `report.html`.

    Returns:
        The path of the report.
    """
    watch = Stopwatch()
    configs = {name: quickstart_config(name, schema, output) for name, schema in SCHEMAS.items()}
    data = configs["tokenizer"].data
    with watch.time("tokenizer (CVQ, warm start)"):
        tokenizer = train.train_tokenizer(configs["tokenizer"], output / "tokenizer")
    with watch.time("frozen codes"):
        encode(tokenizer, data, output / "codes")
    with watch.time("prior: latent diffusion"):
        ldm = train.train_ldm(configs["ldm"], output / "ldm", output / "ldm_pipeline")
    with watch.time("prior: transformer"):
        transformer = train.train_transformer(
            configs["transformer"], output / "transformer", output / "transformer_pipeline"
        )
    samples: dict[str, Tensor] = {}
    for name, pipeline in (("ldm", ldm), ("transformer", transformer)):
        with watch.time(f"samples: {name}"):
            path = output / "pictures" / f"samples_{name}.png"
            samples[name] = class_grid(pipeline, path, columns=COLUMNS, seed=0, **SAMPLING[name])
    with watch.time("evaluation"):
        metrics = evaluate(tokenizer, data, samples)
    metrics["seconds"] = watch.seconds
    write_json(output / "metrics.json", metrics)
    return write_report(output, metrics, pictures(metrics))


SCHEMAS: dict[str, type[Section]] = {
    "tokenizer": TokenizerConfig,
    "ldm": LDMConfig,
    "transformer": TransformerConfig,
}


def quickstart_config(name: str, schema: type[Section], output: Path) -> Any:
    """A config of configs/quickstart, its paths inside `output`."""
    values = read_yaml(train.find_config(Path("quickstart") / f"{name}.yaml"))
    if "codes" in values:
        values |= {"codes": str(output / "codes"), "tokenizer": str(output / "tokenizer")}
    return load(schema, values, f"configs/quickstart/{name}.yaml")


def evaluate(tokenizer: Any, data: dict[str, Any], samples: dict[str, Tensor]) -> dict[str, Any]:
    """Reconstruction on the test images; for each prior, class agreement and the distance to the training images.

    Without Inception's weights the rows that need it say so; the distance of the classifier's own features,
    `FD-shapes_classifier@n`, is there either way.
    """
    training, test = (DATASETS.build(data, split=split) for split in ("train", "test"))
    classifier = train_classifier(training)
    network = classifier_network(classifier)
    metrics: dict[str, Any] = {
        "reconstruction": evaluate_reconstruction(tokenizer, test, load_network()),
        "classifier_accuracy": accuracy(classifier, test),
    }
    for name, images in samples.items():
        labels = torch.arange(len(test.classes)).repeat_interleave(COLUMNS)
        metrics[name] = {
            "class_agreement": class_agreement(classifier, images, labels),
            **SAMPLING[name],
            **_distances(test, images, network),
        }
    return metrics


def _distances(reference: ImageDataset, images: Tensor, network: FeatureNetwork) -> Rows:
    pixels = to_uint8(images)
    return {
        **generation_metrics(reference, pixels, load_network()),
        **generation_metrics(reference, pixels, network),
    }


def classifier_network(classifier: Classifier) -> FeatureNetwork:
    """The class-agreement classifier's pooled features as a feature network."""
    name = "shapes_classifier"
    return FeatureNetwork(name=name, module=ClassifierFeatures(classifier), rows=RowNames.of(name))


class ClassifierFeatures(nn.Module):
    """uint8 images [b, 3, H, W] -> what the classifier's last layer sees, [b, d]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.features(images.float() / 127.5 - 1)


def pictures(metrics: dict[str, Any]) -> list[Picture]:
    """What the report shows, in its order."""
    agreement = {name: f"class agreement {metrics[name]['class_agreement']:.0%}" for name in SAMPLING}
    psnr = f"{metrics['reconstruction']['PSNR']:.1f} dB on the test images"
    return [
        Picture("pictures/samples_ldm.png", f"Latent diffusion, 200 DDIM steps: {agreement['ldm']}"),
        Picture("pictures/samples_transformer.png", f"Transformer: {agreement['transformer']}"),
        Picture("tokenizer/pictures/reconstructions.png", f"Images, each with its reconstruction below it: {psnr}"),
        Picture("tokenizer/pictures/usage.png", "Codebook usage"),
        Picture("tokenizer/pictures/codebook_usage.png", "Tokenizer: the codebook while it trained"),
        Picture("tokenizer/pictures/projection.png", "Tokenizer: features and codes"),
        Picture("tokenizer/pictures/curves.png", "Tokenizer: training curves"),
        Picture("ldm/pictures/curves.png", "Latent diffusion: training curves"),
        Picture("transformer/pictures/curves.png", "Transformer: training curves"),
    ]
