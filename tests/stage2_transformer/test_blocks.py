"""Attention by products is torch's attention."""

import pytest
import torch
import torch.nn.functional as F

from stage2_transformer.blocks import attend


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-12)]
)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("queries", [1, 5])
def test_attention_is_that_of_torch(dtype, tolerance, masked, queries):
    q, k, v = (torch.randn(2, 4, n, 8).to(dtype) for n in (queries, 7, 7))
    mask = (torch.arange(7) <= torch.arange(2, 2 + queries)[:, None]) if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask), expected, atol=tolerance, rtol=0)
