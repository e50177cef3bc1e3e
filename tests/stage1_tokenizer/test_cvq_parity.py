"""CVQ against numbers recorded from the published code: values, gradients, codebook updates."""

import pytest
import torch

from stage1_tokenizer.quantizers.cvq import CVQ

CASES = [
    f"cvq_{distance}_closest{contrastive}{offline}"
    for distance in ("l2", "cos")
    for contrastive in ("", "_contrastive")
    for offline in ("", "_offline")
] + ["cvq_l2_closest_more_codes_than_features"]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_training_steps_equal_the_published_code(name, golden):
    recorded, case = golden(name)
    quantizer = CVQ(
        case["K"],
        case["D"],
        distance={"l2": "l2", "cos": "cosine"}[case["distance"]],
        anchor=case["anchor"],
        update="offline" if case["first_batch"] else "online",
        contrastive_weight=case["contrastive_weight"],
        temperature=case["temperature"],
        decay=case["gamma"],
        commitment_weight=case["beta"],
    )
    quantizer.codebook.data.copy_(recorded["codebook_0"])
    descent = torch.optim.SGD(quantizer.parameters(), lr=case["lr"])
    for step in range(case.get("steps", 4)):
        expected = {key.split(".", 1)[1]: value for key, value in recorded.items() if key.startswith(f"step{step}.")}
        z = expected["z"].requires_grad_()
        output = quantizer(z)
        (output.loss + (output.z_q * expected["upstream"]).sum()).backward()
        assert torch.equal(output.codes, expected["indices"])
        close(output.z_q.detach(), expected["z_q"])
        close(output.loss.detach(), expected["loss"])
        close(output.metrics["perplexity"], expected["perplexity"])
        close(z.grad, expected["grad_z"])
        close(quantizer.codebook.grad, expected["grad_codebook"])
        if "usage_after_forward" in expected:
            close(quantizer.average_usage, expected["usage_after_forward"])
        close(quantizer.codebook.detach(), expected["codebook_after_forward"])
        descent.step()
        descent.zero_grad()
        close(quantizer.codebook.detach(), expected["codebook_after_sgd"])
    if "eval.z" in recorded:
        quantizer.eval()
        output = quantizer(recorded["eval.z"])
        close(output.z_q.detach(), recorded["eval.z_q"])
        close(output.loss.detach(), recorded["eval.loss"])
