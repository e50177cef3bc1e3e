import pytest
import torch
from PIL import Image

from twostage.pictures import principal_plane, save_codebook_health, save_projection


def test_the_principal_plane_is_that_of_the_singular_vectors():
    rows = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) + 3
    mean, plane, share = principal_plane(rows)
    values, vectors = torch.linalg.svd(rows - rows.mean(0))[1:]
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close((plane.T @ vectors[:2].T).abs(), torch.eye(2, dtype=torch.float64))
    assert share == pytest.approx((values[:2].square().sum() / values.square().sum()).item())
    assert (plane.gather(0, plane.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("far", [0.0, 1e6])
def test_a_projection_of_anything_can_be_drawn(tmp_path, dim, spread, far):
    codes = torch.randn(7, dim) * spread
    codes[0] += far
    save_projection(torch.randn(9, dim) * spread, codes, torch.tensor([0, 0, 0, 1, 1, 1, 1]), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert min(picture.size) > 200


def test_health_is_drawn_once_there_is_some(tmp_path):
    line = {"step": 1, "loss": 1.0}
    save_codebook_health([line], 16, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()
    window = {"window_usage": 0.5, "window_perplexity": 3.0, "dead_codes": 8, "codebook_moved": 0.0}
    pictures = []
    for extra in ({}, {"warnings": ["the codebook collapses"]}):
        save_codebook_health([line, {"step": 2, **window}, {"step": 3, **window, **extra}], 16, tmp_path / "p.png")
        pictures.append((tmp_path / "p.png").read_bytes())
    assert pictures[0] != pictures[1]  # the warning is marked
