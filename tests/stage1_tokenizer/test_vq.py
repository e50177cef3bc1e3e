import pytest
import torch
import torch.nn.functional as F

from stage1_tokenizer.quantizers.nearest import nearest
from stage1_tokenizer.quantizers.vq import VQ


@pytest.mark.parametrize(("weights", "beta", "gamma"), [({}, 0.25, 1.0), ({"codebook_weight": 0.1}, 0.25, 0.1)])
def test_each_weight_weighs_its_own_term(weights, beta, gamma):
    torch.manual_seed(0)
    quantizer = VQ(8, 4, **weights).double()
    quantizer.initialize_codebook(torch.randn(8, 4))
    features = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    quantizer.quantize(features).loss.backward()
    table = quantizer.codebook.detach().requires_grad_()
    vectors = F.embedding(nearest(features, table, "l2"), table)
    (towards_z,) = torch.autograd.grad(F.mse_loss(vectors, features.detach()), table)
    towards_c = 2 * (features - vectors).detach() / features.numel()
    torch.testing.assert_close(features.grad, beta * towards_c)
    torch.testing.assert_close(quantizer.codebook.grad, gamma * towards_z)
