"""The quickstart with a handful of steps: everything it promises to write is there, in one self-contained page."""

import json
import re
from functools import partial

import pytest

from pipelines import AutoregressivePipeline, LatentDiffusionPipeline, quickstart
from twostage.config import load, override

SHORT = {
    "tokenizer": ["data.count=64", "training.steps=4", "warm_start.steps=2", "autoencoder.width=16"],
    "ldm": [
        "training.steps=2",
        "denoiser.widths=[16]",
        "denoiser.attention=[false]",
        "denoiser.norm_groups=4",
        "denoiser.head_dim=8",
    ],
    "transformer": ["training.steps=2", "prior.layers=1"],
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The folder of a quickstart with next to no training."""
    folder = tmp_path_factory.mktemp("quickstart") / "an output: 1e3"
    full = quickstart.quickstart_config

    def short(name, schema, output):
        return load(schema, override(full(name, schema, output).model_dump(), SHORT[name]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "quickstart_config", short)
        patch.setattr(quickstart, "COLUMNS", 2)
        patch.setitem(quickstart.SAMPLING, "ldm", {"num_inference_steps": 2, "guidance_scale": 2.0})
        patch.setattr(quickstart, "train_classifier", partial(quickstart.train_classifier, steps=2))
        assert quickstart.run(folder) == folder / "report.html"
        yield folder


def test_both_pipelines_load_and_know_the_classes(output):
    for kind, name in ((LatentDiffusionPipeline, "ldm"), (AutoregressivePipeline, "transformer")):
        pipeline = kind.from_pretrained(output / f"{name}_pipeline")
        assert pipeline.config.id2label["3"] == "star"


def test_metrics_cover_reconstruction_and_both_priors(output):
    metrics = json.loads((output / "metrics.json").read_text())
    assert {"L1", "PSNR", "SSIM", "LPIPS", "usage", "perplexity"} <= metrics["reconstruction"].keys()
    for name in ("ldm", "transformer"):
        assert 0 <= metrics[name]["class_agreement"] <= 1
        assert {"FID@20", "KID@20", "FD-shapes_classifier@20"} <= metrics[name].keys()
        assert metrics[name]["n"] == 20
    assert len(metrics["seconds"]) == 7


def test_the_report_holds_every_picture_and_needs_nothing_else(output):
    page = (output / "report.html").read_text()
    sources = re.findall(r"src='([^']{0,40})", page)
    assert len(sources) == 9
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in page
    assert "class_agreement" in page
