"""Every registered backbone with every option, over one code map and several: what must hold for a prior."""

import pytest
import torch
from transformers import DynamicCache

from stage2_transformer.backbones import BACKBONES
from stage2_transformer.prior import TransformerPrior
from twostage.errors import TwoStageError

K, N = 11, 3
VARIANTS = {
    "llama, rotary": {"name": "llama", "positions": "rotary"},
    "llama, feed_forward": {"name": "llama", "feed_forward": 24},
    "llama, dropout": {"name": "llama", "dropout": 0.5, "attention_dropout": 0.5},
    "gpt2, gelu": {"name": "gpt2", "activation": "gelu"},
}
CASES = {name: {"name": name} for name in BACKBONES} | VARIANTS
SHAPES = {"one map": [3, 4], "two maps": [2, 2, 3]}


@pytest.fixture(params=CASES)
def options(request):
    return BACKBONES.resolve({"layers": 2, "heads": 2, "width": 16, **CASES[request.param]}, "prior")


@pytest.fixture(params=SHAPES)
def prior(request, options):
    torch.manual_seed(0)
    made = TransformerPrior(options, codebook_size=K, code_shape=SHAPES[request.param], num_classes=N)
    made.backbone.get_input_embeddings().weight.data.mul_(50)  # so that an untrained network heeds its tokens
    return made.eval().double()


def sequences(prior, labels):
    """A class and all codes of an image, tokens [b, n + 1]."""
    codes = torch.randint(K, (len(labels), prior.length), generator=torch.Generator().manual_seed(1))
    return torch.cat([prior.class_tokens(torch.tensor(labels)), prior.code_tokens(codes)], dim=1)


def test_every_option_has_a_case():
    """A new option comes under these laws."""
    tried = {(config["name"], key) for config in CASES.values() for key in config}
    for name in BACKBONES:
        sizes = {"layers", "heads", "width", "dropout"}
        assert {key for key in BACKBONES.schema(name).model_fields if (name, key) not in tried} <= sizes


def test_a_later_token_changes_no_earlier_logit(prior):
    tokens = sequences(prior, [1])
    before = prior(tokens)
    for place in range(1, tokens.shape[1]):
        changed = tokens.clone()
        changed[:, place] = prior.code_tokens((tokens[:, place : place + 1] + 1) % K, first=place - 1)[:, 0]
        after = prior(changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert (after[:, place] - before[:, place]).abs().max() > 1e-6


def test_the_class_changes_every_logit(prior):
    tokens = sequences(prior, [0])
    for label in (1, N):
        other = tokens.clone()
        other[:, :1] = prior.class_tokens(torch.tensor([label]))
        assert (prior(other) - prior(tokens)).abs().amax(-1).min() > 1e-9


def test_only_codes_of_the_map_whose_turn_it_is_can_follow(prior):
    """The last layer's rows of classes and of other maps count for nothing."""
    tokens, head = sequences(prior, [0, N]), prior.backbone.get_output_embeddings().weight
    before = prior(tokens)
    assert before.shape == (2, prior.length + 1, K)
    for turn in range(prior.maps):
        own = torch.zeros(len(head), dtype=torch.bool)
        own[turn * K : (turn + 1) * K] = True
        kept = head.detach().clone()
        head.data[~own] *= -3
        assert torch.equal(prior(tokens)[:, turn :: prior.maps], before[:, turn :: prior.maps])
        head.data.copy_(kept)
        head.data[own] *= -3
        assert not torch.isclose(prior(tokens)[:, turn :: prior.maps], before[:, turn :: prior.maps]).any()
        head.data.copy_(kept)


def test_every_place_is_another(prior):
    """The same codes everywhere: only where it is tells a place from another."""
    codes = torch.full((1, prior.length), 3)
    tokens = torch.cat([prior.class_tokens(torch.tensor([1])), prior.code_tokens(codes)], dim=1)
    logits = prior(tokens)[0, 1:]
    difference = (logits[:, None] - logits).abs().amax(-1) + torch.eye(len(logits))
    assert difference.min() > 1e-9


def test_a_cache_changes_no_logits(prior):
    tokens = sequences(prior, [0, N])
    cache = DynamicCache()
    one_by_one = [prior(tokens[:, i : i + 1], cache) for i in range(tokens.shape[1])]
    torch.testing.assert_close(torch.cat(one_by_one, dim=1), prior(tokens), atol=1e-10, rtol=0)


def test_more_tokens_than_an_image_has_are_refused(prior):
    tokens, cache, n = sequences(prior, [0]), DynamicCache(), prior.length
    refused = f"tokens: '{n + 2} of them' is not allowed; allowed: at most {n + 1}"
    with pytest.raises(TwoStageError, match=refused):
        prior(torch.cat([tokens, tokens[:, -1:]], dim=1))
    prior(tokens, cache)
    with pytest.raises(TwoStageError, match=refused):
        prior(tokens[:, -1:], cache)


def test_bf16_in_is_bf16_out(prior):
    assert prior.bfloat16()(sequences(prior, [0])).dtype == torch.bfloat16


def test_what_is_saved_is_what_is_loaded(prior, tmp_path):
    tokens = sequences(prior, [2])
    prior.save_pretrained(tmp_path)
    again = TransformerPrior.from_pretrained(tmp_path, torch_dtype=torch.float64).eval()
    assert torch.equal(again(tokens), prior(tokens))
