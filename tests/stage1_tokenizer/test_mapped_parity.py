"""Mapped codebooks and the rotation trick against numbers recorded from the published code."""

import pytest
import torch

from stage1_tokenizer.quantizers.simvq import SimVQ


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trick", ["", "_rotation_trick"])
def test_simvq_step_equals_the_published_code(trick, golden):
    recorded, case = golden(f"simvq{trick}")
    quantizer = SimVQ(
        case["K"],
        case["D"],
        straight_through="rotation" if case["rotation_trick"] else "plain",
        commitment_weight=case["input_commit_weight"],
    )
    quantizer.base.copy_(recorded["state.frozen_codebook"])
    quantizer.mapping.weight.data.copy_(recorded["state.code_transform.weight"])
    z = recorded["z"].requires_grad_()
    output = quantizer(z)
    (output.loss + (output.z_q * recorded["upstream"]).sum()).backward()
    close(quantizer.codebook.detach(), recorded["codebook"])
    assert torch.equal(output.codes, recorded["indices"])
    close(output.z_q.detach(), recorded["z_q"])
    close(output.loss.detach(), recorded["loss"])
    close(z.grad, recorded["grad_z"])
    close(quantizer.mapping.weight.grad, recorded["grad.code_transform.weight"])
