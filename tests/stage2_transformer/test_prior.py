"""The transformer prior: its loss, its sequences, how a code is drawn."""

import pytest
import torch

from stage2_transformer.backbones import BACKBONES
from stage2_transformer.prior import TransformerPrior, code_loss
from stage2_transformer.sampling import Sampling, draw, sample_codes
from twostage.errors import TwoStageError
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


def test_sampling_follows_the_model(prior):
    """With a cache, one image at a time or many, the draws are those of the uncached model."""
    prior.double()
    labels = torch.tensor([0, 1])
    codes = sample_codes(prior, labels, Sampling(), [torch.Generator().manual_seed(i) for i in range(2)])
    for label, image, seed in zip(labels, codes.flatten(1), range(2)):
        u = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        tokens = prior.class_tokens(label[None])
        for i in range(12):
            code = draw(prior(tokens)[:, -1].detach(), u[i : i + 1], Sampling())
            assert code == image[i]
            tokens = torch.cat([tokens, code[:, None]], dim=1)


LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64).log()


def frequencies(sampling):
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    return draw(LOGITS.expand(len(u), -1), u, sampling).bincount(minlength=4) / len(u)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_k=9), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(top_p=0.7), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_p=0.71), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(top_k=3, top_p=0.5), [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_draws_have_the_distribution_asked_for(sampling, expected):
    torch.testing.assert_close(frequencies(sampling), torch.tensor(expected), atol=2e-4, rtol=0)


@pytest.mark.parametrize("option", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_sampling_is_refused(option):
    (name, value), *_ = option.items()
    with pytest.raises(TwoStageError, match=f"{name}: {value}"):
        Sampling(**option)


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


def test_sampled_maps_follow_the_model(prior_of_maps):
    """Greedy sampling gives the codes of which each is the model's best after those before."""
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    labels = torch.tensor([0, 2])
    codes = sample_codes(prior_of_maps.double(), labels, Sampling(top_k=1), generators)
    assert codes.shape == (2, 2, 2, 3)
    sequence = prior_of_maps.sequence(codes)
    tokens = torch.cat([prior_of_maps.class_tokens(labels), prior_of_maps.code_tokens(sequence)], dim=1)
    assert torch.equal(prior_of_maps(tokens)[:, :-1].argmax(-1), sequence)


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
