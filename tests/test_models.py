import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.errors import TwoStageError
from twostage.models import fingerprint, save_model

WEIGHTS = "diffusion_pytorch_model.safetensors"


def tokenizer(**options: object) -> VQTokenizer:
    torch.manual_seed(0)
    quantizer = {"name": "cvq", "codebook_size": 16, "dim": 4, **options}
    return VQTokenizer({"name": "vqvae", "width": 8, "residual_blocks": 1}, quantizer, image_size=16, channels=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tokenizer(), tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_equal_models_have_equal_fingerprints() -> None:
    assert fingerprint(tokenizer()) == fingerprint(tokenizer())
    assert fingerprint(tokenizer()) == fingerprint(tokenizer().eval())


def test_saving_and_loading_keeps_the_fingerprint(folder: Path) -> None:
    loaded = VQTokenizer.from_pretrained(folder)
    assert fingerprint(loaded) == fingerprint(tokenizer())
    assert not loaded.training


def test_every_tensor_decides_the_fingerprint() -> None:
    model = tokenizer()
    seen = {fingerprint(model)}
    for value in model.state_dict().values():
        flat = value.view(-1).view(torch.uint8)
        flat[0] ^= 1  # the lowest bit of the first number
        seen.add(fingerprint(model))
    assert len(seen) == 1 + len(model.state_dict())


def test_a_weights_lowest_bit_decides_the_fingerprint() -> None:
    model = tokenizer()
    before = fingerprint(model)
    weight = model.quantizer.codebook.data
    weight[3, 2] = torch.nextafter(weight[3, 2], torch.tensor(9.0))
    assert fingerprint(model) != before


def test_the_config_decides_the_fingerprint() -> None:
    first, second = tokenizer(decay=0.99), tokenizer(decay=0.9)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert fingerprint(first) != fingerprint(second)


def test_shapes_and_dtypes_decide_the_fingerprint() -> None:
    model = tokenizer()
    before = fingerprint(model)
    model.quantizer.average_usage = model.quantizer.average_usage.view(4, 4)
    assert fingerprint(model) != before
    model.quantizer.average_usage = model.quantizer.average_usage.view(16).view(torch.int32)
    assert fingerprint(model) != before


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(TwoStageError) as error:
        VQTokenizer.from_pretrained(folder)
    for part in (str(folder), *parts):
        assert part in str(error.value)


def test_missing_weights_are_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["quantizer.codebook"], weights["autoencoder.encoder.0.bias"]
    save_file(weights, folder / WEIGHTS)
    refused(folder, "2 missing keys", "first 'autoencoder.encoder.0.bias'")


def test_unexpected_weights_are_refused(folder: Path) -> None:
    save_file({**load_file(folder / WEIGHTS), "quantizer.extra": torch.zeros(1)}, folder / WEIGHTS)
    refused(folder, "1 unexpected keys", "first 'quantizer.extra'")


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantizer_config"]["codebook_size"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "could not be loaded", "shape")


@pytest.mark.parametrize("length", [0, 5, 1000])
def test_truncated_weights_are_refused(folder: Path, length: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:length])
    refused(folder, "could not be loaded")


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    refused(folder, "could not be loaded")


def test_a_broken_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    refused(folder, "could not be loaded")


def test_a_loading_report_can_be_had(folder: Path) -> None:
    model, report = VQTokenizer.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, VQTokenizer)
    assert report["missing_keys"] == report["unexpected_keys"] == []


def test_saving_replaces_the_whole_folder(folder: Path) -> None:
    (folder / "old").touch()
    save_model(tokenizer(decay=0.5), folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", WEIGHTS]
    assert [p.name for p in folder.parent.iterdir()] == ["tokenizer"]
