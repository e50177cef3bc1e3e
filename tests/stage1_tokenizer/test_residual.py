"""Residual quantisation: from coarse to fine, and what its stages may be."""

import pytest
import torch

from stage1_tokenizer.quantizers import INNER, QUANTIZERS
from stage1_tokenizer.quantizers.nearest import nearest
from stage1_tokenizer.quantizers.residual import Residual
from twostage.errors import TwoStageError

K, D = 16, 4


def features(seed=0, n=512):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def started(stages=3, **options):
    torch.manual_seed(0)
    quantizer = Residual(K, D, stages=stages, **options)
    quantizer.start_codebook(features(), torch.Generator().manual_seed(1))
    return quantizer


def test_every_stage_quantises_what_the_stages_before_left_over():
    quantizer = started().eval()
    codes = quantizer.quantize(features()).codes
    left = features()
    for stage, table in enumerate(quantizer.codebook):
        assert torch.equal(codes[:, stage], nearest(left, table, "l2"))
        left = left - table[codes[:, stage]]


def test_every_stage_lowers_the_error():
    quantizer = started().eval()
    codes, errors = quantizer.quantize(features()).codes, []
    for stages in (1, 2, 3):
        vectors = sum(quantizer.codebook[i][codes[:, i]] for i in range(stages))
        errors.append((vectors - features()).square().mean().item())
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_the_gradient_to_the_features_is_the_identity():
    z = features().requires_grad_()
    weight = torch.randn_like(z)
    (started().quantize(z).z_q * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)


def test_the_training_value_is_the_sum_of_the_stages():
    quantizer = started()
    output = quantizer.quantize(features())
    torch.testing.assert_close(output.z_q, quantizer.lookup(output.codes), rtol=1e-5, atol=1e-5)


def test_entries_of_all_stages_are_counted_apart():
    quantizer = started(stages=2)
    counts = quantizer.count(torch.tensor([[0, 0], [0, 1]]))
    assert counts.nonzero().flatten().tolist() == [0, K, K + 1]
    assert counts.sum() == 4
    maps = torch.tensor([[0, 0], [0, 1]]).T.reshape(1, 2, 1, 2)
    assert torch.equal(quantizer.count(maps), counts)


@pytest.mark.parametrize("name", list(INNER))
def test_stages_of_every_kind_learn(name):
    torch.manual_seed(0)
    quantizer = Residual(K, D, stages=2, inner={"name": name})
    z = torch.randn(2, D, 4, 4, requires_grad=True)
    quantizer.set_progress(0, 0)
    output = quantizer(z)
    (output.loss + (output.z_q * torch.randn_like(z)).sum()).backward()
    assert z.grad.isfinite().all() and z.grad.abs().sum() > 0
    for key, parameter in quantizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key
    quantizer.eval()
    assert torch.equal(quantizer(z).z_q, quantizer.decode(quantizer(z).codes))


def test_options_of_the_stages_are_checked_with_their_key():
    with pytest.raises(TwoStageError, match=r"^quantizer\.inner\.decay: unknown key; allowed: .*commitment_weight"):
        QUANTIZERS.resolve(
            {"name": "residual", "codebook_size": 8, "dim": 4, "inner": {"name": "vq", "decay": 1}}, "quantizer"
        )
    with pytest.raises(TwoStageError, match=r"^quantizer\.inner\.name: 'residual' is not a quantizer"):
        QUANTIZERS.resolve(
            {"name": "residual", "codebook_size": 8, "dim": 4, "inner": {"name": "residual"}}, "quantizer"
        )


def test_options_of_the_stages_are_written_out():
    resolved = QUANTIZERS.resolve({"name": "residual", "codebook_size": 8, "dim": 4}, "quantizer")
    assert resolved["inner"]["name"] == "vq"
    assert resolved["inner"]["commitment_weight"] == 0.25
    preset = {"name": "multichannel", "codebook_size": 8, "dim": 4, "inner": {"name": "cvq", "preset": "official"}}
    assert QUANTIZERS.resolve(preset, "quantizer")["inner"]["anchor"] == "closest"
