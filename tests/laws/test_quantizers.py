"""Laws of every registered quantiser."""

import copy

import pytest
import torch
import torch.nn.functional as F

from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.quantizers.nearest import nearest
from twostage.errors import TwoStageError

K, D = 16, 4
SPHERICAL = ("fc",)
"""Quantisers whose codes are of length 1."""


def build(name, size=K):
    torch.manual_seed(0)
    return QUANTIZERS[name](size, D)


def train_a_little(quantizer, z, steps=3):
    """A few steps of gradient descent, so that running state is no longer what it was at the start."""
    descent = torch.optim.SGD(quantizer.parameters(), lr=0.1) if list(quantizer.parameters()) else None
    for step in range(steps):
        quantizer.set_progress(step, step)
        output = quantizer(z.detach().requires_grad_())
        (output.loss + output.z_q.square().mean()).backward()
        if descent is not None:
            descent.step()
            descent.zero_grad()


@pytest.fixture(params=list(QUANTIZERS))
def quantizer(request, z):
    built = build(request.param)
    if built.learns_codebook:
        built.initialize_codebook(torch.randn(built.codebook.shape))
    train_a_little(built, z)
    return built


@pytest.fixture
def z():
    return torch.randn(3, D, 5, 4, generator=torch.Generator().manual_seed(1))


def test_shapes_and_dtypes(quantizer, z):
    output = quantizer(z)
    assert output.z_q.shape == z.shape
    assert output.codes.shape == ((3, 5, 4) if quantizer.maps == 1 else (3, quantizer.maps, 5, 4))
    assert output.codes.dtype == torch.int64
    assert output.loss.shape == ()
    assert {"usage", "perplexity"} <= set(output.metrics)
    assert all(value.shape == () and not value.requires_grad for value in output.metrics.values())
    assert quantizer.count(output.codes).shape == (quantizer.entries,)
    assert quantizer.codebook.flatten(0, -2).shape[0] == quantizer.entries


def test_eval_gives_the_looked_up_vectors_bitwise(quantizer, z):
    output = quantizer.eval()(z)
    assert torch.equal(output.z_q, quantizer.decode(output.codes).to(z.dtype))


def test_decode_is_the_lookup_in_the_codebook(quantizer, z):
    codes, table = quantizer.eval()(z).codes, quantizer.codebook
    if table.ndim == 3:  # residual: the sum over stages
        expected = sum(table[stage][codes[:, stage]] for stage in range(quantizer.maps))
    elif quantizer.maps > 1:  # parts side by side
        expected = torch.cat([table[codes[:, part]] for part in range(quantizer.maps)], dim=-1)
    else:
        expected = table[codes]
    torch.testing.assert_close(quantizer.decode(codes).movedim(1, -1), expected, rtol=0, atol=0)


def test_codes_are_in_range(quantizer, z):
    for codes in (quantizer(z).codes, quantizer.eval()(z).codes):
        assert codes.min() >= 0
        assert codes.max() < K


def test_eval_changes_nothing_and_is_deterministic(quantizer, z):
    quantizer.eval()
    before = copy.deepcopy(quantizer.state_dict())
    first, second = quantizer(z), quantizer(z)
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.loss, second.loss)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_items_do_not_depend_on_their_batch(quantizer, z):
    quantizer.eval()
    whole = quantizer(z).codes
    assert torch.equal(torch.cat([quantizer(one[None]).codes for one in z]), whole)


def test_gradients_reach_the_encoder_and_all_that_learns(quantizer, z):
    z.requires_grad_()
    output = quantizer(z)
    (output.loss + (output.z_q * torch.randn_like(z)).sum()).backward()
    assert z.grad.abs().sum() > 0
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_bfloat16_in_is_bfloat16_out_with_float32_distances(quantizer, z):
    quantizer.eval()
    half = z.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = quantizer(half)
    assert output.z_q.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    assert torch.equal(output.codes, quantizer(half.float()).codes)
    assert torch.equal(output.z_q, quantizer.decode(output.codes).bfloat16())


def test_weights_stay_float32_when_all_else_becomes_bfloat16(quantizer, z):
    half, codes = z.bfloat16(), quantizer.eval()(z.bfloat16()).codes
    output = quantizer.to(torch.bfloat16)(half)
    assert torch.equal(output.codes, codes)
    assert output.z_q.dtype == torch.bfloat16
    assert quantizer.codebook.dtype == torch.float32


def test_bfloat16_trains(quantizer, z):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = quantizer(z.bfloat16().requires_grad_())
    assert output.z_q.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
def test_state_dict_round_trip(quantizer, z, training):
    """What a twin with the same state does next is the same: schedules, statistics and caches are in the state."""
    name = next(name for name in QUANTIZERS if QUANTIZERS[name] is type(quantizer))
    twin = build(name).train(training)
    twin(z)  # whatever it caches must not outlive the load
    twin.load_state_dict(quantizer.state_dict())
    quantizer.train(training)
    outputs = []
    for each in (quantizer, twin):
        torch.manual_seed(5)
        outputs.append(each(z))
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    assert torch.equal(outputs[0].codes, outputs[1].codes)
    assert quantizer.state_dict().keys() == twin.state_dict().keys()
    for key, value in quantizer.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key


def test_resumed_is_uninterrupted(quantizer, z):
    name = next(name for name in QUANTIZERS if QUANTIZERS[name] is type(quantizer))
    twin = build(name)
    twin.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    for each in (quantizer, twin):
        torch.manual_seed(7)
        train_a_little(each, z)
    for key, value in quantizer.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if QUANTIZERS[name].learns_codebook])
def test_the_warm_start_makes_the_centroids_the_codebook(name, z):
    quantizer = build(name)
    train_a_little(quantizer, z)
    centroids = torch.randn(quantizer.codebook.shape)
    quantizer.initialize_codebook(centroids)
    expected = F.normalize(centroids, dim=-1) if name in SPHERICAL else centroids
    torch.testing.assert_close(quantizer.codebook.detach(), expected, rtol=1e-5, atol=1e-6)
    quantizer.eval()
    torch.testing.assert_close(quantizer.codebook.detach(), expected, rtol=1e-5, atol=1e-6)
    if quantizer.maps == 1:
        rows = z.movedim(1, -1).flatten(0, 2)
        assert torch.equal(quantizer(z).codes.flatten(), nearest(rows, centroids, quantizer.distance))


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if QUANTIZERS[name].learns_codebook])
def test_the_warm_start_lowers_the_distortion_and_uses_all_codes(name):
    quantizer = build(name)
    z = torch.randn(4, D, 16, 16, generator=torch.Generator().manual_seed(2))
    rows = z.movedim(1, -1).flatten(0, 2)
    quantizer.start_codebook(rows, torch.Generator().manual_seed(3))
    output = quantizer.eval()(z)
    target = F.normalize(z, dim=1) if name in SPHERICAL else z
    assert output.metrics["usage"] == 1
    assert (output.z_q - target).square().mean() < 0.5 * target.var()


@pytest.mark.parametrize("value", [0.0, 1e4, 1e-6])
def test_finite_for_extreme_inputs(quantizer, value):
    z = torch.full((2, D, 4, 4), value, requires_grad=True)
    output = quantizer(z)
    (output.loss + output.z_q.sum()).backward()
    assert output.loss.isfinite()
    assert output.z_q.isfinite().all()
    assert z.grad.isfinite().all()
    assert quantizer.codebook.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in quantizer.parameters())


@pytest.mark.parametrize("name", list(QUANTIZERS))
@pytest.mark.parametrize("size", [1, 64])
def test_one_code_and_more_codes_than_features(name, size):
    try:
        quantizer = build(name, size)
    except TwoStageError as error:
        assert size == 1 and name in ("fsq", "lfq")
        assert str(error).startswith("codebook_size: 1 is not allowed; allowed: ")
        return
    output = quantizer(torch.randn(1, D, 2, 3, requires_grad=True))
    (output.loss + output.z_q.sum()).backward()
    assert output.loss.isfinite()
    assert output.codes.max() < size


def test_wrong_width_is_refused(quantizer):
    with pytest.raises(ValueError, match=r"shape \(2, 5, 3, 3\).*\[b, 4, h, w\]"):
        quantizer(torch.randn(2, 5, 3, 3))
