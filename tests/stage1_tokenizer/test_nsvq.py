"""NS-VQ against a literal transcription of the paper's equations; its schedule, replacement and frozen encoder."""

import copy

import pytest
import torch
import torch.nn.functional as F

from stage1_tokenizer.quantizers import nearest, nsvq
from stage1_tokenizer.quantizers.nsvq import NSVQ
from stage1_tokenizer.quantizers.vq import VQ

K, D, SHAPE = 12, 5, (2, 5, 4, 3)


def build(**options):
    torch.manual_seed(0)
    quantizer = NSVQ(options.pop("size", K), D, **options).double()
    quantizer.codebook.data.normal_()
    return quantizer


def draw(seed=1, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (mean + torch.randn(SHAPE, dtype=torch.float64, generator=generator)).requires_grad_()


def rows(z):
    return z.movedim(1, -1).flatten(0, 2)


def weights(kernel, distances, tau):
    """W_ik of all codes, the selected ones at 1."""
    if kernel == "rbf":
        found = torch.exp(-distances / tau)
    else:
        found = (0.01 * K * torch.softmax(-distances / tau, 1)).clamp(0, 1)
    found[torch.arange(len(distances)), distances.argmin(1)] = 1
    return found.detach()


def literal(z, c, kernel, tau, propagation, beta=0.25):
    """Loss and z_q of Eq. 13-18 and A14, with every N x K number in the autograd graph."""
    features = rows(z)
    distances = (features.detach()[:, None] - c[None]).square().sum(2)
    selected = distances.argmin(1)
    vectors, w = c[selected], weights(kernel, distances, tau)
    others = w.clone()
    others[torch.arange(len(w)), selected] = 0
    a = 2 / features.numel()
    z_q = features + a * vectors + ((1 - a) * vectors - features).detach()
    if propagation == "loss":
        embedding = (w * distances).sum() / features.numel()
    else:
        embedding = F.mse_loss(vectors, features.detach())
        z_q = z_q + others @ c - (others @ c).detach()
    return beta * F.mse_loss(features, vectors.detach()) + embedding, z_q


@pytest.mark.parametrize("workspace", [2**20, 7 * K, 1])
@pytest.mark.parametrize("propagation", ["loss", "straight_through"])
@pytest.mark.parametrize("kernel", ["rbf", "softmax"])
def test_a_step_is_equations_13_to_18(kernel, propagation, workspace, monkeypatch):
    monkeypatch.setattr(nearest, "WORKSPACE", workspace)
    monkeypatch.setattr(nearest, "FEWEST_ROWS", 1)
    quantizer, z = build(kernel=kernel, propagation=propagation, temperature=3.0), draw()
    quantizer.set_progress(7, 2)
    upstream = torch.randn(SHAPE, dtype=torch.float64)
    output = quantizer(z)
    (output.loss + (output.z_q * upstream).sum()).backward()

    twin, c = draw(), quantizer.codebook.detach().clone().requires_grad_()
    loss, z_q = literal(twin, c, kernel, 3.0 * 0.9**2, propagation)
    (loss + (z_q * rows(upstream)).sum()).backward()
    torch.testing.assert_close(output.loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(rows(output.z_q), z_q, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(z.grad, twin.grad, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(quantizer.codebook.grad, c.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("propagation", ["loss", "straight_through"])
def test_nothing_as_large_as_features_times_codes_is_held(propagation, monkeypatch):
    size, seen, kept = 64, [], []
    monkeypatch.setattr(nearest, "WORKSPACE", 2 * size)
    monkeypatch.setattr(nearest, "FEWEST_ROWS", 1)
    monkeypatch.setitem(nsvq.KERNELS, "rbf", lambda distances, tau: seen.append(distances.numel()) or distances)
    quantizer, z = build(size=size, propagation=propagation), draw()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        output = quantizer(z)
    (output.loss + output.z_q.sum()).backward()
    assert len(seen) == len(rows(z)) / 2
    assert max(seen) == 2 * size
    assert max(kept) <= max(size * D, z.numel())


@pytest.mark.parametrize("kernel", ["rbf", "softmax"])
def test_a_wide_kernel_moves_every_code_to_the_features_and_a_narrow_one_the_selected_only(kernel):
    for temperature in (1e3, 1e-6):
        quantizer, z = build(kernel=kernel, temperature=temperature), draw(mean=4.0)
        output = quantizer(z)
        output.loss.backward()
        selected = torch.bincount(output.codes.flatten(), minlength=K) > 0
        assert 0 < selected.sum() < K
        pull = (-quantizer.codebook.grad * (rows(z).mean(0) - quantizer.codebook)).sum(1)
        if temperature == 1e3:
            assert (pull > 1e-3).all()
        else:
            assert torch.equal(pull.abs() > 1e-20, selected)


def test_in_eval_the_loss_is_that_of_vq():
    quantizer, vq, z = build().eval(), VQ(K, D).double().eval(), draw()
    vq.initialize_codebook(quantizer.codebook.detach())
    assert quantizer(z).loss == vq(z).loss


def test_tau_is_one_at_first_and_a_tenth_less_after_every_epoch():
    quantizer, taus = NSVQ(K, D), []
    for step in range(6):
        quantizer.set_progress(step, step // 2)
        taus.append(quantizer(torch.randn(SHAPE)).metrics["temperature"].item())
    assert taus == pytest.approx([1, 1, 0.9, 0.9, 0.81, 0.81], rel=1e-15)
    quantizer.set_progress(0, 10**6)
    assert quantizer.tau == 1e-8


def test_tau_goes_on_where_the_state_was_saved_and_a_warm_start_does_not_turn_it_back():
    quantizer = build()
    quantizer.set_progress(50, 5)
    twin = build()
    twin.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    twin.initialize_codebook(quantizer.codebook.detach())
    assert twin.tau == quantizer.tau < 1
    assert twin(draw()).loss == quantizer(draw()).loss != build()(draw()).loss


PATIENCE = 3


def replacing(size=K, **options):
    """One code among the features, all others far away."""
    quantizer = build(size=size, replacement=PATIENCE, **options)
    quantizer.codebook.data[1:] += 1e3
    return quantizer


def test_codes_that_win_nothing_for_long_restart_at_recent_features():
    quantizer = replacing()
    before, batches = quantizer.codebook.detach().clone(), []
    for step in range(PATIENCE):
        quantizer.set_progress(step, 0)
        batches.append(rows(draw(step)).detach())
        quantizer(draw(step))
        assert torch.equal(quantizer.codebook, before)
    quantizer.set_progress(PATIENCE, 0)
    output = quantizer(draw(PATIENCE))
    assert torch.equal(quantizer.codebook[0], before[0])
    found = (quantizer.codebook[1:, None] == torch.cat(batches)[None]).all(2)
    assert (found.sum(1) == 1).all(), "every code is at a feature"
    assert (found.sum(0) <= 1).all(), "no two codes are at the same"
    assert output.metrics["usage"] > 0.5
    moved = quantizer.codebook.detach().clone()
    quantizer.set_progress(PATIENCE + 1, 0)
    quantizer(draw(9))
    assert torch.equal(quantizer.codebook, moved), "they have time to win"


def test_a_code_that_wins_now_and_then_stays():
    quantizer = build(size=2, replacement=PATIENCE)
    quantizer.codebook.data[0], quantizer.codebook.data[1] = 0.0, 100.0
    for step in range(12):
        quantizer.set_progress(step, 0)
        quantizer(draw(step, mean=100.0 * (step % PATIENCE == 0)))
        assert quantizer.codebook[1, 0] == 100
    quantizer.set_progress(12, 0)
    quantizer(draw(12))
    assert quantizer.codebook[1].abs().max() < 100 + 10


def test_the_reservoir_is_a_bounded_sample_of_the_last_steps():
    quantizer = replacing()
    for step in range(20):
        quantizer.set_progress(step, 0)
        quantizer(torch.full(SHAPE, float(step), dtype=torch.float64))
    reservoir = quantizer.replacement.reservoir
    assert reservoir.shape == (K, D)
    assert sorted(set(reservoir.flatten().tolist())) == [17, 18, 19]


def test_with_fewer_features_than_idle_codes_the_others_wait():
    quantizer = replacing(size=100)
    far = []
    for step in range(PATIENCE + 1):
        quantizer.set_progress(step, 0)
        quantizer(draw(step))
        far.append(int((quantizer.codebook > 100).any(1).sum()))
    assert far == [99, 99, 99, 99 - PATIENCE * rows(draw()).shape[0]]


def test_replacement_goes_on_exactly_where_it_was_saved_and_a_warm_start_begins_it_anew():
    quantizer = replacing()
    for step in range(PATIENCE):
        quantizer.set_progress(step, 0)
        quantizer(draw(step))
    twin, restarted = replacing(), replacing()
    twin.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    restarted.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    for each in (restarted, quantizer, twin):
        each.set_progress(PATIENCE, 0)
    centroids = quantizer.codebook.detach().clone()
    restarted.initialize_codebook(centroids)
    for each in (restarted, quantizer, twin):
        torch.manual_seed(5)
        each(draw(7))
    restarted.set_progress(PATIENCE + 1, 0)
    restarted(draw(8))
    assert torch.equal(restarted.codebook, centroids)
    assert not torch.equal(quantizer.codebook, centroids)
    for key, value in quantizer.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key


def test_in_eval_nothing_is_replaced():
    quantizer = replacing()
    quantizer(draw())
    quantizer.set_progress(50, 0)
    before = copy.deepcopy(quantizer.state_dict())
    quantizer.eval()(draw())
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


@pytest.mark.parametrize("propagation", ["loss", "straight_through"])
def test_a_frozen_encoder_gets_no_gradient_and_the_codes_learn_as_in_vq(propagation):
    quantizer, vq = build(freeze_encoder_at=5, propagation=propagation), VQ(K, D).double()
    vq.initialize_codebook(quantizer.codebook.detach())
    encoder, decoder = torch.nn.Conv2d(D, D, 1).double(), torch.nn.Conv2d(D, D, 1).double()
    descent = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=0.1, weight_decay=0.5)
    for step, learns in ((4, True), (5, False), (6, False)):
        quantizer.set_progress(step, 0)
        start = copy.deepcopy([encoder.state_dict(), decoder.state_dict()])
        output = quantizer(encoder(draw(step)))
        (output.loss + decoder(output.z_q).square().mean()).backward()
        descent.step()
        assert torch.equal(encoder.weight, start[0]["weight"]) != learns
        assert not torch.equal(decoder.weight, start[1]["weight"])
        if not learns:
            vq(encoder(draw(step))).loss.backward()
            torch.testing.assert_close(quantizer.codebook.grad, vq.codebook.grad, rtol=1e-12, atol=1e-15)
        for module in (encoder, decoder, quantizer, vq):
            module.zero_grad()


def test_freezing_is_part_of_the_state():
    quantizer = build(freeze_encoder_at=5)
    quantizer.set_progress(5, 0)
    twin = build(freeze_encoder_at=5)
    twin.load_state_dict(quantizer.state_dict())
    assert not twin(draw()).z_q.requires_grad
    assert twin.eval()(draw()).metrics["usage"] > 0
