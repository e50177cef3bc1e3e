"""HVQ: where starved codes go. What it shares with the other resets is in test_reset.py."""

import torch

from stage1_tokenizer.quantizers.hvq import HVQ

SPREAD = 4.0
"""The standard deviation of the features below."""


def after_a_reset():
    """Where codes go next to three that win 48, 15 and 1 of 64 features, and these: [4000] and [3]."""
    torch.manual_seed(0)
    features = torch.tensor([-1.0] * 48 + [1.0] * 15 + [30.0])
    features *= SPREAD / features.std(unbiased=False)
    centres = features[[0, 48, 63]]
    quantizer = HVQ(4003, 1, decay=0.0)
    quantizer.codebook.data = torch.cat([centres, torch.full((4000,), 1000.0)])[:, None]
    quantizer(features.reshape(1, 1, 8, 8))
    assert torch.equal(quantizer.codebook.data[:3, 0], centres)
    return quantizer.codebook.data[3:, 0], centres


def test_popular_codes_are_drawn_by_usage():
    moved, centres = after_a_reset()
    nearest = (moved[:, None] - centres).abs().argmin(1).bincount(minlength=3) / 4000
    torch.testing.assert_close(nearest, torch.tensor([48, 15, 1]) / 64, rtol=0, atol=0.02)


def test_the_noise_is_a_hundredth_of_the_features_deviation():
    moved, centres = after_a_reset()
    noise = moved - centres[(moved[:, None] - centres).abs().argmin(1)]
    torch.testing.assert_close(noise.std(), torch.tensor(0.01 * SPREAD), rtol=0.05, atol=0)
    assert noise.mean().abs() < 0.1 * noise.std()


def test_no_code_goes_to_one_that_starves_itself():
    """Code 1 wins a feature, but too few: it is moved itself, and nothing else goes to where it was."""
    torch.manual_seed(0)
    quantizer = HVQ(500, 1, decay=0.0, threshold=0.9)
    quantizer.codebook.data.fill_(1000)
    quantizer.codebook.data[:2, 0] = torch.tensor([0.0, 9.0])
    quantizer(torch.tensor([0.0] * 899 + [9.0]).reshape(1, 1, 30, 30))
    assert quantizer.codebook.data.abs().max() < 1
