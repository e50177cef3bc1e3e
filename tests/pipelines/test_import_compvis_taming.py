"""Released autoregressive models of taming-transformers, small and with random weights: what comes of them."""

import math
from pathlib import Path

import pytest
import released_ldm
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

from pipelines import AutoregressivePipeline
from pipelines.compvis.vq import compvis_name, import_vq
from stage1_tokenizer import VQTokenizer
from stage2_transformer import TransformerPrior

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "compvis"
GPT = {"vocab_size": 16, "block_size": 64, "n_layer": 2, "n_head": 2, "n_embd": 8}
LABELS = {"target": "taming.modules.util.Labelator", "params": {"n_classes": 5}}
FIRST_STAGE = {"target": "taming.models.vqgan.VQModel", "params": released_ldm.FIRST_STAGE["params"]}
PARAMS = {
    "first_stage_key": "image",
    "cond_stage_key": "class_label",
    "cond_stage_config": LABELS,
    "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": GPT},
}
WHOLE = {**PARAMS, "first_stage_config": FIRST_STAGE}


def gpt_weights(block_size=64):
    """Random weights of the GPT under the names that the published code gives them."""
    shapes = {"tok_emb.weight": (16, 8), "pos_emb": (1, block_size, 8), "head.weight": (16, 8)}
    shapes |= {"ln_f.weight": (8,), "ln_f.bias": (8,)}
    for block in ("blocks.0", "blocks.1"):
        shapes[f"{block}.attn.mask"] = (1, 1, block_size, block_size)
        layers = {f"attn.{part}": (8, 8) for part in ("key", "query", "value", "proj")}
        for layer, shape in {**layers, "mlp.0": (32, 8), "mlp.2": (8, 32), "ln1": (8,), "ln2": (8,)}.items():
            shapes |= {f"{block}.{layer}.weight": shape, f"{block}.{layer}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    return {f"transformer.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def first_stage_weights():
    blank = import_vq_names()
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(value.shape, generator=generator) for name, value in blank.items()}


def import_vq_names():
    tokenizer = VQTokenizer(
        {
            "name": "vqgan",
            "width": 32,
            "multipliers": [1, 2],
            "residual_blocks": 1,
            "attention_at": [],
            "z_channels": 4,
        },
        {"name": "vq", "codebook_size": 16, "dim": 4},
        image_size=16,
        channels=3,
    )
    name = compvis_name(2)
    return {f"first_stage_model.{name(ours)}": value for ours, value in tokenizer.state_dict().items()}


def published(weights, tokens):
    """The logits of a pre-norm transformer with learned positions and exact GELUs, written out."""
    at = {name.removeprefix("transformer."): value.double() for name, value in weights.items()}

    def layer(x, name):
        return F.linear(x, at[f"{name}.weight"], at[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (8,), at[f"{name}.weight"], at[f"{name}.bias"])

    b, n = tokens.shape
    h = at["tok_emb.weight"][tokens] + at["pos_emb"][:, :n]
    for block in ("blocks.0", "blocks.1"):
        x = norm(h, f"{block}.ln1")
        q, k, v = (
            layer(x, f"{block}.attn.{part}").view(b, n, 2, 4).transpose(1, 2) for part in ("query", "key", "value")
        )
        scores = (q @ k.mT / math.sqrt(4)).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
        h = h + layer((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        h = h + layer(F.gelu(layer(norm(h, f"{block}.ln2"), f"{block}.mlp.0")), f"{block}.mlp.2")
    return F.linear(norm(h, "ln_f"), at["head.weight"])


@pytest.fixture
def bring(command, tmp_path):
    """(params, weights) -> the answer of the command and its output folder."""

    def run(params, weights):
        config, checkpoint = tmp_path / "config.yaml", tmp_path / "model.ckpt"
        target = "taming.models.cond_transformer.Net2NetTransformer"
        config.write_text(yaml.safe_dump({"model": {"target": target, "params": params}}))
        torch.save({"state_dict": weights}, checkpoint)
        return command("import-compvis", config, checkpoint, "--output", tmp_path / "out"), tmp_path / "out"

    return run


def test_logits_are_those_of_the_published_code(command, tmp_path):
    folder = GOLDENS / "taming_cin_transformer"
    if not folder.is_dir():
        pytest.skip("taming_cin_transformer is not here: parity with the published code is not checked")
    answer = command("import-compvis", folder / "config.yaml", folder / "model.ckpt", "--output", tmp_path / "out")
    assert answer.status == 0, answer.err
    prior = TransformerPrior.from_pretrained(tmp_path / "out").eval()
    assert (prior.config["num_classes"], prior.config["code_shape"], prior.config["knows_no_class"]) == (
        10,
        [4, 4],
        False,
    )
    expected = load_file(folder / "expected.safetensors")
    torch.testing.assert_close(prior(expected["tokens"]), expected["logits"], rtol=0, atol=2e-6)


def test_a_class_is_the_code_of_its_number(bring):
    weights = gpt_weights()
    answer, out = bring(PARAMS, weights)
    assert answer.status == 0, answer.err
    assert 'none of them is "no class"' in answer.out
    prior = TransformerPrior.from_pretrained(out).eval().double()
    labels = torch.tensor([0, 3, 4])
    codes = torch.randint(16, (3, 63), generator=torch.Generator().manual_seed(2))
    logits = prior(torch.cat([prior.class_tokens(labels), prior.code_tokens(codes)], dim=1))
    torch.testing.assert_close(logits, published(weights, torch.cat([labels[:, None], codes], dim=1)))


@pytest.mark.parametrize("how", [{"cond_stage_config": "__is_unconditional__"}, {"unconditional": True}])
def test_an_image_without_a_class_begins_with_the_start_token(bring, how):
    weights = gpt_weights()
    answer, out = bring({**PARAMS, "sos_token": 7, **how}, weights)
    assert answer.status == 0, answer.err
    prior = TransformerPrior.from_pretrained(out).eval().double()
    assert prior.config["num_classes"] is None
    codes = torch.randint(16, (2, 20), generator=torch.Generator().manual_seed(2))
    logits = prior(torch.cat([prior.class_tokens(torch.zeros(2, dtype=torch.int64)), codes], dim=1))
    torch.testing.assert_close(logits, published(weights, torch.cat([torch.full((2, 1), 7), codes], dim=1)))


@pytest.mark.parametrize("block_size", [64, 100])
def test_with_its_first_stage_it_is_a_pipeline(bring, block_size):
    gpt = {"target": PARAMS["transformer_config"]["target"], "params": {**GPT, "block_size": block_size}}
    first_stage = first_stage_weights()
    beside = {"first_stage_model.loss.discriminator.main.0.weight": torch.zeros(2)}
    weights = {**gpt_weights(block_size), **first_stage, **beside}
    answer, out = bring({**WHOLE, "transformer_config": gpt}, weights)
    assert answer.status == 0, answer.err
    pipeline = AutoregressivePipeline.from_pretrained(out)
    assert pipeline.config.id2label == {str(i): str(i) for i in range(5)}
    pipeline.set_progress_bar_config(disable=True)
    codes = pipeline(3, num_images=2, output_type="latent", generator=torch.Generator().manual_seed(0)).images
    assert codes.shape == (2, 8, 8)
    expected = import_vq(FIRST_STAGE["params"], first_stage, out, out, prefix="first_stage_model.")
    assert torch.equal(pipeline.tokenizer.decode_codes(codes), expected.decode_codes(codes))


def changed(**changes):
    return {**PARAMS, **changes}


def gpt(**changes):
    return {"target": PARAMS["transformer_config"]["target"], "params": {**GPT, **changes}}


COORDINATES = {"target": "taming.modules.misc.coord.CoordStage", "params": {"n_embed": 16, "down_factor": 16}}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (changed(cond_stage_config=COORDINATES), ("cond_stage_config.target", "coord.CoordStage' is not imported")),
        (changed(cond_stage_config={**LABELS, "params": {"n_classes": 17}}), ("n_classes: 17", "16, or fewer")),
        (changed(unconditional=True, sos_token=16), ("sos_token: 16", "below 16")),
        (changed(permuter_config={"target": "taming.modules.transformer.permuter.ZCurve"}), ("ZCurve' is not",)),
        (changed(transformer_config={"target": "my.GPT", "params": GPT}), ("transformer_config.target: 'my.GPT'",)),
        ({**WHOLE, "transformer_config": gpt(n_head=3)}, ("prior.width: 8", "a multiple of 3")),
        (changed(transformer_config=gpt(n_unmasked=4)), ("n_unmasked: 4",)),
        ({**WHOLE, "transformer_config": gpt(vocab_size=32)}, ("vocab_size: 32", "n_embed, 16")),
        ({**WHOLE, "transformer_config": gpt(block_size=63)}, ("block_size: 63", "at least 64", "8x8 codes")),
        ({**WHOLE, "first_stage_config": {"target": "taming.models.vqgan.GumbelVQ"}}, ("GumbelVQ' is not imported",)),
    ],
)
def test_what_has_no_counterpart_is_refused(bring, params, words):
    answer, out = bring(params, {**gpt_weights(), **first_stage_weights()})
    answer.assert_refused(*words)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("blocks.1.attn.key.weight", None, "'transformer.blocks.1.attn.key.weight' is missing"),
        ("blocks.1.mlp.0.bias", None, "1 missing weights, first 'transformer.blocks.1.mlp.0.bias'"),
        ("tok_emb.weight", None, "1 missing weights, first 'transformer.tok_emb.weight'"),
        ("extra", torch.zeros(1), "1 unexpected weights, first 'transformer.extra'"),
        ("head.weight", torch.zeros(16, 9), "transformer.head.weight of shape (22, 9) is not allowed"),
        ("pos_emb", torch.zeros(1, 32, 8), "transformer.pos_emb of shape (33, 8) is not allowed"),
    ],
)
def test_weights_that_are_not_the_configs_are_refused(bring, name, value, words):
    weights = gpt_weights()
    weights[f"transformer.{name}"] = value
    answer, out = bring(PARAMS, {key: value for key, value in weights.items() if value is not None})
    answer.assert_refused(words)
    assert not out.exists()
