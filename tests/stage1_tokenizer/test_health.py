import itertools
import warnings

import pytest
import torch
from PIL import Image

from stage1_tokenizer import health, report
from stage1_tokenizer.config import TokenizerConfig, WarmStart
from stage1_tokenizer.health import CodebookHealth, advice, entries
from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.quantizers.nearest import nearest
from stage1_tokenizer.quantizers.vq import VQ
from stage1_tokenizer.report import Pictures, comparable, undisturbed
from stage1_tokenizer.tokenizer import VQTokenizer
from stage1_tokenizer.train import FeatureSampler, TokenizerTask, train
from twostage.config import OptimizerConfig, TrainingConfig
from twostage.data.shapes import Shapes
from twostage.metrics.codebook import perplexity
from twostage.training.log import read_log
from twostage.training.loop import fit, make_accelerator

AUTOENCODER = {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4}
PNGS = ("codebook_usage", "curves", "projection", "reconstructions", "usage")
KINDS = [
    {"name": "vq"},
    {"name": "simvq"},
    {"name": "cvq", "anchor": "random"},
    {"name": "residual", "stages": 3},
    {"name": "multichannel", "parts": 2},
]


@pytest.fixture(scope="module")
def dataset():
    return Shapes("train", image_size=16, count=48)


def make_task(*warm_start, **quantizer):
    torch.manual_seed(0)
    options = {"codebook_size": 16, "dim": 4, "name": "vq", **quantizer}
    return TokenizerTask(VQTokenizer(AUTOENCODER, options, image_size=16, channels=3), 0.3, *warm_start)


def run(task, folder, dataset, at_checkpoint=None, **options):
    """Twelve steps of 8 images of 16 codes, a line after every fourth and a checkpoint after every third."""
    training = TrainingConfig(**{"steps": 12, "batch_size": 8, "log_every": 4, "checkpoint_every": 3, **options})
    optimizer = OptimizerConfig(learning_rate=0.01, schedule="constant")
    return fit(task, dataset, training, optimizer, folder, make_accelerator(training), at_checkpoint)


def scalars(folder):
    return [{key: value for key, value in line.items() if key != "time"} for line in read_log(folder)]


def stop_at(task, step):
    """The task, which now does not come to `step`."""
    before_step = task.before_step

    def stop(progress):
        if progress.step == step:
            raise KeyboardInterrupt
        before_step(progress)

    task.before_step = stop
    return task


@pytest.mark.parametrize("quantizer", KINDS, ids=lambda kind: kind["name"])
def test_the_log_tells_of_all_steps_since_the_last_line(tmp_path, dataset, quantizer):
    task = make_task(**quantizer)
    q, batches, codebooks = task.model.quantizer, [], [entries(task.model.quantizer)]
    quantize = task.model.quantize

    def recorded(z):
        output = quantize(z)
        batches.append(output.codes)
        return output

    task.model.quantize = recorded
    run(task, tmp_path, dataset, lambda: codebooks.append(entries(q)), checkpoint_every=4, accumulation=2)
    codebooks.append(entries(q))
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [4, 8, 12]
    for i, line in enumerate(lines):
        counts = [0] * q.entries
        for codes in batches[8 * i : 8 * i + 8]:
            for row in (codes[:, None] if q.maps == 1 else codes).movedim(1, -1).reshape(-1, q.maps).tolist():
                for stage, code in enumerate(row):
                    counts[code + stage * 16 * (q.entries > 16)] += 1
        assert sum(counts) == 4 * 8 * 16 * q.maps
        assert line["window_usage"] == pytest.approx(sum(c > 0 for c in counts) / len(counts))
        assert line["dead_codes"] == counts.count(0)
        assert line["window_perplexity"] == pytest.approx(perplexity(torch.tensor(counts)).item())
        moved = (codebooks[i + 1] - codebooks[i]).norm(dim=1).mean() / codebooks[i + 1].norm(dim=1).mean()
        assert line["codebook_moved"] == pytest.approx(moved.item(), rel=1e-5)
        assert line["codebook_moved"] > 0


def test_nothing_is_told_of_a_codebook_that_is_not_used_yet():
    quantizer = VQ(16, 4)
    assert CodebookHealth(quantizer, "").log_line(quantizer, 4).scalars == {}


def test_a_codebook_set_anew_has_not_moved():
    quantizer = VQ(16, 4)
    watch = CodebookHealth(quantizer, "")
    quantizer.initialize_codebook(torch.randn(16, 4))
    watch.follow(quantizer)
    watch.count(quantizer, torch.arange(16))
    assert watch.log_line(quantizer, 4).scalars["codebook_moved"] == 0


@pytest.mark.parametrize("step", [1, 5, 6, 11])
def test_a_resumed_run_logs_what_an_uninterrupted_one_does(tmp_path, dataset, monkeypatch, step):
    """Checkpoints lie within windows; the alarm is raised at step 8, and not again by a run resumed after it."""
    monkeypatch.setattr(health, "GRACE", 5)
    monkeypatch.setattr(health, "LOW", 0.5)

    def task():
        made = make_task(distance="cosine")
        made.model.quantizer.codebook.data[1:] = made.model.quantizer.codebook.data[0]
        return made

    with warnings.catch_warnings(action="ignore"):
        run(task(), tmp_path / "whole", dataset)
        with pytest.raises(KeyboardInterrupt):
            run(stop_at(task(), step), tmp_path / "parts", dataset)
        run(task(), tmp_path / "parts", dataset)
    assert scalars(tmp_path / "parts") == scalars(tmp_path / "whole")
    assert ["warnings" in line for line in read_log(tmp_path / "parts")] == [False, True, False]


class TestAlarm:
    """Windows of 100 batches of 10 codes of a codebook of 100."""

    def alarms(self, *shares, batches=1000, size=100):
        quantizer = VQ(size, 4)
        watch = CodebookHealth(quantizer, "this or that")
        watch.batches.fill_(batches)
        found = []
        for step, share in enumerate(shares):
            watch.count(quantizer, torch.arange(1000) % max(1, round(share * size)))
            found.append(watch.log_line(quantizer, step).warnings)
        return [step for step, told in enumerate(found) if told], found

    def test_low_usage_is_told_once(self):
        steps, found = self.alarms(0.2, 0.1, 0.2, 0.05)
        assert steps == [0]
        assert found[0] == [
            "step 0: the codebook collapses: 20 of 100 codes (20.0%) in use since the last line of the log; "
            "try this or that"
        ]

    def test_a_fall_by_half_is_told_once(self):
        steps, found = self.alarms(0.8, 0.9, 0.46, 0.44, 0.4, 0.5)
        assert steps == [3]
        assert "44 of 100 codes (44.0%) in use since the last line of the log, after 90.0% at best; try" in found[3][0]

    def test_a_second_collapse_after_a_recovery_is_told_again(self):
        assert self.alarms(0.2, 0.9, 0.2)[0] == [0, 2]

    def test_a_flicker_about_the_threshold_is_no_recovery(self):
        assert self.alarms(0.2, 0.29, 0.2, 0.31, 0.2)[0] == [0, 4]

    def test_full_or_half_full_codebooks_are_healthy(self):
        assert self.alarms(1, 0.9, 1)[0] == []
        assert self.alarms(0.5, 0.45, 0.5)[0] == []

    def test_the_grace(self):
        assert self.alarms(1, 0.1, 0.3, batches=0)[0] == []
        assert self.alarms(1, 0.1, 0.1, batches=health.GRACE - 3)[0] == [2]

    def test_windows_too_small_to_use_every_code(self):
        assert self.alarms(0.1, size=201)[0] == []
        assert self.alarms(0.1, size=200)[0] == [0]


class TestAdvice:
    def test_what_is_there_already_is_not_advised(self):
        assert advice("vq", warm_start=False).startswith("a warm_start, a quantizer")
        assert advice("vq", warm_start=True).startswith("a quantizer that keeps its codes in use (cvq, ")
        assert "cvq" not in advice("cvq", warm_start=True)

    def test_only_quantisers_that_exist_are_advised(self):
        names = advice("vq", warm_start=True).split("(")[1].split(")")[0].split(", ")
        assert set(names) <= set(QUANTIZERS)

    def test_a_fixed_codebook_takes_no_warm_start(self):
        assert "warm_start" not in advice("lfq", warm_start=False)


def told(task, folder, dataset):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(task, folder, dataset, steps=24)
    return [str(warning.message) for warning in caught if "collapses" in str(warning.message)]


def test_a_collapsed_run_warns_once_and_a_healthy_one_never(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(health, "GRACE", 10)
    collapsed = make_task()
    collapsed.model.quantizer.codebook.data += 100 * torch.arange(1, 17)[:, None]
    (warning,) = told(collapsed, tmp_path / "collapsed", dataset)
    assert warning.startswith("step 12: the codebook collapses: 1 of 16 codes (6.2%)")
    assert warning.endswith(advice("vq", warm_start=False))
    lines = [line for line in read_log(tmp_path / "collapsed") if "warnings" in line]
    assert [(line["step"], line["warnings"]) for line in lines] == [(12, [warning])]
    sampler = FeatureSampler(dataset, make_accelerator(TrainingConfig(steps=1, batch_size=1)), 0)
    healthy = make_task(WarmStart(steps=6, features=500), sampler)
    assert told(healthy, tmp_path / "healthy", dataset) == []
    lines = read_log(tmp_path / "healthy")
    assert [line.get("window_usage") is None for line in lines] == [True] + 5 * [False]
    assert lines[1]["codebook_moved"] < 0.5  # since k-means, in the middle of the window
    assert lines[-1]["window_usage"] > 0.9


def config(**training):
    values = {
        "data": {"name": "shapes", "image_size": 16, "count": 48},
        "autoencoder": AUTOENCODER,
        "quantizer": {"name": "cvq", "codebook_size": 16, "dim": 4},
        "optimizer": {"learning_rate": 0.01},
        "training": {"steps": 6, "batch_size": 8, "log_every": 2, "checkpoint_every": 2, **training},
    }
    return TokenizerConfig.model_validate(values)


class TestPictures:
    def test_are_drawn_at_every_checkpoint_and_at_the_end(self, tmp_path, dataset, monkeypatch):
        monkeypatch.setattr(report, "PAUSE", 0)
        draw, drawn = Pictures.draw, []

        def recorded(pictures, tokenizer):
            draw(pictures, tokenizer)
            steps = sorted(int(path.stem[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir())
            folder = tmp_path / "run" / "pictures"
            assert sorted(path.stem for path in folder.iterdir()) == sorted(PNGS)
            drawn.append((steps[-1], {name: (folder / f"{name}.png").read_bytes() for name in PNGS}))

        monkeypatch.setattr(Pictures, "draw", recorded)
        train(config(), dataset, tmp_path / "run")
        assert [step for step, _ in drawn] == [2, 4, 6]
        for (_, before), (_, after) in itertools.pairwise(drawn):
            assert all(before[name] != after[name] for name in PNGS)
        for name in PNGS:
            with Image.open(tmp_path / "run" / "pictures" / f"{name}.png") as picture:
                assert len(picture.convert("L").getcolors()) > 20, name

    def test_change_nothing_of_the_training(self, tmp_path, dataset, monkeypatch):
        monkeypatch.setattr(report, "PAUSE", 0)
        tasks = [make_task(name="cvq", anchor="probability") for _ in range(2)]
        pictures = Pictures(dataset, tmp_path / "drawn")
        run(tasks[0], tmp_path / "drawn", dataset, lambda: pictures.refresh(tasks[0].model))
        run(tasks[1], tmp_path / "plain", dataset)
        assert (tmp_path / "drawn" / "pictures").is_dir()
        assert not (tmp_path / "plain" / "pictures").exists()
        for key, value in tasks[0].state_dict().items():
            assert torch.equal(value, tasks[1].state_dict()[key]), key
        assert scalars(tmp_path / "drawn") == scalars(tmp_path / "plain")

    def test_leave_modes_and_the_random_state_as_they_were(self, tmp_path, dataset):
        model = make_task().model.train()
        model.autoencoder.decoder.eval()
        modes = [module.training for module in model.modules()]
        torch.manual_seed(3)
        with undisturbed(model):
            assert not any(module.training for module in model.modules())
            torch.rand(5)
        assert [module.training for module in model.modules()] == modes
        drawn = torch.rand(2)
        assert torch.equal(torch.manual_seed(3) and torch.rand(2), drawn)

    def test_take_a_small_part_of_the_time(self, tmp_path, dataset, monkeypatch):
        clock, drawn = [0.0], []
        monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])

        def draw(pictures, tokenizer):
            drawn.append(clock[0])
            clock[0] += 2

        monkeypatch.setattr(Pictures, "draw", draw)
        pictures, model = Pictures(dataset, tmp_path), make_task().model
        for moment in (1, 4, 1 + 2 + 2 * report.PAUSE - 1, 1 + 2 + 2 * report.PAUSE + 1):
            clock[0] = moment
            pictures.refresh(model)
        assert drawn == [1, 1 + 2 + 2 * report.PAUSE + 1]

    @pytest.mark.parametrize("quantizer", KINDS, ids=lambda kind: kind["name"])
    def test_show_features_beside_the_codes_they_are_nearest_to(self, tmp_path, dataset, quantizer, monkeypatch):
        monkeypatch.setattr(report, "FEATURES", 48 * 16)
        model = make_task(**quantizer).model.eval()
        own = model.quantizer
        if own.learns_codebook:
            own.initialize_codebook(torch.randn(own.codebook.shape))
        with torch.no_grad():
            features, counts = Pictures(dataset, tmp_path).quantized(model)
        rows, codes = comparable(features, own)
        assert codes.shape == (16, own.codebook.shape[-1])
        if own.distance == "cosine":
            torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
            torch.testing.assert_close(codes.norm(dim=1), torch.ones(16))
        chosen = nearest(rows, codes, own.distance).bincount(minlength=16)
        assert (chosen - counts[:16]).abs().sum() <= 2  # ties in the last bit
        assert counts.sum() == 48 * 16 * own.maps
        assert len(counts) == own.entries
