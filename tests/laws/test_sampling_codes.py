"""Laws of sampling codes, of every registered backbone with every option that changes its arithmetic.

A decoder gives the logits of the prior, whatever rows it is asked for in whatever order; what is drawn from them
depends on an image's own class and generator alone; guidance and known codes do what they say, against the whole
network called anew for every code.
"""

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from stage2_transformer.backbones import BACKBONES
from stage2_transformer.decoding import CachedDecoder, Compiled, FusedDecoder, StaticDecoder, decoder
from stage2_transformer.guidance import Guidance
from stage2_transformer.prior import TransformerPrior
from stage2_transformer.sampling import KnownCodes, Sampling, draw, sample_codes
from twostage.errors import TwoStageError

K, N = 11, 3
CASES = {
    "gpt2": {"name": "gpt2"},
    "gpt2, gelu": {"name": "gpt2", "activation": "gelu"},
    "llama": {"name": "llama"},
    "llama, rotary": {"name": "llama", "positions": "rotary", "feed_forward": 24},
    "llama, dropout": {"name": "llama", "dropout": 0.5, "attention_dropout": 0.5},
}
SHAPES = {"one map": [3, 4], "two maps": [2, 2, 3]}


def make(case, shape="one map"):
    torch.manual_seed(0)
    options = BACKBONES.resolve({"layers": 2, "heads": 2, "width": 16, **CASES[case]}, "prior")
    prior = TransformerPrior(options, codebook_size=K, code_shape=SHAPES[shape], num_classes=N)
    for weight in prior.parameters():
        if weight.ndim == 2:
            weight.data.mul_(15)  # so that an untrained network heeds its tokens
    return prior.eval().double()


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture(params=SHAPES)
def prior(request, case):
    return make(case, request.param)


@pytest.fixture
def llama():
    return make("llama")


@pytest.fixture(params=[("llama", "one map"), ("gpt2", "two maps")], ids=" of ".join)
def one_of_each(request):
    """Every backbone and every shape once."""
    return make(*request.param)


def test_every_backbone_and_option_has_a_case():
    tried = {(config["name"], key) for config in CASES.values() for key in config}
    for name in BACKBONES:
        sizes = {"layers", "heads", "width", "dropout"}
        assert {key for key in BACKBONES.schema(name).model_fields if (name, key) not in tried} <= sizes
        assert (name, "name") in tried


# Decoders


DECODERS = {
    "fused": decoder,
    "cached": lambda prior, rows: CachedDecoder(prior),
    "compiled": lambda prior, rows: StaticDecoder(prior, rows, {"backend": "eager"}),
}


def sequences(prior, rows):
    """The classes and all codes but the last of so many images, tokens [rows, n]."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(K, (rows, prior.length - 1), generator=generator)
    labels = torch.arange(rows) % (N + 1)
    return torch.cat([prior.class_tokens(labels), prior.code_tokens(codes)], dim=1)


@torch.no_grad()
def test_a_decoder_gives_the_logits_of_the_prior(prior):
    """In training mode too: a decoder never drops out."""
    tokens = sequences(prior, 4)
    expected = prior(tokens)
    decode = decoder(prior.train(), 4)
    assert isinstance(decode, FusedDecoder)
    for i in range(prior.length):
        torch.testing.assert_close(decode(tokens[:, : i + 1]), expected[:, i], atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_rows_and_tokens_may_be_left_out_for_a_while(one_of_each, monkeypatch, kind):
    monkeypatch.setattr(StaticDecoder, "SPAN", 7)
    tokens = sequences(one_of_each, 4)
    expected, decode = one_of_each(tokens), DECODERS[kind](one_of_each, 4)
    for rows, m in [(2, 3), (2, 4), (4, 5), (4, 6), (2, 7), (2, 9), (4, 10), (4, 12)]:
        torch.testing.assert_close(decode(tokens[:rows, :m]), expected[:rows, m - 1], atol=1e-10, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("name", list(BACKBONES))
@torch.no_grad()
def test_a_decoder_computes_in_the_dtype_of_the_weights(name, dtype, tolerance):
    prior = make(name)
    tokens = sequences(prior, 4)
    expected, decode = prior(tokens), decoder(prior.to(dtype), 4)
    found = torch.stack([decode(tokens[:, : i + 1]) for i in range(prior.length)], dim=1)
    assert found.dtype == dtype
    assert (found.double() - expected).square().mean().sqrt() < tolerance * expected.std()


class Adapted(torch.nn.Module):
    """A linear layer to which something is added, as adapters do."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    @property
    def weight(self):
        return self.layer.weight

    def forward(self, x):
        return self.layer(x) + x.flip(-1)


def adapt(prior):
    attention = prior.backbone.model.layers[0].self_attn
    attention.q_proj = Adapted(attention.q_proj)


UNKNOWN = {
    "another network": lambda prior: setattr(
        prior, "backbone", type("Other", (type(prior.backbone),), {})(prior.backbone.config)
    ),
    "an adapter": adapt,
    "offloaded": lambda prior: add_hook_to_module(prior, ModelHook()),
}


@pytest.mark.parametrize("change", UNKNOWN)
def test_what_is_not_known_is_decoded_all_the_same(llama, change):
    UNKNOWN[change](llama)
    llama.eval().double()
    assert isinstance(decoder(llama, 4), CachedDecoder)
    assert isinstance(Compiled()(llama, 4), CachedDecoder)
    assert torch.equal(sampled(llama), by_definition(llama, WAYS["guided in part"]))


def test_what_was_compiled_is_kept_until_the_weights_change(llama):
    compiled = Compiled(backend="eager")
    kept = compiled(llama, 4)
    assert compiled(llama, 4) is kept
    assert compiled(llama, 2) is not kept
    assert torch.equal(sampled(llama, make_decoder=compiled), sampled(llama))
    assert torch.equal(sampled(llama, make_decoder=compiled), sampled(llama))
    with torch.no_grad():
        llama.backbone.get_output_embeddings().weight.neg_()
    assert compiled(llama, 4) is not kept
    assert torch.equal(sampled(llama, make_decoder=compiled), sampled(llama))
    assert compiled(llama.float(), 4)(sequences(llama, 4)).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make_decoder", [decoder, Compiled()], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", list(BACKBONES))
@torch.no_grad()
def test_on_a_gpu_a_decoder_gives_the_logits_of_the_prior(name, make_decoder):
    prior = make(name, "two maps").to("cuda")
    tokens = sequences(prior, 4).to("cuda")
    expected = prior(tokens)
    for _ in range(2):
        decode = make_decoder(prior, 4)
        for i in range(prior.length):
            torch.testing.assert_close(decode(tokens[:, : i + 1]), expected[:, i], atol=1e-5, rtol=0)


# Samples


LABELS = torch.tensor([0, 1, 2, N])
WAYS = {
    "plain": Sampling(),
    "guided": Sampling(guidance=Guidance(scale=3.0)),
    "guided ever more": Sampling(guidance=Guidance(scale=3.0, power=1.5)),
    "guided in part": Sampling(guidance=Guidance(scale=3.0, interval=(0.25, 0.75))),
    "few codes": Sampling(temperature=1.3, top_k=5, top_p=0.8),
}


def generators():
    return [torch.Generator().manual_seed(i) for i in range(len(LABELS))]


def sampled(prior, way="guided in part", part=slice(None), **options):
    return sample_codes(prior, LABELS[part], WAYS[way], generators()[part], **options)


@torch.no_grad()
def by_definition(prior, sampling, given=None, drawn=None):
    """The same codes from the whole network, called anew for every code, one image at a time."""
    rows = []
    for row, (label, generator) in enumerate(zip(LABELS, generators())):
        u = torch.rand(prior.length, generator=generator, dtype=torch.float64)
        codes = torch.zeros(1, 0, dtype=torch.int64)
        for i in range(prior.length):
            c, null = (
                prior(torch.cat([prior.class_tokens(y[None]), prior.code_tokens(codes)], dim=1))[:, -1]
                for y in (label, torch.tensor(N))
            )
            scale = sampling.guidance.at(i, prior.length)
            code = draw(null + scale * (c - null), u[i : i + 1], sampling)
            if drawn is not None and not drawn[row, i]:
                code = given[row, i : i + 1]
            codes = torch.cat([codes, code[:, None]], dim=1)
        rows.append(codes)
    return prior.codes(torch.cat(rows))


@pytest.mark.parametrize("way", WAYS)
def test_samples_are_those_of_the_network_called_anew_for_every_code(one_of_each, way):
    codes = sampled(one_of_each, way)
    assert codes.shape == (4, *one_of_each.config["code_shape"])
    assert torch.equal(codes, by_definition(one_of_each, WAYS[way]))


def test_the_ways_differ(llama):
    """So that the other laws are not about one and the same samples."""
    assert len({tuple(sampled(llama, way).flatten().tolist()) for way in WAYS}) == len(WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_how_a_batch_is_split_changes_no_code(one_of_each, way):
    whole = sampled(one_of_each, way)
    for parts in ([slice(0, 1), slice(1, 4)], [slice(0, 3), slice(3, 4)]):
        assert torch.equal(torch.cat([sampled(one_of_each, way, part) for part in parts]), whole)
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 4


def test_guidance_one_is_the_conditional_prior_and_guidance_zero_the_unconditional(prior):
    conditional = sampled(prior, "plain")
    none = sample_codes(prior, torch.full_like(LABELS, N), Sampling(), generators())
    for scale, expected in ((1.0, conditional), (0.0, none)):
        way = Sampling(guidance=Guidance(scale=scale))
        assert torch.equal(sample_codes(prior, LABELS, way, generators()), expected)
    assert not torch.equal(conditional, none)


@pytest.mark.parametrize(
    ("guidance", "rows"),
    [
        ({}, [4] * 12),
        ({"scale": 2.0}, [8] * 12),
        ({"scale": 2.0, "interval": (0.25, 0.5)}, [4] * 3 + [8] * 3 + [4] * 6),
        ({"scale": 2.0, "power": 1.0}, [4] + [8] * 11),
    ],
)
def test_rows_without_a_class_are_computed_only_where_guidance_acts(llama, guidance, rows):
    seen, made = [], []

    def watched(prior, most):
        made.append(most)
        decode = decoder(prior, most)
        return lambda tokens: seen.append(len(tokens)) or decode(tokens)

    sample_codes(llama, LABELS, Sampling(guidance=Guidance(**guidance)), generators(), make_decoder=watched)
    assert seen == rows
    assert made == [max(rows)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", list(BACKBONES))
@torch.no_grad()
def test_the_likeliest_codes_are_those_that_transformers_generates(name, shape):
    """Its beam is restricted to the codes of the map whose turn it is."""
    prior = make(name, shape)

    def only_codes(tokens, scores):
        first = (tokens.shape[1] - 1) % prior.maps * K
        allowed = torch.zeros(scores.shape[-1], dtype=torch.bool)
        allowed[first : first + K] = True
        return scores.masked_fill(~allowed, -torch.inf)

    start = prior.class_tokens(LABELS)
    tokens = prior.backbone.generate(
        start,
        attention_mask=torch.ones_like(start),
        do_sample=False,
        max_new_tokens=prior.length,
        logits_processor=[only_codes],
    )
    codes = sample_codes(prior, LABELS, Sampling(top_k=1), generators())
    assert torch.equal(codes, prior.codes(tokens[:, 1:] % K))


def test_more_likely_codes_than_there_are_codes_are_refused(llama):
    with pytest.raises(TwoStageError, match=f"^top_k: {K + 1} "):
        sample_codes(llama, LABELS, Sampling(top_k=K + 1), generators())


# Known codes


def known_part(prior, share=0.5):
    """Random codes, of each of which a random part is to be drawn."""
    generator = torch.Generator().manual_seed(5)
    shape = (len(LABELS), *prior.config["code_shape"])
    codes = torch.randint(K, shape, generator=generator)
    return KnownCodes(codes=codes, drawn=torch.rand(shape, generator=generator) < share)


@pytest.mark.parametrize("way", ["plain", "guided in part"])
def test_known_codes_are_kept_and_the_others_follow_them(one_of_each, way):
    known = known_part(one_of_each)
    before, (given, drawn) = known.codes.clone(), map(one_of_each.sequence, (known.codes, known.drawn))
    codes = sampled(one_of_each, way, known=known)
    assert torch.equal(codes[~known.drawn], known.codes[~known.drawn])
    assert torch.equal(codes, by_definition(one_of_each, WAYS[way], given, drawn))
    assert torch.equal(known.codes, before)


def test_how_a_completion_is_split_changes_no_code(one_of_each):
    known = known_part(one_of_each)

    def complete(part):
        own = KnownCodes(codes=known.codes[part], drawn=known.drawn[part])
        return sampled(one_of_each, part=part, known=own)

    whole = complete(slice(0, 4))
    assert torch.equal(torch.cat([complete(slice(0, 1)), complete(slice(1, 4))]), whole)


def test_places_that_are_known_everywhere_are_not_asked_for(llama):
    known, seen = known_part(llama), []
    drawn = torch.zeros_like(known.drawn)
    drawn[:2, 1, 1], drawn[1:, 2, 2:] = True, True  # numbers 5, 10 and 11 of 12

    def watched(prior, rows):
        decode = decoder(prior, rows)
        return lambda tokens: seen.append(tokens.shape[1]) or decode(tokens)

    known = KnownCodes(codes=known.codes, drawn=drawn)
    assert torch.equal(
        sampled(llama, known=known, make_decoder=watched),
        by_definition(llama, WAYS["guided in part"], llama.sequence(known.codes), llama.sequence(drawn)),
    )
    assert seen == [6, 11, 12]
    nothing = KnownCodes(codes=known.codes, drawn=torch.zeros_like(drawn))
    assert torch.equal(sampled(llama, known=nothing, make_decoder=watched), known.codes)
    assert seen == [6, 11, 12]


def test_no_number_is_read_back_from_the_device(one_of_each):
    """Meta tensors have shapes but no numbers: to look at one is an error, where a GPU would only be waited for."""
    one_of_each.to("meta")
    known = known_part(one_of_each)
    known = KnownCodes(codes=known.codes.to("meta"), drawn=known.drawn)
    way = Sampling(top_k=5, top_p=0.8, guidance=Guidance(scale=3.0, interval=(0.25, 0.75)))
    codes = sample_codes(one_of_each, LABELS.to("meta"), way, generators(), known=known)
    assert codes.device.type == "meta"
    assert codes.shape == (4, *one_of_each.config["code_shape"])
