import pytest
import torch

from stage1_tokenizer.quantizers import nearest as module
from stage1_tokenizer.quantizers.nearest import nearest, similarity


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_chunked_search_equals_the_full_matrix(distance, monkeypatch):
    torch.manual_seed(0)
    rows, table = torch.randn(101, 6, dtype=torch.float64), torch.randn(13, 6, dtype=torch.float64)
    expected = similarity(rows, table, distance).argmax(1)
    monkeypatch.setattr(module, "WORKSPACE", 30)
    assert torch.equal(nearest(rows, table, distance), expected)


def test_similarity_is_minus_the_squared_distance_or_the_cosine():
    torch.manual_seed(0)
    rows, table = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(similarity(rows, table, "l2"), -torch.cdist(rows, table).square())
    cosine = torch.nn.functional.cosine_similarity(rows[:, None], table[None], dim=2)
    torch.testing.assert_close(similarity(rows, table, "cosine"), cosine)
