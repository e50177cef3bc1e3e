import pytest
import torch

from stage1_tokenizer.quantizers.multichannel import Multichannel
from stage1_tokenizer.quantizers.nearest import nearest
from twostage.errors import TwoStageError


def test_parts_are_quantised_one_by_one_with_one_codebook():
    torch.manual_seed(0)
    quantizer = Multichannel(16, 6, parts=3).eval()
    quantizer.initialize_codebook(torch.randn(16, 2))
    z = torch.randn(2, 6, 3, 4)
    codes = quantizer(z).codes
    assert codes.shape == (2, 3, 3, 4)
    for part in range(3):
        rows = z[:, 2 * part : 2 * part + 2].movedim(1, -1).flatten(0, 2)
        assert torch.equal(codes[:, part].flatten(), nearest(rows, quantizer.codebook, "l2"))


def test_published_size_gives_four_codes_a_position():
    codes = Multichannel(1024, 256).eval()(torch.randn(1, 256, 16, 16)).codes
    assert codes.shape == (1, 4, 16, 16)


def test_width_that_does_not_divide_is_refused():
    with pytest.raises(TwoStageError, match=r"^dim: 6 is not allowed; allowed: a multiple of parts \(4\)$"):
        Multichannel(16, 6)
