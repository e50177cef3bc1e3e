"""Linear layers of one input as one: in every form and dtype what the layers are one by one."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from stage2_transformer.linear import Linear, Packed, fastest

LAYERS = {
    "one": lambda: [nn.Linear(12, 20, bias=False)],
    "three": lambda: [nn.Linear(12, width, bias=False) for width in (20, 4, 8)],
    "with biases": lambda: [nn.Linear(12, 20), nn.Linear(12, 4)],
    "transposed": lambda: [Conv1D(20, 12)],
}
FORMS = {
    "float64": (Linear, torch.float64, 1e-12),
    "float32": (Linear, torch.float32, 1e-5),
    "packed": (Packed, torch.float32, 1e-5),
    "packed bf16": (Packed, torch.bfloat16, 0.02),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_as_one_they_are_what_they_are_one_by_one(form, kind):
    made, dtype, tolerance = FORMS[form]
    if made is Packed and not torch.backends.mkldnn.is_available():
        pytest.skip("torch without oneDNN")
    layers = [layer.double() for layer in LAYERS[kind]()]
    for layer in layers:
        nn.init.normal_(layer.weight)
        if layer.bias is not None:
            nn.init.normal_(layer.bias)
    for rows in (1, 5, 33):
        x = torch.randn(rows, 2, 12, dtype=torch.float64)
        expected = torch.cat([layer(x) for layer in layers], dim=-1)
        found = made.of(*[layer.to(dtype) for layer in layers])(x.to(dtype))
        assert found.dtype == dtype
        deviation = (found.double() - expected).square().mean().sqrt()
        assert deviation < tolerance * expected.square().mean().sqrt()
        layers = [layer.double() for layer in layers]


def test_weights_are_packed_where_that_is_faster():
    packs = torch.backends.mkldnn.is_available()
    assert fastest(torch.zeros(1)) is (Packed if packs else Linear)
    assert fastest(torch.zeros(1, dtype=torch.bfloat16)) is (Packed if packs else Linear)
    assert fastest(torch.zeros(1, dtype=torch.float64)) is Linear
    assert fastest(torch.zeros(1, device="meta")) is Linear
