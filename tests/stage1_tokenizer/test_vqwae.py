"""VQ-WAE: its transport against exact answers, its loss against a literal transcription."""

import itertools
import math

import pytest
import torch

from stage1_tokenizer.quantizers import vqwae
from stage1_tokenizer.quantizers.vqwae import VQWAE, sinkhorn, transport

K, D, N = 6, 3, 30


@pytest.fixture
def features():
    return torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights():
    return torch.randn(K, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).log_softmax(0)


def costs(features, codebook):
    return (features[:, None] - codebook).square().mean(2)


def plan(cost, log_weights, epsilon, iterations=2000):
    """Sinkhorn as a textbook has it: scalings of the kernel, [n, K]."""
    kernel = torch.exp(-cost / epsilon)
    rows, columns = torch.full((len(cost),), 1 / len(cost), dtype=cost.dtype), log_weights.exp()
    v = torch.ones_like(columns)
    for _ in range(iterations):
        u = rows / (kernel @ v)
        v = columns / (kernel.T @ u)
    return u[:, None] * kernel * v


def entropic(cost, log_weights, epsilon):
    """<P, C> + eps KL(P || a p) of the optimal plan P."""
    p, product = plan(cost, log_weights, epsilon), log_weights.exp() / len(cost)
    return (p * cost).sum() + epsilon * (p * torch.log(p / product)).sum()


def test_marginals(features, weights):
    cost = costs(features, torch.randn(K, D).double()) / 0.3
    p = (weights + sinkhorn(cost, weights, 200) - cost).softmax(1) / N
    torch.testing.assert_close(p.sum(1), torch.full((N,), 1 / N).double())
    torch.testing.assert_close(p.sum(0), weights.exp(), rtol=1e-8, atol=1e-10)


def test_the_default_iterations_leave_little_mass_misplaced(features):
    quantizer = VQWAE(K, D)
    cost = costs(features, torch.randn(K, D).double())
    cost = cost / (quantizer.regularization * cost.mean())
    uniform = torch.zeros(K).double().log_softmax(0)
    p = (uniform + sinkhorn(cost, uniform, quantizer.iterations) - cost).softmax(1) / N
    assert (p.sum(0) - 1 / K).abs().sum() < 0.1


def test_the_value_is_the_entropic_transport(features, weights):
    cost = costs(features, torch.randn(K, D).double())
    expected = entropic(cost, weights, 0.2 * cost.mean())
    torch.testing.assert_close(transport(cost, weights, 0.2, 500), expected, rtol=1e-8, atol=1e-10)


def test_fewer_iterations_never_overestimate(features, weights):
    cost = costs(features, torch.randn(K, D).double())
    values = [transport(cost, weights, 0.05, n).item() for n in (1, 2, 5, 20, 500)]
    assert values == sorted(values)


def test_with_little_regularization_it_is_the_best_assignment():
    torch.manual_seed(0)
    cost = costs(torch.randn(5, D).double(), torch.randn(5, D).double())
    best = min(sum(cost[i, k].item() for i, k in enumerate(order)) / 5 for order in itertools.permutations(range(5)))
    found = transport(cost, torch.zeros(5).double().log_softmax(0), 2e-3, 5000)
    assert found.item() == pytest.approx(best, rel=0.02)


def test_gradients_are_those_of_the_optimal_value(features, weights):
    """Against differences of the value; eps is held, as it is a constant of the gradient."""
    codebook = torch.randn(K, D).double()
    cost = costs(features, codebook).requires_grad_()
    logits = weights.clone().requires_grad_()
    epsilon = 0.2 * cost.detach().mean()
    transport(cost, logits.log_softmax(0), 0.2, 500).backward()
    torch.testing.assert_close(cost.grad, plan(cost.detach(), weights, epsilon), rtol=1e-7, atol=1e-9)
    for k in range(K):
        step = 1e-5 * torch.eye(K).double()[k]
        up, down = (entropic(cost.detach(), (weights + s).log_softmax(0), epsilon) for s in (step, -step))
        assert logits.grad[k].item() == pytest.approx((up - down).item() / 2e-5, rel=1e-4, abs=1e-8)


def test_the_loss(features):
    torch.manual_seed(0)
    options = {"commitment_weight": 0.3, "transport_weight": 0.7, "uniformity_weight": 0.2, "iterations": 500}
    quantizer = VQWAE(K, D, regularization=0.2, **options).double()
    quantizer.weight_logits.data.normal_()
    output = quantizer.quantize(features)
    cost = costs(features, quantizer.codebook.detach())
    p = quantizer.weight_logits.softmax(0).detach()
    vq = cost.amin(1).mean()
    divergence = sum(x * math.log(x * K) for x in p.tolist())
    expected = 1.3 * vq + 0.7 * entropic(cost, p.log(), 0.2 * cost.mean()) + 0.2 * divergence
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.equal(output.codes, cost.argmin(1))
    assert quantizer.eval().quantize(features).loss.item() == pytest.approx(1.3 * vq.item(), rel=1e-9)


def test_transport_reaches_codes_that_win_nothing(features):
    torch.manual_seed(0)
    codebook = torch.randn(K, D).double()
    codebook[4:] += 9
    distances = []
    for weight in (0.0, 1.0):
        quantizer = VQWAE(K, D, transport_weight=weight).double()
        quantizer.codebook.data.copy_(codebook)
        descent = torch.optim.SGD([quantizer.codebook], lr=0.3)
        for _ in range(100):
            descent.zero_grad()
            quantizer.quantize(features).loss.backward()
            descent.step()
        distances.append(quantizer.codebook[4:].norm(dim=1).max().item())
    assert distances[0] > 14
    assert distances[1] < 5


def test_two_halves_have_the_gradients_of_the_whole(features, monkeypatch):
    """Processes are imitated one after the other; what each adds is averaged, as data-parallel training does."""
    torch.manual_seed(0)
    quantizer = VQWAE(K, D).double()
    scale = torch.ones(D, dtype=torch.float64, requires_grad=True)  # an encoder
    learned = [scale, *quantizer.parameters()]

    def gradients(rows):
        return torch.autograd.grad(quantizer.quantize(rows * scale).loss, learned)

    whole, halves = gradients(features), []
    monkeypatch.setattr(vqwae, "world_size", lambda: 2)
    monkeypatch.setattr(vqwae, "row_counts", lambda x: [N // 2, N // 2])
    monkeypatch.setattr(vqwae, "gather_rows", lambda x: features * scale.detach())
    for process in (0, 1):
        monkeypatch.setattr(vqwae, "rank", lambda process=process: process)
        halves.append(gradients(features.chunk(2)[process]))
    for one, first, second in zip(whole, *halves):
        torch.testing.assert_close((first + second) / 2, one, rtol=1e-10, atol=1e-12)


def test_above_the_bound_the_features_are_sampled(features, monkeypatch):
    monkeypatch.setattr(vqwae, "TRANSPORT_WORK", 1000 * K)
    many = torch.randn(5000, D).double()
    chosen = vqwae.sample(many, K)
    assert chosen.shape == (1000, D)
    assert len({tuple(row) for row in chosen.tolist()} & {tuple(row) for row in many.tolist()}) == 1000
    assert torch.equal(vqwae.sample(many[:1000], K), many[:1000])


def test_the_warm_start_forgets_the_weights():
    quantizer = VQWAE(K, D)
    quantizer.weight_logits.data.normal_()
    quantizer.initialize_codebook(torch.randn(K, D))
    assert torch.equal(quantizer.weight_logits, torch.zeros(K))
