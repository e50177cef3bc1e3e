"""`train ... --from`: what a run takes over from the one it starts from, and what it refuses to start from."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

ADVERSARIAL = "loss.adversarial={start: 0, warmup: 4, ramp: 2, layers: 2, width: 8}"
VQ = ("warm_start=null", "quantizer={name: vq, codebook_size: 16, dim: 4}", ADVERSARIAL)
STILL = "optimizer.learning_rate=1e-30"
"""A rate at which no weight can change."""


def train(command, chain, stage, output, *assignments, start=None):
    options = [option for assignment in assignments for option in ("--set", assignment)]
    options += [] if start is None else ["--from", start]
    return command("train", stage, chain.config(stage), "--output", output, *options)


def weights(folder):
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def checkpoint(run):
    return torch.load(max((run / "checkpoints").iterdir()), weights_only=True)


def discriminator(run):
    return {name: value for name, value in checkpoint(run)["task"].items() if "discriminator" in name}


def assert_same(state, other):
    assert state.keys() == other.keys()
    assert state
    for name, value in state.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-20)


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Drawing takes longer than all else here."""
    from stage1_tokenizer.report import Pictures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pictures, "draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def begun(configs, command, tmp_path_factory):
    """A tokenizer's run whose codes move by gradient only, with a discriminator that has learned."""
    run = tmp_path_factory.mktemp("begun") / "run"
    assert train(command, configs, "tokenizer", run, *VQ).status == 0
    return run


def test_at_no_rate_a_tokenizer_and_its_judge_stay_what_they_were(configs, command, begun, tmp_path):
    answer = train(command, configs, "tokenizer", tmp_path / "run", *VQ, STILL, start=begun)
    assert (answer.status, answer.err.count("warning")) == (0, 0), answer.err
    assert_same(weights(tmp_path / "run" / "tokenizer"), weights(begun / "tokenizer"))
    assert_same(discriminator(tmp_path / "run"), discriminator(begun))


def test_the_judge_is_heard_no_sooner_than_in_a_run_from_scratch(configs, command, begun, tmp_path):
    assert train(command, configs, "tokenizer", tmp_path / "run", *VQ, start=begun).status == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all("discriminator" in line for line in log)
    assert [line["step"] for line in log if "generator" in line] == [6, 8]


def test_a_saved_tokenizer_will_do_and_images_may_have_another_size(configs, command, begun, tmp_path):
    saved = shutil.copytree(begun / "tokenizer", tmp_path / "saved")
    larger = "data={name: shapes, image_size: 32, count: 32}"
    answer = train(command, configs, "tokenizer", tmp_path / "run", *VQ, STILL, larger, start=saved)
    assert answer.status == 0
    assert f"warning: {saved}: holds no discriminator" in answer.err
    assert_same(weights(tmp_path / "run" / "tokenizer"), weights(saved))
    assert json.loads((tmp_path / "run" / "tokenizer" / "config.json").read_text())["image_size"] == 32


def test_another_discriminator_starts_anew(configs, command, begun, tmp_path):
    wider = ADVERSARIAL.replace("width: 8", "width: 4")
    answer = train(command, configs, "tokenizer", tmp_path / "run", *VQ, wider, start=begun)
    assert (answer.status, "holds another kind of discriminator" in answer.err) == (0, True)


def test_the_running_state_of_a_codebook_goes_on(chain, command, tmp_path):
    """CVQ's offline update happens once, and has happened."""
    run = tmp_path / "run"
    codebook = {"name": "cvq", "codebook_size": 16, "dim": 4, "distance": "l2", "update": "offline"}
    options = ("warm_start=null", f"quantizer={json.dumps(codebook)}")
    assert train(command, chain, "tokenizer", run, *options).status == 0
    assert train(command, chain, "tokenizer", tmp_path / "tuned", *options, STILL, start=run).status == 0
    before, after = (weights(folder / "tokenizer") for folder in (run, tmp_path / "tuned"))
    assert (before["quantizer.updates"], after["quantizer.updates"]) == (8, 16)
    torch.testing.assert_close(after["quantizer.codebook"], before["quantizer.codebook"], rtol=0, atol=1e-20)


def test_an_interrupted_run_goes_on_without_what_it_started_from(configs, command, begun, tmp_path, monkeypatch):
    from stage1_tokenizer.train import TokenizerTask

    before_step = TokenizerTask.before_step

    def interrupt(task, progress):
        if progress.step == 5:
            raise KeyboardInterrupt
        before_step(task, progress)

    start = shutil.copytree(begun, tmp_path / "start")
    assert train(command, configs, "tokenizer", tmp_path / "whole", *VQ, start=start).status == 0
    with monkeypatch.context() as patch:
        patch.setattr(TokenizerTask, "before_step", interrupt)
        assert train(command, configs, "tokenizer", tmp_path / "parts", *VQ, start=start).status == 130
    shutil.rmtree(start)
    assert train(command, configs, "tokenizer", tmp_path / "parts", *VQ, start=start).status == 0
    assert_same(checkpoint(tmp_path / "parts")["task"], checkpoint(tmp_path / "whole")["task"])
    answer = train(command, configs, "tokenizer", tmp_path / "parts", *VQ)
    assert (answer.status, f"start_from: '{start}' there, None here" in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["quantizer.codebook_size=8"], ["quantizer.codebook_size: 8 is not allowed; allowed: 16, as in "]),
        (["quantizer={name: fc, codebook_size: 16, dim: 4}"], ["quantizer.name: 'fc'", "'vq'"]),
        (["autoencoder.width=12"], ["autoencoder.width: 12", "8, as in "]),
        (["warm_start={}"], ["warm_start: {", "null with start_from"]),
    ],
)
def test_a_config_of_another_tokenizer(configs, command, begun, tmp_path, assignments, words):
    answer = train(command, configs, "tokenizer", tmp_path / "run", *VQ, *assignments, start=begun)
    answer.assert_refused(*words)
    assert not (tmp_path / "run").exists()


def test_images_of_other_channels(tokenizer):
    from stage1_tokenizer.finetune import inherit_tokenizer
    from stage1_tokenizer.tokenizer import VQTokenizer
    from twostage.errors import TwoStageError

    grey = VQTokenizer(tokenizer.config["autoencoder_config"], tokenizer.config["quantizer_config"], 16, channels=1)
    with pytest.raises(TwoStageError, match="channels: 1 is not allowed; allowed: 3, as in there"):
        inherit_tokenizer(grey, tokenizer, "there")


def test_places_that_hold_nothing_to_start_from(chain, command, tmp_path):
    for stage, part, start, why in [
        ("tokenizer", "tokenizer", tmp_path / "nowhere", "there is no such folder"),
        ("tokenizer", "tokenizer", tmp_path, "no tokenizer/config.json"),
        ("ldm", "denoiser", chain / "tokenizer", "no denoiser/config.json"),
        ("transformer", "prior", chain / "ldm", "no prior/config.json"),
        ("ldm", "denoiser", chain / "ldm" / "pipeline" / "tokenizer", "no denoiser/config.json"),
    ]:
        cold = ["warm_start=null"] if stage == "tokenizer" else []
        answer = train(command, chain, stage, tmp_path / "run", *cold, start=start)
        assert (answer.status, f"{start}: holds no {part} ({why})" in answer.err) == (2, True), answer.err
        assert not (tmp_path / "run").exists()


# Priors


@pytest.mark.parametrize(("stage", "part"), [("ldm", "denoiser"), ("transformer", "prior")])
def test_at_no_rate_a_prior_stays_what_it_was(chain, command, tmp_path, stage, part):
    """On the codes of other images, whose statistics are others."""
    run, codes = tmp_path / "run", tmp_path / "codes"
    test = ("--tokenizer", chain / "tokenizer", "--split", "test", "--output", codes)
    assert command("encode", *test).status == 0
    assert train(command, chain, stage, run, STILL, f"codes={codes}", start=chain / stage).status == 0
    before, after = (folder / "pipeline" / part for folder in (chain / stage, run))
    assert_same(weights(after), weights(before))
    assert (after / "config.json").read_text() == (before / "config.json").read_text()


def test_an_interrupted_prior_keeps_the_statistics_of_what_it_started_from(chain, command, tmp_path, monkeypatch):
    from stage2_ldm.train import LDMTask

    def interrupt(task, progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    start, run = shutil.copytree(chain / "ldm", tmp_path / "start"), tmp_path / "parts"
    other = ("latents=continuous", f"codes={chain / 'latents'}")
    assert train(command, chain, "ldm", tmp_path / "whole", *other, start=start).status == 0
    with monkeypatch.context() as patch:
        patch.setattr(LDMTask, "before_step", interrupt)
        assert train(command, chain, "ldm", run, *other, start=start).status == 130
    shutil.rmtree(start)
    assert train(command, chain, "ldm", run, *other, start=start).status == 0
    whole, parts, before = (f / "pipeline" / "denoiser" for f in (tmp_path / "whole", run, chain / "ldm"))
    assert_same(weights(parts), weights(whole))
    assert (parts / "config.json").read_text() == (whole / "config.json").read_text()
    of = {folder: json.loads((folder / "config.json").read_text())["latent_mean"] for folder in (parts, before)}
    assert of[parts] == of[before]


def test_a_prior_for_another_number_of_classes(chain, command, tmp_path):
    answer = train(command, chain, "ldm", tmp_path / "run", "training.steps=2", start=chain / "unconditional")
    assert answer.status == 0, answer.err
    config = json.loads((tmp_path / "run" / "pipeline" / "denoiser" / "config.json").read_text())
    assert config["num_classes"] == 10


@pytest.mark.parametrize(
    ("stage", "assignment", "words"),
    [
        ("ldm", "denoiser.layers=2", ["denoiser.layers: 2", "1, as in"]),
        ("ldm", "objective.prediction_type=v_prediction", ["prediction_type: 'v_prediction'", "'epsilon', as in"]),
        ("transformer", "prior.layers=2", ["prior.layers: 2", "1, as in"]),
        (
            "transformer",
            "prior={name: llama, layers: 1, heads: 2, width: 16}",
            ["prior.name: 'llama'", "'gpt2', as in"],
        ),
    ],
)
def test_a_config_of_another_prior(chain, command, tmp_path, stage, assignment, words):
    answer = train(command, chain, stage, tmp_path / "run", assignment, start=chain / stage)
    answer.assert_refused(*words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("factor", "warned"), [(1.0, False), (1.5, False), (3.0, True), (0.3, True)])
def test_latents_far_from_those_known(ldm, recwarn, factor, warned):
    from stage2_ldm.train import LatentStatistics, kept_statistics

    config = ldm.denoiser.config
    measured = LatentStatistics([m * factor for m in config["latent_mean"]], [s * factor for s in config["latent_std"]])
    kept = kept_statistics(ldm.denoiser, measured)
    assert (kept.mean, kept.std) == (config["latent_mean"], config["latent_std"])
    assert bool(recwarn.list) == warned
