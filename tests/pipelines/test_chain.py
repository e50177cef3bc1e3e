"""The whole way through the real commands: a tokenizer, its frozen codes, both priors, samples, numbers; and again."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from twostage.config import read_yaml

STAGES = ["tokenizer", "ldm", "continuous", "unconditional", "transformer"]


def weights(run):
    return {path.relative_to(run): path.read_bytes() for path in sorted(run.rglob("*.safetensors"))}


def retrain(command, chain, stage, run, *options):
    return command("train", stage, chain.config(stage), "--output", run, *options)


@pytest.mark.parametrize("name", STAGES)
def test_what_a_run_folder_holds(chain, name):
    run = chain / name
    config = read_yaml(run / "config.yaml")
    steps = config["training"]["steps"]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(2, steps + 1, 2))
    assert all(np.isfinite(line["loss"]) for line in log)
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept[-1] == f"step_{steps:08d}.pt"
    assert len(kept) <= 2
    pictures = list((run / "pictures").glob("*.png"))
    assert pictures
    for picture in pictures:
        Image.open(picture).verify()
    saved = run / ("tokenizer/config.json" if name == "tokenizer" else "pipeline/model_index.json")
    assert saved.is_file()
    assert chain.answers[name].out == f"done: {run}\n"


@pytest.mark.parametrize("name", STAGES)
def test_nothing_half_written_and_no_pickled_model(chain, name):
    names = [path.name for path in (chain / name).rglob("*")]
    assert not [n for n in names if n.endswith((".tmp", ".bin"))]


def test_the_resolved_config_states_every_default(chain):
    resolved = read_yaml(chain / "tokenizer" / "config.yaml")
    assert resolved["quantizer"]["decay"] == 0.99
    assert resolved["data"] == {"name": "shapes", "image_size": 16, "count": 96, "seed": 0}
    assert resolved["training"]["precision"] == "fp32"


def test_codes_are_bound_to_tokenizer_data_and_split(chain):
    manifest = json.loads((chain / "codes" / "manifest.json").read_text())
    assert (manifest["count"], manifest["shape"], manifest["codebook_size"]) == (96, [4, 4], 16)
    assert manifest["split"] == "train"
    assert manifest["data"]["name"] == "shapes"
    assert len(manifest["classes"]) == 10
    assert sorted(manifest["files"]) == ["codes-00000.npy", "labels-00000.npy"]
    assert chain.answers["codes"].out == f"done: 96 images in {chain / 'codes'}\n"


def test_kept_latents_quantize_to_the_codes_beside_them(chain):
    from pipelines.runs import load_tokenizer
    from twostage.data.codes import FrozenCodes
    from twostage.models import fingerprint

    tokenizer = load_tokenizer(chain / "tokenizer")
    example = FrozenCodes(chain / "latents", fingerprint(tokenizer))[5]
    codes = tokenizer.quantize(example["latents"]).codes
    assert (codes == example["codes"]).float().mean() > 0.9  # latents are float16 on disk


def test_latents_of_the_continuous_prior_are_the_encoders(chain):
    quantized, continuous = (
        json.loads((chain / prior / "pipeline" / "denoiser" / "config.json").read_text())
        for prior in ("ldm", "continuous")
    )
    assert (quantized["latents"], continuous["latents"]) == ("quantized", "continuous")
    assert quantized["latent_mean"] != continuous["latent_mean"]


@pytest.mark.parametrize("prior", ["ldm", "continuous", "transformer"])
def test_samples_are_images_named_by_class(chain, prior):
    folder = chain / f"{prior}_samples"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["00000_class003.png", "00001_class003.png", "00002_class000.png", "00003_class000.png", "grid.png"]
    assert {Image.open(folder / name).size for name in names[:-1]} == {(16, 16)}


@pytest.mark.parametrize("prior", ["ldm", "transformer"])
def test_sampling_again_gives_the_same_bytes_and_another_seed_others(chain, command, tmp_path, prior):
    steps = ["--steps", 3] if prior == "ldm" else []
    labels = ["--class-label", "star", "--class-label", 0, "--num-images", 2]
    for seed in (0, 1):
        command("sample", chain / prior, "--output", tmp_path / str(seed), "--seed", seed, *labels, *steps)
    expected = (chain / f"{prior}_samples" / "grid.png").read_bytes()
    assert (tmp_path / "0" / "grid.png").read_bytes() == expected
    assert (tmp_path / "1" / "grid.png").read_bytes() != expected


def test_reconstruction_rows(chain):
    rows = json.loads((chain / "tokenizer" / "metrics.json").read_text())
    assert 0 < rows["L1"] < 1
    assert rows["PSNR"] > 0
    assert -1 <= rows["SSIM"] <= 1
    assert 0 < rows["usage"] <= 1
    assert 1 <= rows["perplexity"] <= 16
    assert (rows["n"], rows["images"]["split"], rows["protocol"]) == (96, "test", "default")
    assert len(rows["model"]) == len(rows["images"]["pixels"]) == 64
    for name in ("LPIPS", "rFID@96"):  # this machine has no published weights, and the command ended well all the same
        assert rows[name].startswith("missing: ")
        assert f"{name}  missing: " in chain.answers["evaluate tokenizer"].out


@pytest.mark.parametrize("prior", ["ldm", "transformer"])
def test_generation_rows(chain, prior):
    rows = json.loads((chain / prior / "metrics.json").read_text())
    for name in ("FID@12", "KID@12", "IS@12", "precision@12", "recall@12"):
        assert rows[name].startswith("missing: ")
    assert "inception" in rows["FID@12"]
    assert (rows["n"], rows["seed"], rows["protocol"], rows["classes"]) == (12, 0, "ldm", "balanced")
    assert rows["sampling"]["guidance_scale"] == 1.0


@pytest.mark.parametrize("name", ["tokenizer", "ldm", "transformer"])
def test_the_same_command_again_trains_nothing_and_keeps_the_weights(chain, command, name):
    run = chain / name
    before = weights(run)
    stamps = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").iterdir()}
    log = (run / "log.jsonl").read_text()
    assert retrain(command, chain, name, run).status == 0
    assert before
    assert weights(run) == before
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").iterdir()} == stamps
    assert (run / "log.jsonl").read_text() == log


def test_an_interrupted_run_goes_on_to_the_same_weights(chain, command, tmp_path, monkeypatch):
    from stage1_tokenizer.train import TokenizerTask

    before_step = TokenizerTask.before_step

    def interrupt(task, progress):
        if progress.step == 5:
            raise KeyboardInterrupt
        before_step(task, progress)

    with monkeypatch.context() as patch:
        patch.setattr(TokenizerTask, "before_step", interrupt)
        answer = retrain(command, chain, "tokenizer", tmp_path / "run")
    assert answer.status == 130
    assert "Traceback" not in answer.err
    last = answer.err.splitlines()[-1]
    assert last.startswith("twostage: interrupted")
    assert "same command" in last
    assert not (tmp_path / "run" / "tokenizer").exists()
    assert retrain(command, chain, "tokenizer", tmp_path / "run").status == 0
    assert weights(tmp_path / "run") == weights(chain / "tokenizer")


def test_a_run_may_move_with_its_codes(chain, command, tmp_path):
    """Where codes and tokenizer lie is not part of what a run is."""
    for name in ("codes", "tokenizer", "transformer"):
        shutil.copytree(chain / name, tmp_path / name)
    moved = ("--set", f"codes={tmp_path / 'codes'}", "--set", f"tokenizer={tmp_path / 'tokenizer'}")
    assert retrain(command, chain, "transformer", tmp_path / "transformer", *moved).status == 0
    assert weights(tmp_path / "transformer") == weights(chain / "transformer")


@pytest.fixture
def codes(chain, tmp_path):
    """A copy of the codes, to be spoilt."""
    return shutil.copytree(chain / "codes", tmp_path / "codes")


def assert_codes_refused(command, chain, codes, tmp_path, *words):
    for stage in ("ldm", "transformer"):
        answer = retrain(command, chain, stage, tmp_path / "run", "--set", f"codes={codes}")
        answer.assert_refused(*words)
        assert not (tmp_path / "run").exists()


def test_codes_of_another_tokenizer_are_refused(chain, command, codes, tmp_path):
    manifest = json.loads((codes / "manifest.json").read_text())
    other = {**manifest, "tokenizer": "0123456789abcdef" * 4}
    (codes / "manifest.json").write_text(json.dumps(other))
    mine = manifest["tokenizer"][:12]
    assert_codes_refused(command, chain, codes, tmp_path, str(codes), "0123456789ab", mine, "encode the data again")


def test_a_truncated_shard_is_refused(chain, command, codes, tmp_path):
    shard = codes / "codes-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert_codes_refused(command, chain, codes, tmp_path, f"{shard}: this shard is truncated or changed")


def test_a_changed_shard_is_refused(chain, command, codes, tmp_path):
    shard = codes / "labels-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-8] ^= 1
    shard.write_bytes(content)
    assert_codes_refused(command, chain, codes, tmp_path, f"{shard}: this shard is truncated or changed")


def test_a_missing_shard_is_refused(chain, command, codes, tmp_path):
    (codes / "codes-00000.npy").unlink()
    assert_codes_refused(command, chain, codes, tmp_path, "codes-00000.npy: this shard is missing")


def test_continuous_latents_that_were_not_kept_are_refused(chain, command, tmp_path):
    answer = retrain(command, chain, "ldm", tmp_path / "run", "--set", "latents=continuous")
    answer.assert_refused("latents: 'continuous' is not allowed", "encoded without --latents")
    assert not (tmp_path / "run").exists()


def test_a_label_asked_for_twice_gives_files_of_its_own(chain, command, tmp_path):
    answer = command(
        "sample", chain / "transformer", "--class-label", 3, "--class-label", 3, "--num-images", 1, "--output", tmp_path
    )
    assert answer.status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000_class003.png", "00001_class003.png", "grid.png"]
