"""What the quantisers share: the two terms of VQ's loss."""

import pytest
import torch
import torch.nn.functional as F

from stage1_tokenizer.quantizers.base import vq_terms
from stage1_tokenizer.quantizers.straight_through import ESTIMATORS


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("weights", [(0.25, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_terms_are_two_mean_squared_errors_with_a_gradient_to_one_side_each(pair, weights):
    features, vectors = pair
    ours = vq_terms(features, vectors)
    expected = F.mse_loss(features, vectors.detach()), F.mse_loss(vectors, features.detach())
    torch.testing.assert_close(ours, expected)
    gradients = [
        torch.autograd.grad(weights[0] * commitment + weights[1] * codebook, pair, allow_unused=True)
        for commitment, codebook in (ours, expected)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_frozen_side_gets_no_gradient(pair):
    features, vectors = pair[0], pair[1].detach()
    commitment, codebook = vq_terms(features, vectors)
    (commitment + codebook).backward()
    torch.testing.assert_close(features.grad, 2 * (features - vectors).detach() / features.numel())


def test_plain_straight_through_is_the_vectors_with_the_gradient_of_the_features(pair):
    features, vectors = pair
    z_q = ESTIMATORS["plain"](features, vectors, torch.tensor(7))
    assert torch.equal(z_q, vectors)
    upstream = torch.randn(7, 3, dtype=torch.float64)
    to_features, to_vectors = torch.autograd.grad(z_q, pair, upstream, allow_unused=True)
    assert torch.equal(to_features, upstream)
    assert to_vectors is None
