"""TransVQ: linear attention over the codes, every step moves every code, and the warm start."""

import pytest
import torch
import torch.nn.functional as F

from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.quantizers.transvq import EPSILON, LinearAttention, TransVQ
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.errors import TwoStageError
from twostage.models import fingerprint, save_model

K, D, WIDTH = 16, 4, 8
MAPS = [{"mapping": "transformer"}, {"mapping": "transformer", "positions": "learned"}, {"mapping": "mlp"}]


def build(**options):
    torch.manual_seed(0)
    return TransVQ(K, D, width=WIDTH, **options)


def step(quantizer, loss):
    descent = torch.optim.SGD(quantizer.parameters(), lr=0.1)
    loss.backward()
    descent.step()


def parameters(quantizer):
    return sum(parameter.numel() for parameter in quantizer.parameters())


def test_linear_attention_is_attention_with_the_weights_written_out():
    attention = LinearAttention(WIDTH).double()
    x = torch.randn(K, WIDTH, dtype=torch.float64)
    query, key, value = attention.query(x), attention.key(x), attention.value(x)
    expected = torch.zeros_like(x)
    for i in range(K):
        weights = [((F.elu(query[i]) + 1) * (F.elu(key[j]) + 1)).sum() for j in range(K)]
        for j in range(K):
            expected[i] = expected[i] + weights[j] / (sum(weights) + EPSILON) * value[j]
    torch.testing.assert_close(attention(x), attention.out(expected))


def test_nothing_is_masked():
    """A token's output depends on every other token, before it and after it."""
    x = torch.randn(K, WIDTH, requires_grad=True)
    gradient = torch.autograd.grad(LinearAttention(WIDTH)(x)[K // 2].sum(), x)[0]
    assert (gradient.abs().sum(1) > 0).all()


@pytest.mark.parametrize("options", MAPS)
def test_the_gradient_of_one_code_moves_every_code(options):
    quantizer = build(**options)
    before, base = quantizer.codebook.detach(), quantizer.base.clone()
    step(quantizer, quantizer.codebook[3].square().sum())
    assert ((quantizer.codebook - before).abs().amax(1) > 1e-6).all()
    assert torch.equal(quantizer.base, base)


@pytest.mark.parametrize("options", MAPS)
def test_a_training_step_on_features_of_one_code_moves_every_code(options):
    quantizer = build(**options)
    before = quantizer.codebook.detach()
    output = quantizer(before[3].reshape(1, D, 1, 1) + 1e-3)
    assert output.codes.unique().tolist() == [3]
    step(quantizer, output.loss)
    assert (quantizer.codebook != before).any(1).all()


@pytest.mark.parametrize("options", MAPS)
def test_decode_looks_up_the_map_of_the_whole_codebook(options):
    quantizer = build(**options).eval()
    codes = torch.tensor([[[1, 5], [1, 9]]])
    decoded = quantizer.decode(codes).movedim(1, -1)
    assert torch.equal(decoded, quantizer.mapping(quantizer.base)[codes])


def test_a_code_mapped_without_the_others_is_another_code():
    quantizer = build().eval()
    alone = quantizer.mapping(quantizer.base[:3])
    assert not torch.allclose(alone, quantizer.codebook[:3], atol=1e-3)


@pytest.mark.parametrize("options", MAPS)
def test_only_positions_tell_equal_codes_apart(options):
    quantizer = build(**options)
    quantizer.base[1] = quantizer.base[0]
    step(quantizer, (quantizer.codebook[0] - 1).square().sum())
    together = torch.allclose(quantizer.codebook[0], quantizer.codebook[1], atol=1e-5)
    assert together == (options.get("positions") != "learned")


def test_positions_move_a_code_by_itself():
    """Along the positions' gradient a code moves further than any other; nothing else of the map has changed."""
    quantizer = build(positions="learned")
    before = quantizer.codebook
    table = quantizer.mapping.positions.table
    gradient = torch.autograd.grad((before[3] - 1).square().sum(), table)[0]
    with torch.no_grad():
        table[3] -= 0.1 * gradient[3]
    moved = (quantizer.codebook - before).norm(dim=1)
    assert moved[3] > 5 * moved[torch.arange(K) != 3].max()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2 * 64 * 256 + 8 * 256**2 + 9 * 256),
        ({"positions": "learned"}, 2 * 64 * 256 + 8 * 256**2 + 9 * 256 + 512 * 256),
        ({"mapping": "mlp"}, 2 * 64 * 256 + 256 + 64),
    ],
)
def test_how_many_parameters(options, expected):
    assert parameters(TransVQ(512, 64, **options)) == expected


def test_the_base_is_gaussian_and_frozen():
    base = TransVQ(4096, 16).base
    assert not base.requires_grad
    assert base.std().item() == pytest.approx(16**-0.5, rel=0.02)
    assert base.mean().item() == pytest.approx(0, abs=0.01)


def test_positions_need_tokens():
    with pytest.raises(TwoStageError, match="positions: 'learned' is not allowed; allowed: none, with mapping: mlp"):
        build(mapping="mlp", positions="learned")


def test_the_official_preset_has_positions_and_the_paper_has_none():
    assert QUANTIZERS.resolve({"name": "transvq", "codebook_size": K, "dim": D}, "quantizer")["positions"] == "none"
    preset = {"name": "transvq", "codebook_size": K, "dim": D, "preset": "official"}
    assert QUANTIZERS.resolve(preset, "quantizer")["positions"] == "learned"


@pytest.mark.parametrize("options", MAPS)
def test_as_published_nothing_is_added_to_the_map(options):
    quantizer = build(**options)
    assert torch.equal(quantizer.codebook, quantizer.mapping(quantizer.base))


@pytest.mark.parametrize("options", MAPS)
def test_after_the_warm_start_the_map_corrects_the_centroids(options):
    quantizer = build(**options)
    step(quantizer, quantizer.codebook.square().sum())
    centroids = torch.randn(K, D)
    quantizer.initialize_codebook(centroids)
    assert torch.equal(quantizer.codebook, centroids)
    step(quantizer, quantizer.codebook[3].square().sum())
    assert torch.equal(quantizer.codebook, quantizer.mapping(centroids) + centroids)
    assert (quantizer.codebook != centroids).any(1).all()


@pytest.mark.parametrize("options", MAPS)
def test_a_saved_correction_is_loaded_as_one(options):
    quantizer, twin = build(**options), build(**options)
    quantizer.initialize_codebook(torch.randn(K, D))
    step(quantizer, quantizer.codebook[3].square().sum())
    twin.load_state_dict(quantizer.state_dict())
    assert torch.equal(twin.codebook, quantizer.codebook)
    twin.load_state_dict(build(**options).state_dict())
    assert torch.equal(twin.codebook, build(**options).codebook)


def small_tokenizer(**options):
    torch.manual_seed(0)
    autoencoder = {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4}
    quantizer = {"name": "transvq", "codebook_size": K, "dim": D, "width": WIDTH, **options}
    return VQTokenizer(autoencoder, QUANTIZERS.resolve(quantizer, "quantizer"), image_size=16, channels=3)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("options", MAPS)
def test_a_tokenizer_is_saved_and_loaded_whole(options, warm, tmp_path):
    tokenizer = small_tokenizer(**options)
    if warm:
        tokenizer.quantizer.start_codebook(torch.randn(100, D), torch.Generator().manual_seed(0))
    step(tokenizer.quantizer, tokenizer.quantizer.codebook[3].square().sum())
    save_model(tokenizer.eval(), tmp_path / "tokenizer")
    loaded = VQTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert loaded.quantizer.residual.item() is warm
    assert fingerprint(loaded) == fingerprint(tokenizer)
    # Not bitwise: loaded memory is aligned differently, and matrix products round by alignment.
    torch.testing.assert_close(loaded.quantizer.codebook, tokenizer.quantizer.codebook, rtol=1e-5, atol=1e-6)


def test_the_fingerprint_tells_a_map_from_a_correction():
    tokenizer = small_tokenizer()
    before = fingerprint(tokenizer)
    tokenizer.quantizer.residual.fill_(True)
    assert fingerprint(tokenizer) != before
