import lpips
import pytest
import torch

from stage1_tokenizer.config import LossConfig, TokenizerConfig
from stage1_tokenizer.losses import Likeness, Perceptual
from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.train import TokenizerTask, mirrored, train
from twostage.config import load
from twostage.data.shapes import Shapes
from twostage.errors import TwoStageError

CONFIG = {
    "data": {"name": "shapes", "image_size": 16, "count": 64},
    "autoencoder": {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4},
    "quantizer": {"name": "cvq", "codebook_size": 16, "dim": 4},
    "optimizer": {"learning_rate": 1e-3},
    "training": {"steps": 2, "batch_size": 4},
}


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def reconstructions(images):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + 0.3 * noise).requires_grad_()


@pytest.fixture
def perceptual():
    """LPIPS over a random trunk, still trainable and in training mode."""
    torch.manual_seed(0)
    return Perceptual(lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).train().requires_grad_(True))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder in place of torch.hub's checkpoints."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


def pairs(a, b):
    return list(zip(a.flatten().tolist(), b.flatten().tolist()))


@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("scaled_mse", lambda x, y: (x - y) ** 2 / 0.25),
        ("mse", lambda x, y: (x - y) ** 2),
        ("l1", lambda x, y: abs(x - y)),
    ],
)
def test_distances_by_hand(images, reconstructions, name, distance):
    output = Likeness(LossConfig(reconstruction=name), variance=0.25)(images, reconstructions)
    values = [distance(x, y) for x, y in pairs(images, reconstructions)]
    assert output.loss.item() == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert output.metrics == {"reconstruction": output.loss}
    assert output.loss.requires_grad
    assert not output.metrics["reconstruction"].requires_grad


def test_the_default_is_the_scaled_mean_square():
    assert load(TokenizerConfig, CONFIG).loss == LossConfig(
        reconstruction="scaled_mse", perceptual_weight=0.0, adversarial=None
    )


def test_lpips_is_added_with_its_weight(images, reconstructions, perceptual):
    output = Likeness(LossConfig(reconstruction="l1", perceptual_weight=0.5), 1.0, perceptual)(images, reconstructions)
    distance = perceptual.network(images, reconstructions).mean()
    assert output.metrics["perceptual"].item() == pytest.approx(distance.item())
    expected = (images - reconstructions).abs().mean() + 0.5 * distance
    torch.testing.assert_close(output.loss, expected)
    (gradient,) = torch.autograd.grad(output.loss, reconstructions)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, reconstructions)[0])


def test_lpips_is_frozen_and_in_eval_mode(perceptual):
    assert not perceptual.network.training
    assert not any(parameter.requires_grad for parameter in perceptual.network.parameters())


def test_lpips_of_gray_images_is_that_of_their_repetition(images, reconstructions, perceptual):
    x, y = images[:, :1], reconstructions[:, :1]
    torch.testing.assert_close(perceptual(x, y), perceptual(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)))


def test_no_checkpoint_holds_lpips(monkeypatch, perceptual):
    monkeypatch.setattr(Perceptual, "published", lambda: perceptual)
    model = VQTokenizer(CONFIG["autoencoder"], CONFIG["quantizer"], image_size=16, channels=3)
    plain = TokenizerTask(model, 0.3)
    task = TokenizerTask(model, 0.3, loss=LossConfig(perceptual_weight=1.0))
    assert task.likeness.perceptual is perceptual
    assert task.state_dict().keys() == plain.state_dict().keys()
    assert len(list(task.parameters())) == len(list(plain.parameters()))
    task.train()
    assert not perceptual.network.training


def test_missing_weights_are_refused_before_anything_is_written(hub, tmp_path):
    config = load(TokenizerConfig, {**CONFIG, "loss": {"perceptual_weight": 1.0}})
    with pytest.raises(
        TwoStageError, match=r"^loss\.perceptual_weight: LPIPS \(vgg\) needs vgg16-397923af\.pth"
    ) as error:
        train(config, Shapes("train", image_size=16, count=64), tmp_path / "run")
    assert str(hub / "vgg16-397923af.pth") in str(error.value)
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in str(error.value)
    assert not (tmp_path / "run").exists()


def refused(loss, **changes):
    with pytest.raises(TwoStageError) as error:
        load(TokenizerConfig, {**CONFIG, "training": {"steps": 100, "batch_size": 4}, "loss": loss, **changes})
    return str(error.value)


@pytest.mark.parametrize(
    ("loss", "parts"),
    [
        ({"reconstruction": "l2"}, ("loss.reconstruction: 'l2'", "'scaled_mse', 'mse' or 'l1'")),
        ({"perceptual_weight": -1.0}, ("loss.perceptual_weight: -1.0", "greater than or equal to 0")),
        ({"perceptual": 1.0}, ("loss.perceptual: unknown key", "did you mean perceptual_weight?")),
        ({"adversarial": {"begin": 3}}, ("loss.adversarial.begin: unknown key", "weight, start")),
        ({"adversarial": {"start": -1}}, ("loss.adversarial.start: -1 is not allowed", "number of steps", "share")),
        ({"adversarial": {"start": 1.0}}, ("loss.adversarial.start: 1.0 is not allowed", "share of the run")),
        ({"adversarial": {"start": -0.1}}, ("loss.adversarial.start: -0.1 is not allowed",)),
        ({"adversarial": {"start": True}}, ("loss.adversarial.start: True is not allowed",)),
        ({"adversarial": {"warmup": "long"}}, ("loss.adversarial.warmup: 'long' is not allowed",)),
        (
            {"adversarial": {"max_adaptive_weight": 0.0}},
            ("loss.adversarial.max_adaptive_weight: 0.0", "greater than 0"),
        ),
        ({"adversarial": {"layers": 2, "start": 100}}, ("loss.adversarial.start: 100", "training.steps (100)")),
        ({"adversarial": {"layers": 2, "start": 90}}, ("loss.adversarial.warmup: 0.1", "training.steps (100)")),
        ({"adversarial": {"layers": 2, "start": 0.8}}, ("loss.adversarial.ramp: 0.1", "training.steps (100)")),
        ({"adversarial": {}}, ("loss.adversarial.layers: 3", "16 pixels", "at least 3")),
    ],
)
def test_mistakes_are_named(loss, parts):
    message = refused(loss)
    for part in parts:
        assert part in message


def test_compiled_code_frees_its_graph_at_once():
    """torch's own check of it is not to be relied on: its kernel cache does not know the difference."""
    message = refused({"adversarial": {"layers": 2}}, training={"steps": 100, "batch_size": 4, "compile": True})
    assert "training.compile: True is not allowed; allowed: false with loss.adversarial" in message


def test_lpips_needs_room():
    small = {"name": "shapes", "image_size": 12}
    assert "loss.perceptual_weight: 1.0" in refused({"perceptual_weight": 1.0}, data=small)


def test_about_half_of_the_images_are_mirrored():
    torch.manual_seed(0)
    images = torch.randn(200, 3, 4, 6)
    result = mirrored(images)
    same = (result == images).flatten(1).all(1)
    turned = (result == images.flip(-1)).flatten(1).all(1)
    assert (same ^ turned).all()
    assert 70 < turned.sum() < 130
