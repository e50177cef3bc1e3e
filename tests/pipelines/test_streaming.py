"""A tokenizer trained from a stream, and the codes of one: what an interruption leaves undone, and what `hf` gives."""

import io

import numpy as np
import pytest
import yaml
from PIL import Image

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """Ninety images of noise in row groups of ten."""
    random, images = np.random.default_rng(0), []
    for _ in range(90):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    folder = tmp_path_factory.mktemp("stream")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    rows.to_parquet(str(folder / "train.parquet"), batch_size=10)
    return {"name": "parquet", "root": str(folder), "image_size": 16, "buffer": 64}


@pytest.fixture
def train(configs, command, stream, tmp_path, monkeypatch):
    """run -> the answer to a training from the stream: two epochs, a warm start, a checkpoint in the second."""
    config = tmp_path / "stream.yaml"
    short = {"steps": 9, "batch_size": 20, "checkpoint_every": 6}
    values = {**yaml.safe_load(configs.config("tokenizer").read_text()), "data": stream, "training": short}
    config.write_text(yaml.safe_dump(values))
    monkeypatch.setattr("twostage.pictures._save", lambda *_, **__: None)  # they take longer than all else
    return lambda run: command("train", "tokenizer", config, "--output", run)


def weights(run):
    return {path.relative_to(run): path.read_bytes() for path in sorted(run.rglob("*.safetensors"))}


def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(train, tmp_path, monkeypatch):
    from stage1_tokenizer.train import TokenizerTask

    before_step = TokenizerTask.before_step

    def interrupt(task, progress):
        if progress.step == 8:
            raise KeyboardInterrupt
        before_step(task, progress)

    with monkeypatch.context() as patch:
        patch.setattr(TokenizerTask, "before_step", interrupt)
        assert train(tmp_path / "parts").status == 130
    assert train(tmp_path / "parts").status == 0
    assert train(tmp_path / "whole").status == 0
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole") != {}


def test_its_codes_are_those_of_the_table(tokenizer, stream, tmp_path, monkeypatch):
    from stage1_tokenizer.encode import encode

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    table = {"name": "hf", "root": stream["root"]}
    codes = []
    for name, data in (("stream", stream), ("table", table)):
        assert encode(tokenizer, data, tmp_path / name, batch_size=16).count == 90
        codes.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.npy")})
    assert codes[0] == codes[1] != {}
