"""The toy demonstrations: what drifts does so as it says, for every quantiser alike, and numbers can be had again."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from pipelines.toys import run as toys
from pipelines.toys.drift import DRIFTS, Settings, drifting
from pipelines.toys.follow import build, contestants, follow, learn
from stage1_tokenizer.quantizers.base import Quantizer
from twostage.metrics.codebook import usage

TINY = Settings(codes=16, points=128, batch_size=32, epochs=60, encoder_rate=0.02, code_rate=0.06, fresh=2048)
SHORT = replace(TINY, points=64, epochs=7)
QUICK = Settings(points=512, epochs=50, encoder_rate=0.01, fresh=2048)
NAMES = list(contestants(TINY))


def after(name, demo, settings, seed):
    return follow(name, contestants(settings)[name], drifting(DRIFTS[demo], settings, seed), settings, seed)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_codes_and_leaves_the_random_state_alone(name):
    first = after(name, "split", SHORT, 3)
    torch.rand(1)
    before = torch.get_rng_state()
    second, other = (after(name, "split", SHORT, seed) for seed in (3, 4))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.distortion, second.distortion)
    assert not torch.equal(first.codes, other.codes)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("demo", ["translation", "split"])
def test_an_offset_approaches_its_target_by_twice_the_rate(demo):
    stream = drifting(DRIFTS[demo], SHORT, 0)
    left = (1 - 2 * SHORT.encoder_rate) ** torch.arange(len(stream.parameters))
    torch.testing.assert_close(stream.parameters, stream.drift.target * (1 - left)[:, None])
    moved = stream.cloud(-1) - stream.points
    signs = stream.points.sign() if demo == "split" else 1
    torch.testing.assert_close(moved, signs * stream.parameters[-1].expand_as(moved))


@pytest.mark.parametrize(("demo", "factor"), [("expansion", 3), ("shrinking", 1 / 3)])
def test_a_scale_is_learned(demo, factor):
    stream = drifting(DRIFTS[demo], TINY, 0)
    torch.testing.assert_close(stream.parameters[-1], factor * torch.eye(2), atol=0.02, rtol=0)
    assert torch.equal(stream.cloud(0), stream.points)


def test_every_quantiser_meets_the_same_features(monkeypatch):
    met, forward = {}, Quantizer.forward

    def spy(quantizer, z):
        met.setdefault(type(quantizer).__name__, []).append(z.clone())
        return forward(quantizer, z)

    monkeypatch.setattr(Quantizer, "forward", spy)
    stream = drifting(DRIFTS["split"], SHORT, 0)
    starts = [follow(name, entered, stream, SHORT, 0).codes[0] for name, entered in contestants(SHORT).items()]
    first, *others = met.values()
    assert len(others) == len(NAMES) - 1
    assert [z.shape for z in first] == [(SHORT.batch_size, 2, 1, 1)] * SHORT.epochs * SHORT.epoch_steps
    for features in others:
        assert all(map(torch.equal, first, features))
    for codes in starts[1:]:
        assert torch.equal(codes, starts[0])


@pytest.mark.parametrize("name", ["vq", "nsvq"])
def test_a_step_is_the_online_rule(name):
    quantizer = build(name, contestants(TINY)[name], TINY, 0)
    generator = torch.Generator().manual_seed(0)
    before = quantizer.codebook.data.normal_(generator=generator).clone()
    features = torch.randn(TINY.batch_size, 2, generator=generator)
    (_, rate) = contestants(TINY)[name].optimizer
    learn(quantizer, torch.optim.SGD(quantizer.parameters(), lr=rate), features)
    distances = torch.cdist(features, before).square()
    weights = torch.exp(-distances) if name == "nsvq" else torch.zeros_like(distances)
    weights.scatter_(1, distances.argmin(1, keepdim=True), 1)
    ways = features[:, None] - before
    expected = before + TINY.code_rate * (weights[:, :, None] * ways).sum(0)
    torch.testing.assert_close(quantizer.codebook.data, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["ema", "vq", "transvq"])
def test_without_drift_no_code_dies(name):
    trace = after(name, "split", replace(TINY, encoder_rate=0, epochs=15), 0)
    assert (trace.usage == 1).all()
    assert trace.distortion[-1] < 1.1 * trace.distortion[0]


def test_without_drift_the_wide_kernel_gathers_codes_and_the_narrow_one_lets_them_go():
    trace = after("nsvq", "split", replace(TINY, encoder_rate=0), 0)
    assert trace.usage.min() < 0.8
    assert trace.usage[-1] == 1
    assert trace.distortion[-1] < 1.2 * trace.distortion[0]


@pytest.mark.parametrize("seed", range(2))
def test_after_a_translation_nsvq_uses_more_codes_than_a_running_mean(seed):
    ema, nsvq = (after(name, "translation", QUICK, seed) for name in ("ema", "nsvq"))
    assert ema.usage[0] == nsvq.usage[0] == 1
    assert nsvq.usage[-1] > ema.usage[-1] + 0.25
    assert nsvq.distortion[-1] < 0.75 * ema.distortion[-1]


def test_usage_is_that_of_fresh_features_at_their_present_place():
    stream = drifting(DRIFTS["translation"], SHORT, 0)
    trace = follow("vq", contestants(SHORT)["vq"], stream, SHORT, 0)
    assert trace.steps == [*range(0, len(stream.order) + 1, SHORT.epoch_steps)]
    for moment in (0, -1):
        distances = torch.cdist(stream.fresh + stream.parameters[trace.steps[moment]], trace.codes[moment])
        counts = torch.bincount(distances.argmin(1), minlength=SHORT.codes)
        assert trace.usage[moment] == usage(counts)
        assert trace.distortion[moment] == pytest.approx(distances.min(1).values.square().mean().item(), rel=1e-4)


def test_the_command_writes_numbers_a_table_a_figure_and_an_animation(command, monkeypatch, tmp_path):
    monkeypatch.setattr(toys, "Settings", lambda: SHORT)
    answer = command("toys", "--output", tmp_path / "toys", "--seed", "5")
    assert answer.status == 0, answer
    report = json.loads((tmp_path / "toys" / "toys.json").read_text())
    assert report["seed"] == 5
    assert report["results"].keys() == DRIFTS.keys()
    rows = (tmp_path / "toys" / "toys.md").read_text().splitlines()[-len(DRIFTS) :]
    for row, (demo, result) in zip(rows, report["results"].items()):
        assert row.startswith(f"| {demo} | {result['quantizers']['ema']['usage']:.0%} (")
        assert set(result["quantizers"]) == set(NAMES)
    with Image.open(tmp_path / "toys" / "toys.png") as picture:
        assert min(picture.size) > 400
    with Image.open(tmp_path / "toys" / "toys.gif") as picture:
        assert picture.n_frames == SHORT.epochs + 1
        assert picture.info["loop"] == 0


def test_bad_places_and_seeds_are_refused(command, tmp_path):
    place = tmp_path / "file"
    place.touch()
    for options, word in (
        (("--output", place), f"{place} is a file"),
        (("--output", tmp_path / "toys", "--seed", "-1"), "--seed: -1"),
    ):
        command("toys", *options).assert_refused(word)
    assert not (tmp_path / "toys").exists()
