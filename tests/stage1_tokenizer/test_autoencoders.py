"""Laws of every registered autoencoder, and the sizes of the published ones."""

import re

import pytest
import torch

from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.config import TokenizerConfig
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.config import load
from twostage.errors import TwoStageError

D = 3
SMALL = {
    "vqvae": {"width": 8, "residual_blocks": 1, "residual_width": 4},
    "celebahq": {"width": 8, "residual_layers": 2},
    "vqgan": {"width": 32, "multipliers": [1, 2, 1], "residual_blocks": 1, "attention_at": [2]},
    "movq": {"width": 32, "multipliers": [1, 2, 1], "residual_blocks": 1, "attention_at": [2]},
}


def build(name, latent_dim=D, channels=3, **options):
    torch.manual_seed(0)
    component = AUTOENCODERS.resolve({"name": name, **options}, "autoencoder")
    return AUTOENCODERS.build(component, channels=channels, latent_dim=latent_dim)


@pytest.fixture(params=list(AUTOENCODERS))
def autoencoder(request):
    return build(request.param, **SMALL[request.param]).double().eval()


def draw(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


# Laws


def test_latents_are_f_times_smaller_and_images_come_back_whole(autoencoder):
    f = autoencoder.downsampling
    z = autoencoder.encode(draw(2, 3, 4 * f, 5 * f))
    assert z.shape == (2, D, 4, 5)
    assert autoencoder.decode(z).shape == (2, 3, 4 * f, 5 * f)


@pytest.mark.parametrize("name", list(AUTOENCODERS))
def test_gray_images_come_back_gray(name):
    autoencoder = build(name, channels=1, **SMALL[name])
    images = draw(1, 1, 16, 16).float()
    assert autoencoder.decode(autoencoder.encode(images)).shape == images.shape


@pytest.mark.parametrize("name", list(AUTOENCODERS))
@pytest.mark.parametrize("options", [{}, None], ids=["default", "small"])
def test_f_is_known_without_building(name, options):
    options = SMALL[name] if options is None else options
    component = AUTOENCODERS.resolve({"name": name, **options}, "autoencoder")
    with torch.device("meta"):
        built = build(name, **options)
    assert AUTOENCODERS[name].downsampling_of(component) == built.downsampling


def test_an_image_does_not_depend_on_its_batch(autoencoder):
    images = draw(3, 3, 16, 16)
    z = autoencoder.encode(images)
    reconstructions = autoencoder.decode(z)
    for i in range(3):
        torch.testing.assert_close(autoencoder.encode(images[i : i + 1]), z[i : i + 1])
        torch.testing.assert_close(autoencoder.decode(z[i : i + 1]), reconstructions[i : i + 1])


def test_the_gradient_reaches_every_parameter_and_the_images(autoencoder):
    images = draw(2, 3, 16, 16).requires_grad_()
    (autoencoder.decode(autoencoder.encode(images)) - images.detach()).square().mean().backward()
    assert images.grad.abs().sum() > 0
    assert [name for name, p in autoencoder.named_parameters() if p.grad is None] == []


def test_half_precision_in_is_half_precision_out(autoencoder):
    autoencoder.bfloat16()
    z = autoencoder.encode(draw(1, 3, 16, 16).bfloat16())
    assert z.dtype == autoencoder.decode(z).dtype == torch.bfloat16


@pytest.mark.parametrize("name", list(AUTOENCODERS))
def test_a_tokenizer_of_any_autoencoder_survives_saving(name, tmp_path):
    component = AUTOENCODERS.resolve({"name": name, **SMALL[name]}, "autoencoder")
    tokenizer = VQTokenizer(component, {"name": "vq", "codebook_size": 8, "dim": D}, image_size=16, channels=3).eval()
    tokenizer.save_pretrained(tmp_path)
    images = draw(2, 3, 16, 16).float()
    assert torch.equal(VQTokenizer.from_pretrained(tmp_path)(images), tokenizer(images))


# VQGAN and MoVQ


def test_only_the_asked_for_levels_attend():
    def attends(block):
        return hasattr(block, "attentions")

    network = build("vqgan", width=32, multipliers=[1, 1, 1], attention_at=[1, 4])
    assert [attends(block) for block in network.encoder.down_blocks] == [True, False, True]
    assert [attends(block) for block in network.decoder.up_blocks] == [True, False, True]
    assert len(network.encoder.down_blocks[0].attentions) == 2
    assert len(network.decoder.up_blocks[0].attentions) == 3


@pytest.mark.parametrize("name", ["vqgan", "movq"])
def test_without_middle_attention_and_levels_that_attend_nothing_does(name):
    network = build(name, width=32, multipliers=[1, 1], attention_at=[], middle_attention=False)
    assert not [key for key in network.state_dict() if "attention" in key]
    assert [key for key in build(name, width=32, multipliers=[1], attention_at=[]).state_dict() if "attention" in key]


def test_dropout_acts_in_training_only():
    images = draw(1, 3, 16, 16).float()
    for dropout, same in ((0.5, False), (0.0, True)):
        network = build("vqgan", **SMALL["vqgan"], dropout=dropout)
        assert torch.equal(network.encode(images), network.encode(images)) is same
        network.eval()
        assert torch.equal(network.encode(images), network.encode(images))


def test_every_normalisation_of_movqs_decoder_depends_on_the_latents():
    """With its way through the decoder's first convolution cut, z_q acts through the normalisations alone."""
    network = build("movq", **SMALL["movq"]).double().eval()
    network.post_quant_conv.weight.data.zero_()
    first, second = network.decode(draw(2, D, 4, 4))
    assert not torch.allclose(first, second, atol=1e-4)
    plain = [m for m in network.decoder.modules() if isinstance(m, torch.nn.GroupNorm)]
    modulated = [m for m in network.decoder.modules() if type(m).__name__ == "SpatialNorm"]
    assert len(plain) == len(modulated) > 10  # each inside one that is modulated


@pytest.mark.parametrize("name", ["vqgan", "movq"])
@pytest.mark.parametrize("attention_at", [[8], [3], [4, 16]])
def test_attention_at_a_factor_without_a_level_is_refused(name, attention_at):
    values = {
        "data": {"name": "shapes", "image_size": 16, "count": 8},
        "autoencoder": {"name": name, "multipliers": [1, 2, 4], "attention_at": attention_at},
        "quantizer": {"name": "vq", "codebook_size": 8, "dim": D},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"steps": 1, "batch_size": 1},
    }
    message = re.escape(f"autoencoder.attention_at: {attention_at} is not allowed; allowed: of [1, 2, 4]")
    with pytest.raises(TwoStageError, match=message):
        load(TokenizerConfig, values)
    with pytest.raises(TwoStageError, match=message):
        build(name, multipliers=[1, 2, 4], attention_at=attention_at)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 48}, "autoencoder.width: 48 is not allowed; input should be a multiple of 32"),
        ({"multipliers": []}, r"autoencoder.multipliers: \[\] is not allowed"),
        ({"multipliers": [1, 0]}, "autoencoder.multipliers.1: 0 is not allowed"),
        ({"preset": "f32"}, "autoencoder.preset: 'f32' is not a preset of vqgan; allowed: f16, f8, f4"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(TwoStageError, match=words):
        build("vqgan", **options)


# Published sizes. The networks are on the meta device: shapes and counts, no memory, no arithmetic.


def published_parameters(multipliers, attention_at, *, z, d, middle=True, modulated=0, moments=1, width=128, blocks=2):
    """Parameters by the published description: 3x3 convolutions, norms of 2 per channel, attention of 4 projections.

    Args:
        modulated: channels of z_q that modulate every norm of the decoder by two 1x1 convolutions each; 0: none.
        moments: how many values per latent channel the encoder gives; 2 for a Gaussian's mean and variance.
    """

    def conv(inputs, outputs, size=3):
        return size * size * inputs * outputs + outputs

    def norm(c, by):
        return 2 * c + (2 * conv(by, c, 1) if by else 0)

    def block(inputs, outputs, by):
        shortcut = conv(inputs, outputs, 1) if inputs != outputs else 0
        return norm(inputs, by) + conv(inputs, outputs) + norm(outputs, by) + conv(outputs, outputs) + shortcut

    def attention(c, by):
        return norm(c, by) + 4 * conv(c, c, 1)

    def levels(widths, depth, by):
        """The blocks of levels from the first to the last, in whichever direction, and the changes of resolution."""
        total, before = 0, widths[0][1]
        for factor, c in widths:
            for _ in range(depth):
                total += block(before, c, by) + (attention(c, by) if factor in attention_at else 0)
                before = c
        return total + sum(conv(c, c) for _, c in widths[:-1])

    widths = [(2**i, width * m) for i, m in enumerate(multipliers)]
    first, last = widths[0][1], widths[-1][1]

    def middle_of(by):
        return 2 * block(last, last, by) + (attention(last, by) if middle else 0)

    encoder = conv(3, first) + levels(widths, blocks, 0) + middle_of(0) + norm(last, 0) + conv(last, moments * z)
    decoder = conv(z, last) + middle_of(modulated) + levels(widths[::-1], blocks + 1, modulated)
    decoder += norm(first, modulated) + conv(first, 3)
    return encoder + conv(moments * z, moments * d, 1) + conv(d, z, 1) + decoder


def test_the_count_by_description_is_that_of_a_released_network():
    """latent diffusion's kl-f8, the VAE of Stable Diffusion: 83,653,863 parameters in its released weights."""
    assert published_parameters([1, 2, 4, 4], [], z=4, d=4, moments=2) == 83_653_863


PUBLISHED = [
    # name, options, d, latent size of 256 pixels, arguments of the count
    ("vqgan", {}, 256, 16, {"multipliers": [1, 1, 2, 2, 4], "attention_at": [16]}),
    ("vqgan", {"preset": "f16"}, 8, 16, {"multipliers": [1, 1, 2, 2, 4], "attention_at": [16]}),
    ("vqgan", {"preset": "f8"}, 4, 32, {"multipliers": [1, 2, 2, 4], "attention_at": [8]}),
    ("vqgan", {"preset": "f4"}, 3, 64, {"multipliers": [1, 2, 4], "attention_at": []}),
    ("vqgan", {"preset": "f4-noattn"}, 3, 64, {"multipliers": [1, 2, 4], "attention_at": [], "middle": False}),
    (
        "vqgan",
        {"preset": "beyond-stationarity"},
        64,
        64,
        {"multipliers": [1, 2, 4], "attention_at": [], "middle": False, "z": 3},
    ),
    ("movq", {}, 256, 16, {"multipliers": [1, 1, 2, 2, 4], "attention_at": [16], "modulated": 256}),
]


@pytest.mark.parametrize(("name", "options", "d", "size", "description"), PUBLISHED)
def test_published_sizes(name, options, d, size, description):
    with torch.device("meta"):
        network = build(name, latent_dim=d, **options)
        z = network.encode(torch.empty(2, 3, 256, 256))
        assert z.shape == (2, d, size, size)
        assert network.decode(z).shape == (2, 3, 256, 256)
    assert parameters(network) == published_parameters(**{"z": d, "d": d, **description})


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "options", "d", "codes", "published"),
    [
        # The released vq-f4 of latent diffusion has 55,322,782 parameters with its codebook of 8192 x 3.
        ("vqgan", {"preset": "f4"}, 3, 8192, "55.322782"),
        # vq-f8 with 16384 x 4 codes: 67.7M, as the authors of Frido (2022) count "VQGAN".
        ("vqgan", {"preset": "f8"}, 4, 16384, "67.7"),
        # The MoVQ of Kandinsky 2.1, f = 8, 16384 x 4: "MoVQ encoder/decoder - 67M" in its README.
        ("movq", {"multipliers": [1, 2, 2, 4], "attention_at": [8]}, 4, 16384, "67"),
    ],
)
def test_published_totals(name, options, d, codes, published):
    with torch.device("meta"):
        millions = f"{(parameters(build(name, latent_dim=d, **options)) + codes * d) / 1e6:.6f}"
    assert millions.startswith(published)


@pytest.mark.parametrize(
    ("preset", "codebook_size", "d", "latent_size"), [("f16", 1024, 256, 16), ("f8", 16384, 4, 32), ("f4", 8192, 3, 64)]
)
def test_tokenizers_of_published_sizes(preset, codebook_size, d, latent_size):
    component = AUTOENCODERS.resolve({"name": "vqgan", "preset": preset}, "autoencoder")
    with torch.device("meta"):
        quantizer = {"name": "vq", "codebook_size": codebook_size, "dim": d}
        tokenizer = VQTokenizer(component, quantizer, image_size=256, channels=3)
        assert tokenizer.latent_size == latent_size
        assert tokenizer.encode_latents(torch.empty(1, 3, 256, 256)).shape == (1, d, latent_size, latent_size)
        assert tokenizer.quantizer.codebook.shape == (codebook_size, d)


def test_the_celebahq_network_is_that_of_table_1():
    with torch.device("meta"):
        network = build("celebahq", latent_dim=64)
        z = network.encode(torch.empty(1, 3, 256, 256))
        assert z.shape == (1, 64, 64, 64)
        assert network.decode(z).shape == (1, 3, 256, 256)
    residual = 6 * (9 * 256 * 256 + 256 * 256)
    encoder = (16 * 3 * 128 + 128) + (16 * 128 * 256 + 256) + (9 * 256 * 256 + 256) + residual + (256 * 64 + 64)
    decoder = (9 * 64 * 256 + 256) + residual + (16 * 256 * 128 + 128) + (16 * 128 * 3 + 3)
    assert parameters(network) == encoder + decoder


def test_the_celebahq_network_ends_in_leaky_relu_and_tanh():
    network = build("celebahq", width=8)
    z = network.encode(draw(1, 3, 16, 16).float())
    network.encoder[-2].weight.data.neg_()
    network.encoder[-2].bias.data.neg_()
    opposite = network.encode(draw(1, 3, 16, 16).float())
    torch.testing.assert_close(torch.where(z > 0, -0.01 * z, -100 * z), opposite)
    assert network.decode(1e4 * z).abs().max() <= 1
