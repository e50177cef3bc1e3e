"""The options of AutoregressivePipeline reach the codes; compiled, it draws the same ones."""

import pytest
import torch

from twostage.errors import TwoStageError


def codes(pipeline, **options):
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    return pipeline([0, 1, 2], generator=generators, output_type="latent", **options).images


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ({"temperature": 3.0}, 0),
        ({"top_k": 1}, 0),
        ({"top_p": 0.3}, 0),
        ({"guidance_scale": 5.0}, 0),
        ({"guidance_scale": 5.0, "guidance_interval": (0.5, 1.0)}, 8),
        ({"guidance_scale": 5.0, "guidance_power": 1.0}, 1),
    ],
)
def test_an_option_changes_the_codes_where_it_acts(transformer, option, kept):
    plain, changed = codes(transformer).flatten(1), codes(transformer, **option).flatten(1)
    assert torch.equal(plain[:, :kept], changed[:, :kept])
    assert not torch.equal(plain, changed)
    assert transformer.check_sampling(**option) != transformer.check_sampling()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"top_k": 17}, r"top_k: 17 is not allowed; allowed: 0 \(all codes\) or an integer in 1..16"),
        ({"top_p": 0.0}, "top_p: 0.0"),
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"guidance_power": -1.0}, "guidance_power: -1.0"),
        ({"guidance_interval": (1.0, 0.0)}, "guidance_interval"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_runs(transformer, option, message, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *inputs: pytest.fail("something was computed"))
    with pytest.raises(TwoStageError, match=f"^{message}"):
        transformer(0, **option)


def test_a_prior_that_was_never_trained_without_a_class_is_not_guided(transformer):
    transformer.prior.register_to_config(knows_no_class=False)
    for call in ({"class_label": 0, "guidance_scale": 2.0}, {"class_label": None}):
        with pytest.raises(TwoStageError, match="never trained without a class"):
            transformer(**call)


def test_compiled_sampling_draws_the_same_codes(transformer):
    transformer.prior.double()
    expected, guided = codes(transformer), codes(transformer, guidance_scale=3.0, guidance_power=1.0)
    transformer.compile_sampling(backend="eager")
    assert torch.equal(codes(transformer), expected)
    assert torch.equal(codes(transformer, guidance_scale=3.0, guidance_power=1.0), guided)


def test_a_prior_in_bf16_samples(transformer):
    expected = codes(transformer, guidance_scale=2.0)
    transformer.prior.to(torch.bfloat16)
    assert (codes(transformer, guidance_scale=2.0) == expected).double().mean() > 0.5
