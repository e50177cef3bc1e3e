"""`twostage evaluate likelihood`."""

import json

import pytest
import torch

from pipelines.autoregressive import AutoregressivePipeline
from stage1_tokenizer.encode import encode
from stage2_transformer.likelihood import bits_per_image
from stage2_transformer.prior import TransformerPrior
from twostage.data.codes import FrozenCodes
from twostage.models import fingerprint

DATA = {"name": "shapes", "image_size": 16, "count": 12}


@pytest.fixture
def codes(tokenizer, tmp_path):
    encode(tokenizer, DATA, tmp_path / "codes", split="test")
    return tmp_path / "codes"


@pytest.fixture
def save(tokenizer, tmp_path):
    """How many classes a prior knows -> the pipeline, and the folder where it is saved."""

    def make(classes):
        torch.manual_seed(1)
        options = {"name": "gpt2", "layers": 1, "heads": 2, "width": 16}
        prior = TransformerPrior(options, codebook_size=16, code_shape=[4, 4], num_classes=classes)
        prior.backbone.get_input_embeddings().weight.data.mul_(50)
        names = classes and {str(i): str(i) for i in range(classes)}
        pipeline = AutoregressivePipeline(tokenizer, prior.eval(), id2label=names)
        pipeline.save_pretrained(tmp_path / "pipeline")
        return pipeline, tmp_path / "pipeline"

    return make


@pytest.mark.parametrize("classes", [None, 10])
def test_bits_of_the_test_images(save, codes, command, tokenizer, classes):
    pipeline, folder = save(classes)
    answer = command("evaluate", "likelihood", folder, "--codes", codes)
    assert answer.status == 0, answer.err
    row = json.loads((folder / "likelihood.json").read_text())
    expected = bits_per_image(pipeline.prior, FrozenCodes(codes, fingerprint(tokenizer)))
    assert row["bits_per_image"] == pytest.approx(expected)
    assert row["bits_per_image"] == pytest.approx(16 * row["bits_per_code"])
    assert row["images"] == {"n": 12, "split": "test", "data": "shapes"}


def refused(command, folder, codes, words):
    answer = command("evaluate", "likelihood", folder, "--codes", codes)
    answer.assert_refused(words)
    assert not (folder / "likelihood.json").exists()


def test_codes_of_other_classes_are_refused(save, codes, command):
    refused(command, save(3)[1], codes, "classes: 10 is not allowed; allowed: the prior's 3")


def test_codes_of_another_tokenizer_are_refused(save, codes, command):
    manifest = codes / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "tokenizer": "e" * 64}))
    refused(command, save(10)[1], codes, "these codes were written by tokenizer eeeeeeeeeeee")


def test_latent_diffusion_has_no_likelihood_of_codes(ldm, codes, command, tmp_path):
    ldm.save_pretrained(tmp_path / "ldm")
    refused(command, tmp_path / "ldm", codes, "pipeline: 'LatentDiffusionPipeline' is not allowed; allowed: an Autoreg")
