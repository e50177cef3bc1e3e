"""NS-VQ and the modified straight-through estimator against numbers recorded from the published code."""

import pytest
import torch

from stage1_tokenizer.quantizers.nsvq import NSVQ
from stage1_tokenizer.quantizers.vq import VQ


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-5, atol=1e-6)


def check(quantizer, recorded):
    """One training step: values, losses and both gradients."""
    quantizer.initialize_codebook(recorded["codebook"])
    z = recorded["z"].requires_grad_()
    output = quantizer(z)
    (output.loss + (output.z_q * recorded["upstream"]).sum()).backward()
    assert torch.equal(output.codes, recorded["indices"])
    close(output.z_q.detach(), recorded["z_q"])
    close(output.loss.detach(), recorded["loss"])
    close(z.grad, recorded["grad_z"])
    close(quantizer.codebook.grad, recorded["grad_codebook"])


def official(case, **options):
    quantizer = NSVQ(case["K"], case["D"], **NSVQ.PRESETS["official"], commitment_weight=case["beta"], **options)
    quantizer.set_progress(0, case["epoch"])
    assert quantizer.tau == case["tau"]
    return quantizer


@pytest.mark.parametrize("epoch", [0, 1, 3])
@pytest.mark.parametrize("estimator", ["plain", "modified"])
def test_a_step_equals_the_published_code(epoch, estimator, golden):
    recorded, case = golden(f"nsvq_epoch{epoch}" + ("_modified_ste" if estimator == "modified" else ""))
    assert case["modified_ste"] == (estimator == "modified")
    check(official(case, straight_through=estimator), recorded)


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_step_with_injection_equals_the_published_code(epoch, golden):
    recorded, case = golden(f"nsvq_ste_injection_epoch{epoch}")
    check(official(case, propagation="straight_through"), recorded)


def test_the_modified_estimator_equals_the_published_code(golden):
    recorded, case = golden("vq_modified_ste")
    check(VQ(case["K"], case["D"], straight_through="modified", commitment_weight=case["beta"]), recorded)
