"""EMA against a literal transcription of its update, and where its codes end."""

import pytest
import torch
import torch.nn.functional as F

from stage1_tokenizer.quantizers.ema import EMA
from stage1_tokenizer.quantizers.vq import VQ
from twostage.errors import TwoStageError
from twostage.registry import Registry

K, D, GAMMA, EPS = 7, 3, 0.8, 0.01


def winner(feature, codebook, distance):
    if distance == "cosine":
        return max(range(K), key=lambda k: F.cosine_similarity(feature, codebook[k], dim=0))
    return min(range(K), key=lambda k: (feature - codebook[k]).square().sum())


def literal_update(codebook, counts, sums, features, distance):
    """The update code by code: the features that a code wins, their number and their sum."""
    won = [winner(feature, codebook, distance) for feature in features]
    new_counts, new_sums, new_codebook = counts.clone(), sums.clone(), codebook.clone()
    for k in range(K):
        mine = [feature for feature, code in zip(features, won) if code == k]
        new_counts[k] = GAMMA * counts[k] + (1 - GAMMA) * len(mine)
        new_sums[k] = GAMMA * sums[k] + (1 - GAMMA) * sum(mine, torch.zeros(D))
    n = sum(new_counts)
    for k in range(K):
        new_codebook[k] = new_sums[k] / ((new_counts[k] + EPS) / (n + K * EPS) * n)
    return new_codebook, new_counts, new_sums, won


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_the_update_is_the_formula(distance):
    torch.manual_seed(0)
    quantizer = EMA(K, D, distance=distance, decay=GAMMA, epsilon=EPS).double()
    for _ in range(5):
        z = torch.randn(2, D, 3, 3, dtype=torch.float64) + 1
        features = z.movedim(1, -1).reshape(-1, D)
        before = quantizer.codebook.clone()
        codebook, counts, sums, won = literal_update(
            before, quantizer.running_counts.clone(), quantizer.running_sums.clone(), list(features), distance
        )
        output = quantizer(z)
        assert output.codes.flatten().tolist() == won
        torch.testing.assert_close(output.z_q.movedim(1, -1).reshape(-1, D), before[won], rtol=0, atol=1e-14)
        assert output.loss.item() == pytest.approx(0.25 * (features - before[won]).square().mean().item(), rel=1e-12)
        for actual, expected in [
            (quantizer.codebook, codebook),
            (quantizer.running_counts, counts),
            (quantizer.running_sums, sums),
        ]:
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    assert (quantizer.codebook - before).norm() > 0.01


def test_codes_come_to_rest_on_the_means_of_their_features():
    torch.manual_seed(0)
    quantizer, z = EMA(8, 4), torch.randn(8, 4, 8, 8)
    for _ in range(2000):
        output = quantizer(z)
    features = z.movedim(1, -1).reshape(-1, 4)
    codes = quantizer.eval()(z).codes.flatten()
    assert torch.equal(codes, output.codes.flatten())
    for code in codes.unique():
        torch.testing.assert_close(quantizer.codebook[code], features[codes == code].mean(0), rtol=1e-3, atol=1e-4)


def test_a_centroid_weighs_as_much_as_one_feature():
    quantizer = EMA(2, 1, decay=0.5, epsilon=1e-12)
    quantizer.initialize_codebook(torch.tensor([[0.0], [10.0]]))
    quantizer(torch.tensor([[1.0, 2.0, 3.0]])[:, None, None])
    assert quantizer.codebook[0].item() == pytest.approx((0 + 1 + 2 + 3) / 4)
    assert quantizer.codebook[1].item() == pytest.approx(10)


def test_centroids_that_win_nothing_stay_for_long_and_shrink_in_the_end():
    torch.manual_seed(0)
    quantizer, z = EMA(4, 2), torch.randn(4, 2, 8, 8)
    centroids = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [-50.0, 50.0]])
    quantizer.initialize_codebook(centroids)
    for _ in range(300):
        quantizer(z)
    torch.testing.assert_close(quantizer.codebook[1:], centroids[1:], rtol=1e-3, atol=1e-4)
    for _ in range(1500):
        quantizer(z)
    assert (quantizer.codebook.norm(dim=1) < z.norm(dim=1).max()).all()


def test_cold_codes_have_expected_squared_length_one():
    torch.manual_seed(0)
    assert EMA(4096, 16).codebook.square().sum(1).mean().item() == pytest.approx(1, rel=0.02)


def test_the_gradient_of_the_loss_is_the_commitment_and_there_is_nothing_to_optimise():
    torch.manual_seed(0)
    ema, vq = EMA(K, D, commitment_weight=0.7), VQ(K, D, commitment_weight=0.7)
    vq.codebook.data.copy_(ema.codebook)
    gradients = []
    for quantizer in (ema, vq):
        z = torch.randn(2, D, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        quantizer(z).loss.backward()
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients)
    assert list(ema.parameters()) == []


def test_the_estimator_that_moves_codes_by_gradient_is_refused():
    registry = Registry("quantizer", {"ema": "stage1_tokenizer.quantizers.ema:EMA"})
    options = {"name": "ema", "codebook_size": 4, "dim": 2}
    assert registry.resolve({**options, "straight_through": "rotation"}, "quantizer")["decay"] == 0.99
    with pytest.raises(TwoStageError, match=r"quantizer\.straight_through: 'modified' is not allowed"):
        registry.resolve({**options, "straight_through": "modified"}, "quantizer")
