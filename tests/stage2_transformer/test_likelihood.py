import math

import pytest
import torch

from stage2_transformer.likelihood import bits_per_image
from stage2_transformer.prior import TransformerPrior, code_loss
from twostage.errors import TwoStageError


def make(num_classes=3, codebook_size=7, code_shape=(3, 3)):
    torch.manual_seed(0)
    options = {"name": "llama", "layers": 1, "heads": 2, "width": 16}
    prior = TransformerPrior(options, codebook_size=codebook_size, code_shape=list(code_shape), num_classes=num_classes)
    prior.backbone.get_input_embeddings().weight.data.mul_(50)
    return prior.eval()


@pytest.mark.parametrize("num_classes", [3, None])
@pytest.mark.parametrize("batch_size", [20, 8])
def test_bits_are_those_of_the_first_view_of_every_image(frozen, num_classes, batch_size):
    codes, prior = frozen(), make(num_classes)
    first = torch.stack([codes[i]["codes"][0] for i in range(20)])
    labels = torch.stack([codes[i]["class_label"] for i in range(20)])
    expected = code_loss(prior, first, labels, 0.0).item() * 9 / math.log(2)
    assert bits_per_image(prior, codes, batch_size) == pytest.approx(expected, rel=1e-5)


def test_a_prior_that_knows_nothing_needs_all_bits(frozen):
    prior = make()
    prior.backbone.get_output_embeddings().weight.data.zero_()
    assert bits_per_image(prior, frozen()) == pytest.approx(9 * math.log2(7), rel=1e-5)


def test_maps_count_too(frozen):
    codes, prior = frozen((2, 2, 2)), make(code_shape=(2, 2, 2))
    prior.backbone.get_output_embeddings().weight.data.zero_()
    assert bits_per_image(prior, codes) == pytest.approx(8 * math.log2(7), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codebook_size": 8}, r"codebook_size, shape: \(7, \[3, 3\]\)"),
        ({"code_shape": (3, 4)}, r"codebook_size, shape: \(7, \[3, 3\]\)"),
        ({"num_classes": 4}, "classes: 3 is not allowed; allowed: the prior's 4"),
    ],
)
def test_codes_that_are_not_the_priors_are_refused(frozen, options, words):
    with pytest.raises(TwoStageError, match=words):
        bits_per_image(make(**options), frozen())
