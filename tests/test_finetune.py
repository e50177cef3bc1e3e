"""What a prior inherits from another one: all of it, or all but its classes."""

import pytest
import torch

from stage2_ldm.denoiser import LatentDenoiser
from stage2_transformer.prior import TransformerPrior
from twostage.errors import TwoStageError
from twostage.finetune import check_alike, inherit

UNET = {"widths": [8], "layers": 1, "attention": [True], "head_dim": 8, "norm_groups": 4}
DENOISERS = {
    "unet": UNET,
    "cross_attention_unet": {**UNET, "context_dim": 8},
    "dit": {"layers": 1, "width": 8, "heads": 2},
}
PRIORS = {
    "gpt2": {"layers": 1, "heads": 2, "width": 8, "dropout": 0.0},
    "llama": {"layers": 1, "heads": 2, "width": 8},
}
MODELS = [*DENOISERS, *PRIORS]


def make(name, classes, seed):
    """A small network whose every weight is drawn at random, also where training would start from zero."""
    torch.manual_seed(seed)
    if name in DENOISERS:
        model = LatentDenoiser({"name": name, **DENOISERS[name]}, 4, 2, classes, "epsilon", "quantized", [0, 0], [1, 1])
    else:
        model = TransformerPrior({"name": name, **PRIORS[name]}, 16, [2, 2], classes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def without_a_class(model):
    """What the network says to one input and "no class"."""
    generator = torch.Generator().manual_seed(5)
    if isinstance(model, LatentDenoiser):
        return model(torch.randn(1, 2, 4, 4, generator=generator), torch.tensor(3))
    codes = torch.randint(16, (1, 3), generator=generator)
    return model(torch.cat([model.class_tokens(torch.tensor([model.null_class])), codes], dim=1))


@pytest.mark.parametrize("name", MODELS)
def test_as_many_classes_all_weights(name):
    model, start = make(name, 3, 0), make(name, 3, 1)
    inherit(model, start)
    assert all(torch.equal(value, start.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("before", "now"), [(3, 5), (5, 3), (3, None), (None, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_other_classes_are_new_and_no_class_says_what_it_said(name, before, now):
    model, start = make(name, now, 0), make(name, before, 1)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    assert not torch.allclose(without_a_class(model), without_a_class(start), atol=1e-3)
    inherit(model, start)
    if name == "unet" and None in (before, now):  # without classes it has no row for "no class" either
        assert ("backbone.class_embedding.weight" in own) == (now is not None)
    else:
        torch.testing.assert_close(without_a_class(model), without_a_class(start), rtol=0, atol=0)
    classes = 0
    for key, value in model.state_dict().items():
        theirs = start.state_dict().get(key)
        if theirs is None:
            assert torch.equal(value, own[key])
        elif theirs.shape == value.shape:
            assert torch.equal(value, theirs)
        else:
            classes += 1
            rows = slice(len(value) - (now or 0) - 1, -1)
            assert torch.equal(value[rows], own[key][rows])
    assert classes or name == "unet"


def test_the_first_key_that_differs_is_named():
    here, there = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 4, "c": 2}, "a": 1}
    with pytest.raises(TwoStageError, match=r"^b\.d: 3 is not allowed; allowed: 4, as in DIR, which this run starts"):
        check_alike(here, there, "DIR")
    check_alike(here, {**there, "b": {"c": 2, "d": 3}}, "DIR")


def test_a_key_that_only_one_of_them_has_differs():
    for here, there, allowed in [({}, {"a": 1}, "a: None is not allowed; allowed: 1"), ({"a": 1}, {}, "a: 1 .*: None")]:
        with pytest.raises(TwoStageError, match=allowed):
            check_alike(here, there, "DIR")
