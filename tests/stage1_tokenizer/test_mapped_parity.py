"""Mapped codebooks and the rotation trick against numbers recorded from the published code."""

import pytest
import torch

from stage1_tokenizer.quantizers.simvq import SimVQ
from stage1_tokenizer.quantizers.transvq import TransVQ

TRANSFORMER = {
    "in_proj": "inward",
    "pos_emb.weight": "positions.table",
    "blocks.0.norm1": "block.attention.0",
    "blocks.0.attn.to_q": "block.attention.1.query",
    "blocks.0.attn.to_k": "block.attention.1.key",
    "blocks.0.attn.to_v": "block.attention.1.value",
    "blocks.0.attn.to_out": "block.attention.1.out",
    "blocks.0.norm2": "block.mlp.0",
    "blocks.0.ffn.fc1": "block.mlp.1",
    "blocks.0.ffn.fc2": "block.mlp.3",
    "norm": "norm",
    "out_proj": "outward",
}
"""What the published code calls a layer or parameter -> what it is called here."""

KINDS = {
    "simvq": (SimVQ, {}, {"": ""}),
    "mlp": (TransVQ, {"mapping": "mlp", "width": 16}, {"0": "inward", "2": "outward"}),
    "transvq": (TransVQ, {**TransVQ.PRESETS["official"], "width": 16}, TRANSFORMER),
}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-5, atol=1e-6)


def named(recorded, prefix, names):
    """The recorded tensors whose name starts with prefix, under our names."""
    found = {}
    for key in (key.removeprefix(prefix) for key in recorded if key.startswith(prefix)):
        theirs = max((name for name in names if key.startswith(name)), key=len)
        found[names[theirs] + key.removeprefix(theirs)] = recorded[prefix + key]
    return found


@pytest.mark.parametrize("trick", ["", "_rotation_trick"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_equals_the_published_code(kind, trick, golden):
    recorded, case = golden(kind + trick)
    quantizer_class, options, names = KINDS[kind]
    quantizer = quantizer_class(
        case["K"],
        case["D"],
        straight_through="rotation" if case["rotation_trick"] else "plain",
        commitment_weight=case["input_commit_weight"],
        **options,
    )
    quantizer.base.copy_(recorded["state.frozen_codebook"])
    quantizer.mapping.load_state_dict(named(recorded, "state.code_transform.", names))
    z = recorded["z"].requires_grad_()
    output = quantizer(z)
    (output.loss + (output.z_q * recorded["upstream"]).sum()).backward()
    close(quantizer.codebook.detach(), recorded["codebook"])
    assert torch.equal(output.codes, recorded["indices"])
    close(output.z_q.detach(), recorded["z_q"])
    close(output.loss.detach(), recorded["loss"])
    close(z.grad, recorded["grad_z"])
    gradients = named(recorded, "grad.code_transform.", names)
    assert gradients.keys() == dict(quantizer.mapping.named_parameters()).keys()
    for name, parameter in quantizer.mapping.named_parameters():
        close(parameter.grad, gradients[name])
