"""The networks of the transformer prior: their sizes, positions, dropout and memory."""

import pytest
import torch

from stage2_transformer.backbones import BACKBONES
from stage2_transformer.backbones.rotary import Rotary2D
from stage2_transformer.prior import TransformerPrior, code_loss
from twostage.errors import TwoStageError

TINY = {"layers": 2, "heads": 2, "width": 16}


def parameters(prior):
    return sum(p.numel() for p in prior.parameters())


def on_meta(name, preset, **of_codes):
    with torch.device("meta"):
        return TransformerPrior(BACKBONES.resolve({"name": name, "preset": preset}, "prior"), **of_codes)


@pytest.mark.parametrize(("preset", "millions"), [("B", 111), ("L", 343), ("XL", 775), ("XXL", 1411)])
def test_llamas_have_the_published_sizes(preset, millions):
    """But for the rows of the last layer that stand for classes, and are never asked."""
    prior = on_meta("llama", preset, codebook_size=16_384, code_shape=[16, 16], num_classes=1000)
    never_asked = 1001 * prior.backbone.config.hidden_size
    assert round((parameters(prior) - never_asked) / 1e6) == millions


@pytest.mark.parametrize(
    ("preset", "k", "classes", "billions"), [("faceshq", 1024, None, 0.3), ("imagenet", 16_384, 1000, 1.4)]
)
def test_gpts_have_the_published_sizes(preset, k, classes, billions):
    """But for the rows of classes in the first layer and the last; in taming's a class shares the row of a code."""
    prior = on_meta("gpt2", preset, codebook_size=k, code_shape=[16, 16], num_classes=classes)
    layers, w = prior.backbone.config.n_layer, prior.backbone.config.n_embd
    published = layers * (12 * w**2 + 13 * w) + 2 * w + 2 * k * w + 257 * w
    assert parameters(prior) == published + 2 * ((classes or 0) + 1) * w
    assert round(published / 1e9, 1) == billions


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"name": "gpt2", "heads": 3}, "a multiple of 3, for 3 heads with learned positions"),
        ({"name": "llama", "heads": 8}, "a multiple of 32, for 8 heads with rotary_2d positions"),
        ({"name": "llama", "heads": 16, "positions": "rotary"}, "a multiple of 32, for 16 heads with rotary positions"),
    ],
)
def test_heads_that_cannot_share_the_width_are_refused(options, allowed):
    with pytest.raises(TwoStageError, match=r"prior\.width: 16 is not allowed; allowed: ") as error:
        BACKBONES.build({**TINY, **options}, vocabulary=5, grid=(1, 2, 2))
    assert allowed in str(error.value)


# Rotary positions in two dimensions


def turned(vectors, rotary, places):
    """Vectors [n, d] at places [n] of the sequence, as attention compares them."""
    cos, sin = (table[0] for table in rotary(vectors, torch.tensor([places])))
    first, second = vectors.chunk(2, dim=-1)
    return vectors * cos + torch.cat([-second, first], dim=-1) * sin


@pytest.fixture
def vectors():
    """A query and a key."""
    return torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def score(vectors, rotary, *places):
    query, key = turned(vectors, rotary, places)
    return query @ key


def test_a_score_depends_on_differences_of_rows_and_columns(vectors):
    rotary = Rotary2D((1, 4, 5), head_dim=16)
    at = {(r, c): 1 + 5 * r + c for r in range(4) for c in range(5)}
    expected = score(vectors, rotary, at[2, 3], at[1, 1])
    for moved in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1)):
        places = [at[r + moved[0], c + moved[1]] for r, c in ((2, 3), (1, 1))]
        torch.testing.assert_close(score(vectors, rotary, *places), expected, rtol=0, atol=1e-5)
    for other in (at[1, 3], at[2, 2], at[3, 2]):
        assert (score(vectors, rotary, other, at[1, 1]) - expected).abs() > 1e-3


def test_rows_and_columns_turn_half_of_the_channels_each():
    rotary = Rotary2D((1, 3, 3), head_dim=8)
    cos, _ = rotary(torch.zeros(1, dtype=torch.float64), torch.arange(10)[None])
    by_row, by_column = cos[0, 1:].reshape(3, 3, 2, 4).split(2, dim=-1)
    assert torch.equal(by_row, by_row[:, :1].expand_as(by_row))
    assert torch.equal(by_column, by_column[:1].expand_as(by_column))
    torch.testing.assert_close(by_row[:, 0], by_column[0])
    torch.testing.assert_close(by_row[:, 0, 0, 0], torch.arange(1.0, 4.0, dtype=torch.float64).cos())


def test_the_class_has_a_place_of_its_own(vectors):
    rotary = Rotary2D((1, 3, 3), head_dim=16)
    assert torch.equal(turned(vectors[:1], rotary, [0]), vectors[:1])
    scores = torch.stack([score(vectors, rotary, place, 0) for place in range(1, 10)])
    assert (scores[:, None] - scores).abs().add(torch.eye(9)).min() > 1e-4


def test_the_codes_of_a_position_share_its_place():
    ones = torch.zeros(1)
    maps = Rotary2D((3, 2, 2), head_dim=8)(ones, torch.arange(13)[None])
    one = Rotary2D((1, 2, 2), head_dim=8)(ones, torch.tensor([[0, *(p for p in range(1, 5) for _ in range(3))]]))
    for ours, expected in zip(maps, one):
        assert torch.equal(ours, expected)


def test_places_keep_their_precision_in_a_model_that_was_half_precise_once():
    torch.manual_seed(0)
    prior = TransformerPrior({"name": "llama", **TINY}, codebook_size=5, code_shape=[3, 3], num_classes=2).eval()
    tokens = torch.tensor([[5, 1, 2, 3]])
    halved = prior.state_dict()
    prior.bfloat16().float()
    prior.load_state_dict(halved)
    cos, _ = prior.backbone.model.rotary_emb(torch.zeros(1), torch.arange(10)[None])
    expected, _ = Rotary2D((1, 3, 3), 8)(torch.zeros(1), torch.arange(10)[None])
    assert torch.equal(cos, expected)
    assert prior(tokens).isfinite().all()


# Dropout and checkpointing


def trained(options, **training):
    """The gradients of one step, by name."""
    torch.manual_seed(0)
    prior = TransformerPrior({**TINY, **options}, codebook_size=5, code_shape=[3, 3], num_classes=2).train()
    if training.get("checkpointing"):
        prior.enable_gradient_checkpointing()
    codes = torch.randint(5, (4, 3, 3))
    torch.manual_seed(1)
    code_loss(prior, codes, torch.tensor([0, 1, 1, 0]), 0.3).backward()
    return {name: parameter.grad for name, parameter in prior.named_parameters()}


@pytest.mark.parametrize("name", list(BACKBONES))
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradient_checkpointing_leaves_the_gradients(name, dropout):
    plain, saved = (trained({"name": name, "dropout": dropout}, checkpointing=on) for on in (False, True))
    assert plain.keys() == saved.keys()
    for key, gradient in plain.items():
        torch.testing.assert_close(saved[key], gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_gradient_checkpointing_computes_blocks_again(name):
    torch.manual_seed(0)
    prior = TransformerPrior({"name": name, **TINY}, codebook_size=5, code_shape=[3, 3], num_classes=2).train()
    prior.enable_gradient_checkpointing()
    block = next(module for module in prior.backbone.modules() if isinstance(module, torch.nn.ModuleList))[0]
    norm = next(module for key, module in block.named_modules() if "norm" in key or "ln_1" in key)
    calls = []
    norm.register_forward_hook(lambda *_: calls.append(1))
    loss = code_loss(prior, torch.randint(5, (2, 3, 3)), torch.tensor([0, 1]), 0.0)
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 2


OF_ONE_KIND = ["dropout", "attention_dropout"]


@pytest.mark.parametrize(("name", "option"), [("gpt2", "dropout"), *(("llama", option) for option in OF_ONE_KIND)])
def test_dropout_acts_in_training_only_and_renames_nothing(name, option):
    without = {"name": name, **TINY, **({"dropout": 0.0})}
    torch.manual_seed(0)
    prior, plain = (
        TransformerPrior(options, codebook_size=5, code_shape=[3, 3], num_classes=2)
        for options in ({**without, option: 0.5}, without)
    )
    plain.load_state_dict(prior.state_dict())
    tokens = torch.tensor([[5, 1, 2, 3]])
    assert torch.equal(prior.eval()(tokens), plain.eval()(tokens))
    plain.train()
    assert torch.equal(plain(tokens), plain(tokens))
    prior.train()
    assert not torch.equal(prior(tokens), prior(tokens))


def test_a_llama_drops_embeddings_and_what_branches_add():
    torch.manual_seed(0)
    backbone = BACKBONES.build({"name": "llama", **TINY, "dropout": 0.5}, vocabulary=50, grid=(1, 4, 4)).train()
    layer = backbone.model.layers[1]
    for module, value in (
        (backbone.model.embed_tokens, torch.arange(50)),
        (layer.self_attn.o_proj, torch.randn(50, 16)),
        (layer.mlp.down_proj, torch.randn(50, backbone.config.intermediate_size)),
    ):
        assert 0.4 < (module(value) == 0).float().mean() < 0.6
        assert (module.eval()(value) != 0).all()
