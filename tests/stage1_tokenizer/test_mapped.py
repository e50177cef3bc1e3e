"""The mapped codebook that is kept in eval is always that of the present weights."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from stage1_tokenizer.quantizers.simvq import SimVQ
from stage1_tokenizer.quantizers.transvq import TransVQ

K, D = 16, 4


KINDS = {"simvq": lambda: SimVQ(K, D), "transvq": lambda: TransVQ(K, D, width=8)}


@pytest.fixture(params=KINDS)
def build(request):
    torch.manual_seed(0)
    return KINDS[request.param]


@pytest.fixture
def quantizer(build):
    return build().eval()


def train_one_step(quantizer):
    descent = torch.optim.SGD(quantizer.parameters(), lr=0.5)
    quantizer.mapped().square().sum().backward()
    descent.step()


def train_as_usual(quantizer):
    quantizer.train()
    train_one_step(quantizer)
    quantizer.eval()


def average_into(quantizer):
    """How averages of weights are copied in: past the version counters."""
    for parameter in quantizer.parameters():
        parameter.data.copy_(parameter.data * 1.5)


def replace_twice(quantizer):
    """The second time the memory may be the first's, and so the address and the version."""
    for _ in range(2):
        for parameter in quantizer.parameters():
            parameter.data = parameter.data * 1.5


def in_inference_mode(quantizer):
    with torch.inference_mode():
        for parameter in quantizer.parameters():
            parameter.mul_(1.5)


CHANGES = [
    train_one_step,
    train_as_usual,
    average_into,
    replace_twice,
    in_inference_mode,
    lambda quantizer: quantizer.load_state_dict({k: v * 2 for k, v in quantizer.state_dict().items()}),
    lambda quantizer: quantizer.load_state_dict({k: v * 2 for k, v in quantizer.state_dict().items()}, assign=True),
    lambda quantizer: quantizer.initialize_codebook(torch.randn(K, D)),
    lambda quantizer: quantizer.base.mul_(2),
    lambda quantizer: quantizer.double(),
]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_a_changed_codebook(quantizer, change, inference):
    with torch.inference_mode() if inference else nullcontext():
        before = quantizer.codebook
        assert torch.equal(before, quantizer.mapped())
    change(quantizer)
    with torch.inference_mode() if inference else nullcontext():
        after = quantizer.codebook
        assert not torch.equal(after, before)
        assert torch.equal(after, quantizer.mapped())


def test_the_buffers_of_the_map_count_too(quantizer):
    quantizer.mapping = nn.BatchNorm1d(D).eval()
    before = quantizer.codebook
    quantizer.mapping.running_mean += 1
    torch.testing.assert_close(quantizer.codebook, before - 1)


def test_nothing_is_computed_twice_for_the_same_weights(quantizer):
    calls = []
    quantizer.mapping.register_forward_hook(lambda *_: calls.append(1))
    z = torch.randn(2, D, 3, 3)
    codes = quantizer(z).codes
    quantizer.train().eval()
    quantizer.decode(codes)
    with torch.inference_mode():
        quantizer(z)
    assert len(calls) == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda quantizer: pickle.loads(pickle.dumps(quantizer))])
def test_copies_go_their_own_way(quantizer, copied):
    before = quantizer.codebook
    twin = copied(quantizer)
    assert torch.equal(twin.codebook, before)
    train_one_step(twin)
    assert torch.equal(twin.codebook, twin.mapped())
    assert not torch.equal(twin.codebook, before)
    assert quantizer.codebook is before


def test_what_inference_mode_kept_can_be_trained_against(quantizer):
    with torch.inference_mode():
        quantizer(torch.randn(2, D, 3, 3))
    weight = torch.ones(D, requires_grad=True)
    (quantizer.codebook * weight).sum().backward()
    assert weight.grad.abs().sum() > 0


def test_built_in_inference_mode(build):
    with torch.inference_mode():
        quantizer = build().eval()
        before = quantizer.codebook
        for parameter in quantizer.parameters():
            parameter.mul_(2)
        assert not torch.equal(quantizer.codebook, before)
        assert torch.equal(quantizer.codebook, quantizer.mapped())


def test_in_training_the_codebook_has_a_gradient_and_in_eval_none(quantizer):
    assert not quantizer.codebook.requires_grad
    assert quantizer.train().codebook.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_the_codebook_is_float32_whatever_the_autocast(quantizer, training):
    codes = torch.randint(K, (2, 3, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = quantizer.train(training).decode(codes)
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors.movedim(1, -1), quantizer.mapped()[codes])


def test_decode_in_an_autocast_region_is_what_the_forward_pass_gave(quantizer):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = copy.deepcopy(quantizer).decode(torch.arange(K).reshape(1, 4, 4))
    output = quantizer(decoded)
    assert torch.equal(output.codes.flatten(), torch.arange(K))
    assert torch.equal(output.z_q, decoded)
