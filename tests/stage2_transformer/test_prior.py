"""The transformer prior: its loss, its sequences."""

import pytest
import torch

from stage2_transformer.backbones import BACKBONES
from stage2_transformer.prior import TransformerPrior, code_loss
from twostage.training import noise

K, N = 11, 3


@pytest.fixture(params=list(BACKBONES))
def prior(request):
    torch.manual_seed(0)
    options = {"name": request.param, "layers": 2, "heads": 2, "width": 16}
    return TransformerPrior(options, codebook_size=K, code_shape=[3, 4], num_classes=N).eval()


def test_only_codes_are_predicted_and_the_class_matters(prior):
    tokens = prior.class_tokens(torch.tensor([0, 1, N]))
    logits = prior(tokens)
    assert logits.shape == (3, 1, K)
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_loss_is_the_mean_negative_log_likelihood(prior):
    codes, labels = torch.randint(K, (2, 3, 4)), torch.tensor([0, 2])
    tokens = torch.cat([prior.class_tokens(labels), codes.flatten(1)], dim=1)
    likelihood = prior(tokens)[:, :-1].log_softmax(-1).gather(2, codes.flatten(1)[:, :, None])
    torch.testing.assert_close(code_loss(prior, codes, labels, 0.0), -likelihood.mean())


def test_dropping_every_label_is_the_null_class(prior):
    codes = torch.randint(K, (2, 3, 4))
    dropped = code_loss(prior, codes, torch.tensor([0, 2]), 1.0)
    torch.testing.assert_close(dropped, code_loss(prior, codes, torch.tensor([N, N]), 0.0))


@pytest.fixture(params=list(BACKBONES))
def prior_of_maps(request):
    """Two code maps of 2x3."""
    torch.manual_seed(0)
    options = {"name": request.param, "layers": 2, "heads": 2, "width": 16}
    return TransformerPrior(options, codebook_size=K, code_shape=[2, 2, 3], num_classes=N).eval()


def test_the_codes_of_a_position_follow_each_other(prior_of_maps):
    codes = torch.arange(24).reshape(2, 2, 2, 3)
    sequence = prior_of_maps.sequence(codes)
    assert sequence[0].tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert torch.equal(prior_of_maps.codes(sequence), codes)


def test_the_same_code_of_another_map_is_another_token(prior_of_maps):
    tokens = prior_of_maps.code_tokens(torch.tensor([[3, 3, 3]]), first=1)
    assert tokens.tolist() == [[3 + K, 3, 3 + K]]
    assert prior_of_maps.class_tokens(torch.tensor([0])).item() == 2 * K


# Token dropout


@pytest.fixture
def seen_by(monkeypatch):
    """A prior -> the list of tokens that it is called with."""

    def watch(prior):
        calls, forward = [], prior.forward
        monkeypatch.setattr(prior, "forward", lambda tokens: calls.append(tokens) or forward(tokens))
        return calls

    return watch


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_token_dropout_replaces_a_share_of_what_is_given_and_nothing_that_is_predicted(prior_of_maps, seen_by, share):
    calls = seen_by(prior_of_maps)
    codes, labels = torch.randint(K, (400, 2, 2, 3)), torch.randint(N, (400,))
    torch.manual_seed(0)
    loss = code_loss(prior_of_maps, codes, labels, 0.0, share)
    sequence = prior_of_maps.sequence(codes)
    (tokens,) = calls
    assert torch.equal(tokens[:, :1], prior_of_maps.class_tokens(labels))
    replaced = tokens[:, 1:] != prior_of_maps.code_tokens(sequence[:, :-1])
    assert replaced.float().mean().item() == pytest.approx(share * (1 - 1 / K), abs=0.03)
    assert torch.equal(tokens[:, 1:] // K, torch.arange(11).expand(400, -1) % 2)  # of its own map
    likelihood = prior_of_maps(tokens).log_softmax(-1).gather(2, sequence[:, :, None])
    torch.testing.assert_close(loss, -likelihood.mean())


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_two_processes_drop_the_tokens_and_labels_that_one_drops(prior, monkeypatch, share):
    codes, labels = torch.randint(K, (8, 3, 4)), torch.randint(N, (8,))
    prior.double()

    def loss(part):
        torch.manual_seed(3)
        return code_loss(prior, codes[part], labels[part], 0.5, share)

    whole = loss(slice(None))
    halves = []
    for rank in range(2):
        monkeypatch.setattr(noise, "world_size", lambda: 2)
        monkeypatch.setattr(noise, "rank", lambda rank=rank: rank)
        halves.append(loss(slice(4 * rank, 4 * rank + 4)))
    torch.testing.assert_close(sum(halves) / 2, whole)
