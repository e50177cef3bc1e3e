import torch
import torch.nn.functional as F

from stage1_tokenizer.quantizers.fc import FC


def test_the_length_of_a_feature_changes_nothing():
    torch.manual_seed(0)
    quantizer, z = FC(16, 4), torch.randn(2, 4, 3, 3)
    near, far = quantizer(z), quantizer(100 * z)
    assert torch.equal(near.codes, far.codes)
    torch.testing.assert_close(near.z_q, far.z_q)
    torch.testing.assert_close(near.loss, far.loss)


def test_the_loss_is_that_of_unit_vectors():
    torch.manual_seed(0)
    quantizer, rows = FC(16, 4), torch.randn(10, 4)
    output = quantizer.quantize(rows)
    chosen = F.normalize(quantizer.vectors[output.codes], dim=1)
    torch.testing.assert_close(output.loss, 1.25 * (F.normalize(rows, dim=1) - chosen).square().mean())
    torch.testing.assert_close(output.z_q.norm(dim=1), torch.ones(10))
    assert torch.equal(output.codes, (F.normalize(rows, dim=1) @ F.normalize(quantizer.vectors, dim=1).T).argmax(1))
