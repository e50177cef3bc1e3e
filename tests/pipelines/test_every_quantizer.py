"""Every registered quantiser goes the whole way: trained, frozen, learnt by both priors, sampled."""

import pytest
import torch

from pipelines.train import train_ldm, train_tokenizer, train_transformer
from stage1_tokenizer.config import TokenizerConfig
from stage1_tokenizer.encode import encode
from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_ldm.config import LDMConfig
from stage2_transformer.config import TransformerConfig
from twostage.config import load, read_yaml


def config(schema, configs, stage, **changes):
    return load(schema, {**read_yaml(configs.config(stage)), **changes})


@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_the_whole_way(name, configs, tmp_path):
    places = {"tokenizer": str(tmp_path / "tokenizer"), "codes": str(tmp_path / "codes")}
    once = {"steps": 1, "batch_size": 8}

    stage_one = config(
        TokenizerConfig,
        configs,
        "tokenizer",
        quantizer={"name": name, "codebook_size": 16, "dim": 4},
        warm_start={"steps": 2, "features": 100} if QUANTIZERS[name].learns_codebook else None,
        training={"steps": 5, "batch_size": 8},
    )
    trained = train_tokenizer(stage_one, tmp_path / "tokenizer").eval()
    tokenizer = VQTokenizer.from_pretrained(tmp_path / "tokenizer" / "tokenizer").eval()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(trained(images), tokenizer(images))  # a mapped codebook is computed anew, up to rounding

    manifest = encode(tokenizer, stage_one.data, tmp_path / "codes")
    maps = [] if tokenizer.quantizer.maps == 1 else [tokenizer.quantizer.maps]
    assert manifest.shape == [*maps, 4, 4]

    ldm = train_ldm(config(LDMConfig, configs, "ldm", **places, training=once), tmp_path / "ldm")
    transformer = train_transformer(
        config(TransformerConfig, configs, "transformer", **places, training=once), tmp_path / "transformer"
    )
    for pipeline, steps in ((ldm, {"num_inference_steps": 2}), (transformer, {})):
        pipeline.set_progress_bar_config(disable=True)
        sampled = pipeline(class_label=3, num_images=2, output_type="pt", **steps).images
        assert sampled.shape == (2, 3, 16, 16)
        assert sampled.isfinite().all()
