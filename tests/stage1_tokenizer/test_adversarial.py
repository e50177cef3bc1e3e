import copy

import pytest
import torch
from accelerate.state import AcceleratorState

from stage1_tokenizer.adversarial import DELTA, Adversary, adaptive_weight, last_layer
from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.config import AdversarialLoss, LossConfig, WarmStart
from stage1_tokenizer.discriminator import LeCAM, PatchGAN, discriminator_hinge, generator_hinge
from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.train import FeatureSampler, TokenizerTask
from twostage.config import OptimizerConfig, TrainingConfig
from twostage.data.shapes import Shapes
from twostage.training.log import read_log
from twostage.training.loop import fit, make_accelerator
from twostage.training.task import Progress

SMALL = {"layers": 2, "width": 8}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(step, steps=100):
    return Progress(step=step, steps=steps, epoch=0)


def make_task(seed=0, warm_start=None, sampler=None, **options):
    torch.manual_seed(seed)
    autoencoder = {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4}
    model = VQTokenizer(autoencoder, {"name": "cvq", "codebook_size": 16, "dim": 4}, image_size=16, channels=3)
    return TokenizerTask(
        model, 0.3, warm_start, sampler, loss=LossConfig(adversarial=AdversarialLoss(**{**SMALL, **options}))
    )


class TestPatchGAN:
    def test_it_has_as_many_weights_as_published(self):
        """pix2pix prints 2.769 M for the six channels of an image beside its label map."""
        assert sum(parameter.numel() for parameter in PatchGAN(6).parameters()) == 2_768_705

    def test_a_patch_is_70_pixels(self):
        images = draw(1, 3, 128, 128).requires_grad_()
        logits = PatchGAN(3, width=4).eval()
        for layer in logits.stages:
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.forward = lambda x: x  # statistics would look at all pixels
        (gradient,) = torch.autograd.grad(logits(images)[0, 0, 7, 7], images)
        rows = gradient[0].abs().amax(dim=(0, 2)).nonzero()
        assert rows.max() - rows.min() + 1 == 70

    @pytest.mark.parametrize(("size", "layers", "logits"), [(256, 3, 30), (64, 3, 6), (28, 3, 1), (16, 2, 2)])
    def test_shapes(self, size, layers, logits):
        assert PatchGAN(1, layers, 4)(draw(2, 1, size, size)).shape == (2, 1, logits, logits)

    @pytest.mark.parametrize("normalization", ["batch", "group"])
    def test_logits_of_bfloat16_images_are_float32(self, normalization):
        network = PatchGAN(3, 2, 4, normalization).bfloat16()
        assert network(draw(2, 3, 16, 16).bfloat16()).dtype == torch.float32

    def test_groups_know_no_batch(self):
        images = draw(4, 3, 16, 16)
        group, batch = (PatchGAN(3, 2, 4, normalization) for normalization in ("group", "batch"))
        torch.testing.assert_close(group(images)[:2], group(images[:2]))
        assert not torch.allclose(batch(images)[:2], batch(images[:2]))


class TestFormulas:
    def test_hinge(self):
        real, fake = draw(3, 1, 2, 2) * 2, draw(3, 1, 2, 2, seed=1) * 2
        x, y = real.flatten().tolist(), fake.flatten().tolist()
        expected = 0.5 * (sum(max(0, 1 - v) for v in x) / len(x) + sum(max(0, 1 + v) for v in y) / len(y))
        assert discriminator_hinge(real, fake).item() == pytest.approx(expected, rel=1e-5)
        assert generator_hinge(fake).item() == pytest.approx(-sum(y) / len(y), rel=1e-5)

    def test_hinge_at_balance_and_beyond_the_margins(self):
        assert discriminator_hinge(torch.zeros(4), torch.zeros(4)) == 1
        assert discriminator_hinge(torch.full((4,), 1.5), torch.full((4,), -1.5)) == 0

    def test_lecam(self):
        lecam, decay = LeCAM(), 0.99
        sums = [0.0, 0.0]
        for step in range(1, 5):
            real, fake = draw(6, seed=step) + 1, draw(6, seed=-step) - 1
            x, y = real.tolist(), fake.tolist()
            sums = [decay * s + (1 - decay) * sum(v) / len(v) for s, v in zip(sums, (x, y))]
            past_real, past_fake = (s / (1 - decay**step) for s in sums)
            expected = sum((v - past_fake) ** 2 for v in x) / len(x) + sum((v - past_real) ** 2 for v in y) / len(y)
            assert lecam(real, fake).item() == pytest.approx(expected, rel=1e-4)

    def test_lecam_goes_on_from_its_state(self):
        first, second = LeCAM(), LeCAM()
        first(draw(3), draw(3, seed=1))
        second.load_state_dict(first.state_dict())
        assert torch.equal(*(lecam(draw(3, seed=2), draw(3, seed=3)) for lecam in (first, second)))

    def test_adaptive_weight(self):
        layer = draw(3, 2).requires_grad_()
        nll, generator = (2 * layer).square().sum(), layer.sum()
        expected = (8 * layer).norm() / (6**0.5 + DELTA)
        torch.testing.assert_close(adaptive_weight(nll, generator, layer, 1e4), expected.detach())
        assert not adaptive_weight(nll, generator, layer, 1e4).requires_grad

    @pytest.mark.parametrize(("limit", "expected"), [(10.0, 10.0), (0.5, 0.5), (1e4, 1e4)])
    def test_adaptive_weight_has_a_limit(self, limit, expected):
        """A flat discriminator gives the tokenizer no gradient at all."""
        layer = torch.ones(2, requires_grad=True)
        assert adaptive_weight(10 * layer.sum(), 0 * layer.sum(), layer, limit) == expected


class TestSchedule:
    @pytest.mark.parametrize("options", [{}, {"start": 30, "warmup": 10, "ramp": 10}, {"start": 30, "warmup": 0.1}])
    def test_shares_of_the_run_are_steps(self, options):
        adversary = Adversary(AdversarialLoss(**SMALL, **options), 3)
        course = []
        for step in range(100):
            adversary.set_progress(at(step))
            course.append((adversary.learns, adversary.share))
        assert [learns for learns, _ in course] == [False] * 30 + [True] * 70
        assert [share for _, share in course] == pytest.approx([0] * 40 + [(i + 1) / 11 for i in range(10)] + [1] * 50)

    def test_without_warmup_and_ramp_all_starts_at_once(self):
        adversary = Adversary(AdversarialLoss(**SMALL, start=0.3, warmup=0, ramp=0), 3)
        course = []
        for step in (29, 30):
            adversary.set_progress(at(step))
            course.append((adversary.learns, adversary.share))
        assert course == [(False, 0.0), (True, 1.0)]

    def test_from_the_first_step(self):
        adversary = Adversary(AdversarialLoss(**SMALL, start=0, warmup=0.5, ramp=0), 3)
        adversary.set_progress(at(0))
        assert (adversary.learns, adversary.share) == (True, 0.0)

    def test_what_is_computed_when(self):
        task, batch = make_task(lecam_weight=0.1), {"images": draw(4, 3, 16, 16)}
        always = {"reconstruction", "commitment", "usage", "perplexity"}
        learning = {"discriminator", "real_logits", "fake_logits", "lecam"}
        for step, names in [(29, set()), (30, learning), (40, learning | {"generator", "adaptive_weight"})]:
            task.before_step(at(step))
            output = task(batch)
            assert always | names == output.metrics.keys() - {"contrastive"}
            assert not any(value.requires_grad for value in output.metrics.values())
            task.zero_grad(set_to_none=True)
            output.loss.backward()
            assert all((p.grad is None) != bool(names) for p in task.adversary.parameters())


class TestGradients:
    """What each player's loss moves, with the whole loss of a step taken apart."""

    @pytest.fixture(params=["batch", "group"])
    def task(self, request):
        return make_task(normalization=request.param)

    def test_the_tokenizers_term_does_not_move_the_discriminator(self, task):
        images = draw(4, 3, 16, 16)
        reconstructions = task.model(images)
        before = copy.deepcopy(task.adversary.state_dict())
        logits = task.adversary.judge(reconstructions)
        torch.testing.assert_close(logits, task.adversary.discriminator(reconstructions))
        generator_hinge(logits).backward()
        assert all(parameter.grad is None for parameter in task.adversary.parameters())
        assert all(parameter.grad is not None for parameter in task.model.autoencoder.decoder.parameters())
        assert all(torch.equal(before[name], value) for name, value in task.adversary.state_dict().items())

    def test_the_discriminators_term_does_not_move_the_tokenizer(self, task):
        task.before_step(at(30))
        layer = last_layer(task.model.autoencoder.decoder)
        reconstructions = task.model(images := draw(4, 3, 16, 16))
        task.adversary(images, reconstructions, reconstructions.sum(), layer).loss.backward()
        assert all(parameter.grad is None for parameter in task.model.parameters())
        assert all(parameter.grad is not None for parameter in task.adversary.parameters())

    def test_one_backward_pass_is_two(self, task):
        """The gradient of the sum is, for each player, that of its own loss alone."""
        task.before_step(at(60))
        images, options = draw(4, 3, 16, 16), task.adversary.options
        reconstructions = task.model(images)
        likeness = task.likeness(images, reconstructions).loss
        layer, judge = last_layer(task.model.autoencoder.decoder), task.adversary.discriminator

        output = task.adversary(images, reconstructions, likeness, layer)
        (likeness + output.loss).backward(retain_graph=True)
        together = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
        task.zero_grad(set_to_none=True)

        discriminator_hinge(judge(images), judge(reconstructions.detach())).backward()
        alone = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
        task.zero_grad(set_to_none=True)
        judge.requires_grad_(False)
        generator = -judge(reconstructions).mean()
        norms = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (likeness, generator)]
        weight = min(norms[0] / (norms[1] + DELTA), options.max_adaptive_weight)
        assert output.metrics["adaptive_weight"].item() == pytest.approx(weight.item(), rel=1e-4)
        (likeness + options.weight * weight * generator).backward()
        alone |= {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}

        assert together.keys() == alone.keys()
        for name in together:
            torch.testing.assert_close(
                together[name], alone[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )

    def test_each_player_is_clipped_by_its_own_norm(self, task):
        task.before_step(at(60))
        task({"images": draw(4, 3, 16, 16)}).loss.backward()
        players = task.players()
        assert {id(p) for player in players for p in player.parameters()} == {id(p) for p in task.parameters()}
        assert sum(len(list(player.parameters())) for player in players) == len(list(task.parameters()))


@pytest.mark.parametrize("name", list(AUTOENCODERS))
def test_the_last_layer_is_what_runs_last(name):
    options = {"vqgan": {"width": 32, "multipliers": [1, 2], "attention_at": []}, "vqvae": {"width": 8}}
    config = AUTOENCODERS.resolve({"name": name, **options.get(name, {})}, "autoencoder")
    autoencoder = AUTOENCODERS.build(config, channels=3, latent_dim=3)
    ran = []
    for layer in autoencoder.modules():
        if next(layer.parameters(recurse=False), None) is not None:
            layer.register_forward_hook(lambda layer, *_: ran.append(layer))
    autoencoder.eval().decode(torch.zeros(1, 3, 8, 8))
    assert last_layer(autoencoder.decoder) is ran[-1].weight
    assert 3 in ran[-1].weight.shape[:2]


def test_channels_last_changes_nothing(tmp_path):
    resume, courses = TestResume(), {}
    for name, options in {"plain": {}, "fast": {"channels_last": True}}.items():
        resume.fit(tmp_path / name, **options)
        courses[name] = [(line["loss"], line.get("adaptive_weight", 0)) for line in read_log(tmp_path / name)]
    assert courses["fast"] == [pytest.approx(values, rel=1e-3) for values in courses["plain"]]


class TestResume:
    """An interrupted run ends as an uninterrupted one, bit for bit, wherever in the discriminator's life it was cut."""

    STEPS = 8

    def fit(self, run, stop=None, **options):
        AcceleratorState._reset_state(True)
        training = TrainingConfig(
            steps=self.STEPS,
            batch_size=16,
            accumulation=2,
            checkpoint_every=1,
            log_every=1,
            gradient_clip=1.0,
            **options,
        )
        accelerator = make_accelerator(training)
        shapes = Shapes("train", image_size=16, count=64)
        sampler = FeatureSampler(shapes, accelerator, 0)
        task = make_task(0, WarmStart(steps=2, features=200), sampler, start=3, warmup=2, ramp=2, lecam_weight=0.1)
        before_step = task.before_step

        def interrupt(progress):
            if progress.step == stop:
                raise KeyboardInterrupt
            before_step(progress)

        task.before_step = interrupt
        fit(task, shapes, training, OptimizerConfig(learning_rate=0.01), run, accelerator)

    def left(self, run):
        state = torch.load(max((run / "checkpoints").iterdir()), weights_only=True)
        return state, [{key: value for key, value in line.items() if key != "time"} for line in read_log(run)]

    def same(self, a, b):
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(self.same(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(self.same(x, y) for x, y in zip(a, b))
        return a == b

    @pytest.mark.parametrize("step", [2, 3, 4, 5, 6])
    def test_across_the_start(self, tmp_path, step):
        self.fit(tmp_path / "whole", ema_decay=0.9)
        with pytest.raises(KeyboardInterrupt):
            self.fit(tmp_path / "parts", stop=step, ema_decay=0.9)
        torch.manual_seed(12345)
        self.fit(tmp_path / "parts", ema_decay=0.9)
        assert self.same(self.left(tmp_path / "whole"), self.left(tmp_path / "parts"))

    def test_the_checkpoint_holds_the_discriminator_and_its_optimiser(self, tmp_path):
        self.fit(tmp_path / "run", ema_decay=0.9)
        state, log = self.left(tmp_path / "run")
        moved = [name for name in state["task"] if name.startswith("adversary.discriminator.")]
        assert len(moved) == len(list(PatchGAN(3, **SMALL).parameters()))
        assert state["task"]["adversary.lecam.updates"] == 2 * (self.STEPS - 3)
        assert len(state["optimizer"]["state"]) == len(list(make_task(lecam_weight=0.1).parameters()))
        assert not any("adversary" in name for name in state["ema"])
        assert [line["step"] for line in log if "adaptive_weight" in line] == [6, 7, 8]
