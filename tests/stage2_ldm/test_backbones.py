"""Laws over every denoising network."""

import re
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from stage2_ldm.backbones import BACKBONES
from stage2_ldm.denoiser import LatentDenoiser
from twostage.errors import TwoStageError

SMALL = {
    "unet": {"widths": [8, 16], "layers": 1, "head_dim": 8, "norm_groups": 4},
    "cross_attention_unet": {"widths": [8, 16], "layers": 1, "head_dim": 8, "norm_groups": 4, "context_dim": 8},
    "dit": {"layers": 2, "width": 16, "heads": 2},
}
N = 3


def build(name, num_classes=N, size=4, dim=2, **options):
    component = BACKBONES.resolve({"name": name, **options}, "denoiser")
    return LatentDenoiser(component, size, dim, num_classes, "epsilon", "quantized", [0.0] * dim, [1.0] * dim)


def small(name, num_classes=N, **options):
    """A network whose weights are all random, none zero as at the start of training."""
    torch.manual_seed(0)
    denoiser = build(name, num_classes, **{**SMALL[name], **options})
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser.double().eval()


@pytest.fixture(params=list(BACKBONES))
def name(request):
    return request.param


@pytest.fixture
def latents():
    return torch.randn(5, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


TIMES = torch.tensor([0, 1, 250, 500, 999])
LABELS = torch.tensor([0, 1, 2, N, 0])


def test_every_network_is_tried():
    assert SMALL.keys() == set(BACKBONES)


# Laws


@pytest.mark.parametrize("num_classes", [N, None])
def test_the_prediction_looks_like_the_latents(name, num_classes, latents):
    prediction = small(name, num_classes)(latents, TIMES, LABELS)
    assert (prediction.shape, prediction.dtype) == (latents.shape, latents.dtype)
    assert prediction.isfinite().all()
    assert prediction.std() > 0.01


def test_the_class_matters(name, latents):
    denoiser = small(name)
    predictions = [denoiser(latents, TIMES, torch.full((5,), k)) for k in range(N + 1)]
    for i, one in enumerate(predictions):
        for other in predictions[:i]:
            assert ((one - other).abs().amax((1, 2, 3)) > 1e-4).all()


def test_no_class_is_the_last(name, latents):
    denoiser = small(name)
    assert torch.equal(denoiser(latents, TIMES), denoiser(latents, TIMES, torch.full((5,), N)))


def test_an_unconditional_network_has_no_classes(name, latents):
    denoiser = small(name, None)
    assert torch.equal(denoiser(latents, TIMES), denoiser(latents, TIMES, LABELS))


def test_the_time_matters(name, latents):
    denoiser = small(name)
    predictions = [denoiser(latents, torch.tensor(t)) for t in (0.0, 0.5, 1.0, 500.0, 999.0)]
    for one, other in pairwise(predictions):
        assert ((one - other).abs().amax((1, 2, 3)) > 1e-4).all()


@pytest.mark.parametrize("time", [250, 250.25])
def test_a_time_for_all_is_that_time_for_each(name, latents, time):
    denoiser = small(name)
    expected = denoiser(latents, torch.full((5,), time), LABELS)
    assert torch.equal(denoiser(latents, torch.tensor(time), LABELS), expected)
    assert torch.equal(denoiser(latents, torch.tensor(time, dtype=torch.float64), LABELS), expected)


def test_an_item_does_not_depend_on_the_others(name, latents):
    denoiser = small(name)
    together = denoiser(latents, TIMES, LABELS)
    for i in range(5):
        alone = denoiser(latents[i : i + 1], TIMES[i : i + 1], LABELS[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-12, rtol=0)


def test_labels_are_dropped_outside(name, latents):
    denoiser = small(name)
    many = latents.repeat(20, 1, 1, 1), TIMES.repeat(20), LABELS.repeat(20)  # so that one in ten is noticed
    torch.testing.assert_close(denoiser.train()(*many), denoiser.eval()(*many), atol=1e-12, rtol=0)


WITHOUT_EFFECT = re.compile(r"to_k\.bias$|attn2\.to_[qk]\.|transformer_blocks\.\d+\.norm2\.")
"""A bias of the keys shifts all logits of a query alike; over one class token the softmax is 1 whatever the query."""


def test_gradients_reach_every_weight(name, latents):
    denoiser = small(name, **({"attention": [True, True]} if "unet" in name else {}))
    denoiser(latents, TIMES, LABELS).square().sum().backward()
    idle = {n for n, p in denoiser.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert idle == {n for n, _ in denoiser.named_parameters() if WITHOUT_EFFECT.search(n)}


def test_bfloat16_in_is_bfloat16_out(name, latents):
    denoiser = small(name).bfloat16()
    assert denoiser(latents.bfloat16(), TIMES.float(), LABELS).dtype == torch.bfloat16


def test_what_is_saved_is_what_was_there(name, latents, tmp_path):
    denoiser = small(name)
    denoiser.save_pretrained(tmp_path)
    loaded = LatentDenoiser.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(loaded(latents, TIMES, LABELS), denoiser(latents, TIMES, LABELS))


def test_a_config_is_checked_without_diffusers():
    code = (
        "import sys; from stage2_ldm.backbones import BACKBONES\n"
        f"for name, options in {SMALL!r}.items(): BACKBONES.resolve({{'name': name, **options}}, 'denoiser')\n"
        "assert 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# UNets


@pytest.mark.parametrize("name", ["unet", "cross_attention_unet"])
def test_the_same_heads_by_number_and_by_width(name, latents):
    attention = {"widths": [8, 16], "attention": [False, True]}  # one width attends: 4 heads of 4 channels
    by_width = small(name, **attention, head_dim=4)
    by_number = small(name, **attention, head_dim=None, heads=4)
    by_number.load_state_dict(by_width.state_dict())
    expected = by_width(latents, TIMES, LABELS)
    torch.testing.assert_close(by_number(latents, TIMES, LABELS), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["unet", "cross_attention_unet"])
def test_every_width_has_so_many_heads(name, latents):
    options = {"widths": [8, 16], "attention": [True, True], "head_dim": None}
    one, four = (small(name, **options, heads=heads) for heads in (1, 4))
    four.load_state_dict(one.state_dict())
    found = {(module.inner_dim, module.heads) for module in four.modules() if hasattr(module, "heads")}
    assert found == {(8, 4), (16, 4)}
    assert (one(latents, TIMES, LABELS) - four(latents, TIMES, LABELS)).abs().max() > 1e-4


def test_residual_blocks_change_the_resolution(latents):
    names = set(small("unet", widths=[8, 8, 16], attention=[True, False, True], resampling="residual").state_dict())
    for place in ("down_blocks.0.downsamplers", "down_blocks.1.downsamplers", "up_blocks.0.upsamplers"):
        assert f"backbone.{place}.0.conv1.weight" in names
    assert "backbone.up_blocks.1.upsamplers.0.conv1.weight" in names


def test_scale_and_shift(latents):
    """With its last time layers at zero, but for a scale of -1, nothing of the middle's first branch is left."""
    denoiser = small("unet", conditioning="scale_shift")
    block = denoiser.backbone.mid_block.resnets[0]
    scale, shift = block.time_emb_proj.bias.data.chunk(2)
    for values, value in ((block.time_emb_proj.weight.data, 0.0), (scale, -1.0), (shift, 0.0)):
        values.fill_(value)
    h, time = torch.randn(2, 1, 16, 2, 2, dtype=torch.float64), torch.randn(1, 32, dtype=torch.float64)
    expected = h[0] + block.conv2.bias[:, None, None]
    torch.testing.assert_close(block(h[0], time), expected, atol=1e-12, rtol=0)


# DiT


def test_an_untrained_dit_predicts_zero(latents):
    denoiser = build("dit", **SMALL["dit"]).double()
    assert denoiser(latents, TIMES, LABELS).eq(0).all()


def test_the_blocks_of_an_untrained_dit_are_the_identity():
    transformer = build("dit", **SMALL["dit"]).backbone.transformer
    tokens, embedded = torch.randn(2, 4, 16), torch.randn(2, 16)
    for block in transformer.transformer_blocks:
        assert torch.equal(block(tokens, timestep=embedded), tokens)


def test_patches_keep_their_place():
    """Tokens that know only their place give each latent pixel a value of its own, which moves with the patch."""
    denoiser = small("dit", patch=2)
    transformer = denoiser.backbone.transformer
    for block in transformer.transformer_blocks:
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1.linear.bias)
    latents = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    changed = latents.clone()
    changed[0, 1, 2, 1] = 1.0  # in the patch of rows 2, 3 and columns 0, 1
    different = denoiser(changed, torch.tensor(3)) != denoiser(latents, torch.tensor(3))
    assert different[0, :, 2:, :2].all()
    assert different.sum() == 2 * 4


# Mistakes

UNET = {"widths": [8, 16], "layers": 1, "head_dim": 8, "norm_groups": 4}


@pytest.mark.parametrize("name", ["unet", "cross_attention_unet"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": []}, ("denoiser.widths: []", "at least one")),
        ({"widths": [10, 16]}, ("denoiser.widths: [10, 16]", "denoiser.norm_groups (4)")),
        ({"norm_groups": 16, "widths": [16, 16]}, ("denoiser.widths: [16, 16]", "the widest at least twice it")),
        ({"widths": [8, 8, 8, 8]}, ("denoiser.widths: [8, 8, 8, 8]", "latents of 4")),
        ({"attention": [True]}, ("denoiser.attention: [True]", "each of the 2 widths")),
        ({"head_dim": 16, "attention": [True, False]}, ("denoiser.head_dim: 16", "here [8, 16]")),
        ({"head_dim": None}, ("denoiser.heads: None", "head_dim is None")),
        ({"heads": 2}, ("denoiser.heads: 2", "head_dim is 8")),
        ({"head_dim": None, "heads": 3}, ("denoiser.heads: 3", "here [16, 16]")),
        ({"head_dim": 0}, ("denoiser.head_dim: 0", "greater than or equal to 1")),
        ({"preset": "lsun_church"}, ("denoiser.preset: 'lsun_church'", "allowed: ")),
        ({"depth": 3}, ("denoiser.depth: unknown key",)),
    ],
)
def test_unets_that_cannot_be(name, options, words):
    assert_refused(words, name, **{**UNET, **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch": 3}, ("denoiser.patch: 3", "size, 4")),
        ({"width": 18, "heads": 2}, ("denoiser.width: 18", "multiple of 4")),
        ({"heads": 3}, ("denoiser.heads: 3", "denoiser.width (16)")),
        ({"preset": "XXL"}, ("denoiser.preset: 'XXL'", "allowed: S, B, L, XL")),
    ],
)
def test_dits_that_cannot_be(options, words):
    assert_refused(words, "dit", **{**SMALL["dit"], **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conditioning": "add"}, ("denoiser.conditioning: 'add'", "'shift' or 'scale_shift'")),
        ({"resampling": "conv"}, ("denoiser.resampling: 'conv'", "'convolution' or 'residual'")),
    ],
)
def test_kinds_of_unet_that_are_not_known(options, words):
    assert_refused(words, "unet", **{**UNET, **options})


def assert_refused(words, name, **options):
    with pytest.raises(TwoStageError) as error:
        build(name, **options)
    for word in words:
        assert word in str(error.value)


def test_gradients_are_the_same_when_blocks_are_computed_again(name, latents):
    def gradients(again):
        denoiser = small(name).train()
        if again:
            denoiser.enable_gradient_checkpointing()
        denoiser(latents, TIMES, LABELS).square().mean().backward()
        return [parameter.grad for parameter in denoiser.parameters()]

    torch.testing.assert_close(gradients(True), gradients(False))
