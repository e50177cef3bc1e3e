"""Laws of every registered quantiser."""

import copy

import pytest
import torch

from stage1_tokenizer.quantizers import QUANTIZERS

K, D = 16, 4


@pytest.fixture(params=list(QUANTIZERS))
def quantizer(request):
    torch.manual_seed(0)
    built = QUANTIZERS[request.param](K, D)
    built.initialize_codebook(torch.randn(K, D))
    return built


@pytest.fixture
def z():
    return torch.randn(3, D, 5, 4, generator=torch.Generator().manual_seed(1))


def test_shapes_and_dtypes(quantizer, z):
    output = quantizer(z)
    assert output.z_q.shape == z.shape
    assert output.codes.shape == (3, 5, 4)
    assert output.codes.dtype == torch.int64
    assert output.loss.shape == ()
    assert {"usage", "perplexity"} <= set(output.metrics)
    assert not any(value.requires_grad for value in output.metrics.values())


def test_eval_gives_the_looked_up_vectors_bitwise(quantizer, z):
    output = quantizer.eval()(z)
    assert torch.equal(output.z_q, quantizer.decode(output.codes).to(z.dtype))
    assert torch.equal(quantizer.decode(output.codes).movedim(1, -1), quantizer.codebook[output.codes])


def test_codes_are_in_range(quantizer, z):
    codes = quantizer(z).codes
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


def test_straight_through_gradient_reaches_z_and_the_loss_reaches_the_codebook(quantizer, z):
    z.requires_grad_()
    output = quantizer(z)
    weight = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((output.z_q * weight).sum(), z, retain_graph=True)
    torch.testing.assert_close(gradient, weight)
    output.loss.backward()
    assert quantizer.codebook.grad.abs().sum() > 0
    assert z.grad.abs().sum() > 0


def test_bfloat16_in_is_bfloat16_out_with_float32_distances(quantizer, z):
    quantizer.eval()
    half = z.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = quantizer(half)
    assert output.z_q.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    assert torch.equal(output.codes, quantizer(half.float()).codes)


def test_state_dict_round_trip(quantizer, z):
    quantizer(z)
    twin = type(quantizer)(K, D)
    twin.load_state_dict(quantizer.state_dict())
    torch.manual_seed(5)
    first = quantizer(z)
    torch.manual_seed(5)
    second = twin(z)
    assert torch.equal(first.loss, second.loss)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


def test_initialize_codebook_sets_the_codebook(quantizer):
    centroids = torch.randn(K, D)
    quantizer.initialize_codebook(centroids)
    assert torch.equal(quantizer.codebook, centroids)


@pytest.mark.parametrize("value", [0.0, 1e4, 1e-6])
def test_finite_for_extreme_inputs(quantizer, value):
    z = torch.full((2, D, 4, 4), value, requires_grad=True)
    output = quantizer(z)
    (output.loss + output.z_q.sum()).backward()
    assert output.loss.isfinite()
    assert z.grad.isfinite().all()
    assert quantizer.codebook.isfinite().all()


@pytest.mark.parametrize("name", list(QUANTIZERS))
@pytest.mark.parametrize("size", [1, 50])
def test_one_code_and_more_codes_than_features(name, size):
    quantizer = QUANTIZERS[name](size, D)
    output = quantizer(torch.randn(1, D, 2, 3, requires_grad=True))
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.codes.max() < size


def test_wrong_width_is_refused(quantizer):
    with pytest.raises(ValueError, match=r"shape \(2, 5, 3, 3\).*\[b, 4, h, w\]"):
        quantizer(torch.randn(2, 5, 3, 3))
