"""HardReset: where starved codes go. What it shares with the other resets is in test_reset.py."""

import torch

from stage1_tokenizer.quantizers.hard_reset import HardReset


def moved(codes, features):
    """Where all codes but one go when only that one wins features: [codes - 1, d]."""
    torch.manual_seed(0)
    quantizer = HardReset(codes, features.shape[1], decay=0.0)
    quantizer.codebook.data.fill_(1e4)
    quantizer.codebook.data[0] = 0
    quantizer(features.T[None, :, None])
    assert (quantizer.codebook[0] == 0).all()
    return quantizer.codebook.data[1:]


def test_codes_go_to_random_features_each_at_most_once(monkeypatch):
    monkeypatch.setattr(HardReset, "noise", 0.0)
    features = torch.arange(64.0)[:, None]
    chosen = moved(33, features)[:, 0]
    assert len(chosen.unique()) == 32
    assert set(chosen.tolist()) <= set(features[:, 0].tolist())
    assert 24 < chosen.mean() < 39
    assert not torch.equal(chosen, chosen.sort().values)


def test_features_are_shared_out_where_there_are_more_codes(monkeypatch):
    monkeypatch.setattr(HardReset, "noise", 0.0)
    chosen = moved(19, torch.arange(4.0)[:, None])[:, 0]
    assert sorted(chosen.long().bincount(minlength=4).tolist()) == [4, 4, 5, 5]


def test_the_noise_is_a_tenth_of_the_features_deviation_in_each_dimension():
    features = torch.tensor([[3.0, -1.0], [3.0, 1.0], [-3.0, -1.0], [-3.0, 1.0]])
    places = moved(8001, features)
    noise = places - features[torch.cdist(places, features).argmin(1)]
    torch.testing.assert_close(noise.std(0), torch.tensor([0.3, 0.1]), rtol=0.05, atol=0)
    assert (noise.mean(0).abs() < torch.tensor([0.03, 0.01])).all()
