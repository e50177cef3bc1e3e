"""Measuring samples: what a row says, what is drawn again and what is not, and what is refused."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

NETWORK = """
import torch
from torch import nn
from twostage.metrics.features import Features

class Pixels(nn.Module):
    def forward(self, images):
        small = nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
        return Features(features=small, logits=9 * small)

def pixels():
    return Pixels()
"""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "network.py").write_text(NETWORK)
    return f"{tmp_path / 'network.py'}:pixels"


@pytest.fixture
def evaluate(chain, command, tmp_path, spec):
    """(name of the output, prior, *options) -> the answer and the row, of 12 samples in chunks of 5."""

    def run(name, *options, prior="transformer"):
        output = tmp_path / f"{name}.json"
        always = ("--network", spec, "--num-images", 12, "--batch-size", 5, "--cache", tmp_path / "cache")
        answer = command("evaluate", "generation", chain / prior, *always, "--output", output, *options)
        return answer, json.loads(output.read_text()) if answer.status == 0 and output.is_file() else None

    return run


def parts(tmp_path, name):
    return {path.name: path for path in sorted((tmp_path / f"{name}.json.parts").rglob("*.safetensors"))}


def content(tmp_path, name):
    return {part: path.read_bytes() for part, path in parts(tmp_path, name).items()}


@pytest.fixture
def drawn(monkeypatch):
    """How many images are drawn."""
    from pipelines.evaluation import drawing

    class Count:
        images = 0
        stop_after = None

    def counted(pipeline, indices, labels, **options):
        if Count.stop_after is not None and Count.images >= Count.stop_after:
            raise KeyboardInterrupt
        Count.images += len(indices)
        return sample_some(pipeline, indices, labels, **options)

    sample_some = drawing.sample_some
    monkeypatch.setattr(drawing, "sample_some", counted)
    return Count


# What a row says


def test_a_row_says_what_its_numbers_depend_on(evaluate, tmp_path, chain):
    answer, row = evaluate("row")
    assert {"FD-pixels@12", "KD-pixels@12", "IS-pixels@12", "precision-pixels@12", "recall-pixels@12"} <= row.keys()
    assert not any("FID" in name for name in row)
    assert (row["protocol"], row["n"], row["n_reference"], row["seed"]) == ("ldm", 12, 96, 0)
    assert row["reference"]["split"] == "train"
    assert row["reference"]["data"]["name"] == "shapes"
    assert row["sampling"].items() >= {"guidance_scale": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}.items()
    fingerprints = (row["model"], row["samples"], row["reference"]["pixels"], row["network"]["fingerprint"])
    assert all(len(fingerprint) == 64 for fingerprint in fingerprints)
    assert row["libraries"]["torch"] == torch.__version__.split("+")[0]
    header, rule, cells = (tmp_path / "row.md").read_text().splitlines()
    columns = [name.strip() for name in header.strip("|").split("|")]
    values = dict(zip(columns, (cell.strip() for cell in cells.strip("|").split("|"))))
    assert set(rule) <= set("|- ")
    assert values["FD-pixels@12"] == f"{row['FD-pixels@12']:.4f}"
    assert values["model"] == row["model"][:12]
    assert f"top_p={row['sampling']['top_p']:.4f}" in values["sampling"]
    assert str(tmp_path / "row.json") in answer.out


@pytest.mark.parametrize(
    ("options", "said", "expected"),
    [
        (["--split", "test"], "protocol", "ldm (split: test)"),
        (["--split", "train"], "protocol", "ldm"),
        (["--classes", "data"], "protocol", "ldm (classes: data)"),
        (["--protocol", "clean"], "protocol", "clean"),
        (["--temperature", 0.5], "sampling", 0.5),
    ],
)
def test_what_is_changed_is_said(evaluate, options, said, expected):
    row = evaluate("row", *options)[1]
    assert (row["sampling"]["temperature"] if said == "sampling" else row[said]) == expected


def test_the_numbers_are_those_of_the_samples_and_the_training_images(evaluate, tmp_path, spec, chain):
    """Taken again from the saved samples, all at once."""
    from pipelines.runs import data_of
    from twostage.data import DATASETS
    from twostage.metrics.features import load_network
    from twostage.metrics.generation import generation_metrics

    row = evaluate("row", "--save-npz", tmp_path / "samples.npz")[1]
    samples = np.load(tmp_path / "samples.npz")["arr_0"]
    assert (samples.shape, samples.dtype) == ((12, 16, 16, 3), np.uint8)
    training = DATASETS.build(data_of(chain / "transformer"), split="train")
    expected = generation_metrics(training, torch.from_numpy(samples).permute(0, 3, 1, 2), load_network(spec))
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-6), name


def test_samples_of_an_array_are_those_of_the_files_and_of_the_sample_command(evaluate, command, chain, tmp_path):
    evaluate("row", "--save-npz", tmp_path / "samples.npz", "--save-images", tmp_path / "images")
    samples = np.load(tmp_path / "samples.npz")["arr_0"]
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"{i:06d}.png" for i in range(12)]
    files = np.stack([np.asarray(Image.open(tmp_path / "images" / name)) for name in names])
    assert np.array_equal(files, samples)
    every = ("--num-images", 1, "--seed", 0)
    command("sample", chain / "transformer", "--output", tmp_path / "few", *every)  # one of each class, in their order
    few = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "few").glob("0*.png"))]
    assert np.array_equal(np.stack(few), samples[:10])


def test_without_inception_samples_are_drawn_only_to_be_kept(command, chain, tmp_path, drawn):
    always = ("evaluate", "generation", chain / "transformer", "--num-images", 6, "--output", tmp_path / "row.json")
    assert command(*always).status == 0
    assert drawn.images == 0
    assert command(*always, "--save-npz", tmp_path / "samples.npz").status == 0
    assert drawn.images == 6
    row = json.loads((tmp_path / "row.json").read_text())
    assert row["FID@6"].startswith("missing: ")
    assert len(np.load(tmp_path / "samples.npz")["arr_0"]) == 6


# Going on, and beginning anew


def test_an_evaluation_that_was_interrupted_goes_on_to_the_same_row(evaluate, tmp_path, drawn):
    _, whole = evaluate("whole")
    drawn.images, drawn.stop_after = 0, 5
    answer, _ = evaluate("again")
    assert answer.status == 130
    assert "same command" in answer.err.splitlines()[-1]
    assert list(parts(tmp_path, "again")) == ["features-00000000-00000005.safetensors"]
    drawn.stop_after = None
    assert evaluate("again")[1] == whole
    assert drawn.images == 12
    assert content(tmp_path, "again") == content(tmp_path, "whole")


def test_the_same_command_draws_nothing_and_more_images_only_the_new_ones(evaluate, drawn):
    _, first = evaluate("row")
    assert evaluate("row")[1] == first
    assert drawn.images == 12
    evaluate("row", "--num-images", 20)
    assert drawn.images == 12 + 10


@pytest.mark.parametrize(
    "options",
    [("--seed", 1), ("--temperature", 0.5), ("--classes", "uniform"), ("--classes", "data"), ("--batch-size", 4)],
    ids=lambda options: options[0],
)
def test_other_samples_are_not_taken_from_the_cache(evaluate, drawn, options):
    _, first = evaluate("row")
    _, second = evaluate("row", *options)
    assert drawn.images == 24
    assert first["samples"] != second["samples"]


def test_samples_of_other_weights_are_not_taken_from_the_cache(evaluate, drawn, chain, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    evaluate("row")
    run = shutil.copytree(chain / "transformer", tmp_path / "run")
    weights = next((run / "pipeline" / "prior").glob("*.safetensors"))
    changed = {name: tensor + 0.5 for name, tensor in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    evaluate("row", prior=run)
    assert drawn.images == 24


def test_a_damaged_part_is_drawn_again(evaluate, tmp_path, drawn):
    _, first = evaluate("row")
    path = parts(tmp_path, "row")["features-00000005-00000010.safetensors"]
    path.write_bytes(path.read_bytes()[:-3])
    assert evaluate("row")[1] == first
    assert drawn.images == 17


def killed_after(images, run):
    from pipelines.evaluation import drawing

    keep = drawing.Drawn.keep

    def kept(self, part, *rest):
        if part.start >= images:
            os.kill(os.getpid(), signal.SIGKILL)
        keep(self, part, *rest)

    drawing.Drawn.keep = kept
    run()


def test_two_processes_and_one_that_was_killed_are_one(evaluate, tmp_path, forked, two_processes):
    _, whole = evaluate("whole", "--save-images", tmp_path / "whole")
    options = ("--save-images", tmp_path / "pair", "--cache", tmp_path / "another cache")
    two_processes(tmp_path / "meet", lambda: evaluate("pair", *options))
    assert json.loads((tmp_path / "pair.json").read_text()) == whole
    assert forked(killed_after, 5, lambda: evaluate("killed")) == [-signal.SIGKILL]
    assert len(parts(tmp_path, "killed")) == 1
    assert evaluate("killed")[1] == whole
    features = {name: data for name, data in content(tmp_path, "whole").items() if name.startswith("features")}
    assert content(tmp_path, "killed") == features
    assert content(tmp_path, "pair") == content(tmp_path, "whole")
    pictures = [{path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("whole", "pair")]
    assert pictures[0] == pictures[1]


# Other references, classes, neighbours


def test_a_published_file_as_the_reference(evaluate, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "reference.npz", images)
    _, row = evaluate("row", "--protocol", "adm", "--reference", tmp_path / "reference.npz")
    assert (row["protocol"], row["classes"], row["n_reference"]) == ("adm", "uniform", 30)
    assert row["reference"]["file"] == "reference.npz"
    assert row["FD-pixels@12"] > 0


def test_every_class_with_enough_images_has_a_distance(evaluate, monkeypatch, tmp_path, spec):
    from pipelines.evaluation import generation
    from twostage.metrics.features import load_network
    from twostage.metrics.gaussian import fit_gaussian, frechet_distance

    monkeypatch.setattr(generation, "PER_CLASS", 3)
    _, row = evaluate("row", "--per-class", "--num-images", 24, "--save-npz", tmp_path / "samples.npz")
    classes = row["per_class"]
    assert list(classes)[3] == "star"
    assert "FD-pixels@3" in classes["star"]
    assert classes["star"]["n"] == 3
    few = [found for found in classes.values() if found["n"] < 3]
    assert few
    assert all(found["FD-pixels@2"].startswith("missing: ") for found in few)
    stars = torch.from_numpy(np.load(tmp_path / "samples.npz")["arr_0"][3::10]).permute(0, 3, 1, 2)
    from twostage.data import DATASETS

    training = DATASETS.build(row["reference"]["data"], split="train")
    real = torch.utils.data.Subset(training, [i for i in range(96) if training[i]["class_label"] == 3])
    sides = [fit_gaussian([load_network(spec).extract(side).features]) for side in (real, stars)]
    assert classes["star"]["FD-pixels@3"] == pytest.approx(frechet_distance(*sides), rel=1e-6)


def test_neighbours_are_shown_and_counted(evaluate, tmp_path):
    _, row = evaluate("row", "--neighbours")
    Image.open(tmp_path / "pictures" / "neighbours.png").verify()
    found = row["neighbours"]
    assert (found["samples"], found["unseen"]) == (12, 96)
    assert 0 <= found["too_near"] <= 1
    assert found["median_distance"] > 0


def test_a_generator_that_recites_is_caught(spec, tmp_path):
    from pipelines.evaluation.memorisation import Queries, memorisation
    from twostage.data import DATASETS
    from twostage.metrics.features import load_network
    from twostage.metrics.reference import data_reference

    data = DATASETS.resolve({"name": "shapes", "image_size": 16, "count": 96}, "data")
    network, training = load_network(spec), DATASETS.build(data, split="train")
    reference = data_reference(data, "train", network, tmp_path)
    recited = torch.stack([training[i]["images"] for i in range(0, 96, 4)])
    features = reference.parts.rows("features", list(range(0, 96, 4)))
    queries = Queries(features=features, redraw=lambda indices: recited[indices])
    said = memorisation(queries, reference, data, network, tmp_path / "neighbours.png")
    assert said["too_near"] == 1.0
    assert said["median_distance"] == pytest.approx(0, abs=1e-6)


# Refusals


MISTAKES = [
    (["--protocol", "fid"], ("--protocol: 'fid'", "ldm, adm, clean")),
    (["--protocol", "adm"], ("--reference", "protocol adm needs")),
    (["--reference", "x.npz"], ("--reference: 'x.npz'", "--protocol adm only")),
    (["--protocol", "adm", "--reference", "x.npz"], ("x.npz: could not be read (No such file",)),
    (["--protocol", "adm", "--split", "test"], ("--split: 'test'", "is a file")),
    (["--protocol", "adm", "--reference", "x.npz", "--classes", "data"], ("--classes: 'data'", "balanced or uniform")),
    (["--protocol", "adm", "--reference", "x.npz", "--neighbours"], ("--neighbours", "training images")),
    (["--split", "test", "--neighbours"], ("--neighbours", "training images")),
    (["--classes", "all"], ("--classes: 'all'", "balanced, uniform, data")),
    (["--batch-size", 0], ("--batch-size: 0", "at least 1")),
    (["--seed", -1], ("seed: -1", "at least 0")),
    (["--data", "nowhere"], ("data.root: unknown key",)),
]


@pytest.mark.parametrize(("options", "words"), MISTAKES)
def test_mistakes_are_refused_before_anything_is_drawn(evaluate, drawn, options, words, tmp_path):
    answer, _ = evaluate("row", *options)
    answer.assert_refused(*words)
    assert drawn.images == 0
    assert not (tmp_path / "row.json").exists()


def test_a_model_without_classes_has_none_to_choose(evaluate):
    assert evaluate("row", "--steps", 2, prior="unconditional")[1]["classes"] is None
    answer, _ = evaluate("row", "--steps", 2, "--per-class", prior="unconditional")
    assert "--per-class: True" in answer.err


def test_reference_images_of_another_size_are_refused(evaluate, tmp_path):
    np.savez(tmp_path / "reference.npz", np.zeros((8, 32, 32, 3), dtype=np.uint8))
    answer, _ = evaluate("row", "--protocol", "adm", "--reference", tmp_path / "reference.npz")
    assert "size of the reference images: 32 is not allowed; allowed: 16" in answer.err


def test_a_folder_with_other_images_is_refused(evaluate, tmp_path, drawn):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000012.png").write_bytes(b"")  # of an earlier, larger evaluation
    answer, _ = evaluate("row", "--save-images", tmp_path / "images")
    assert "a folder without other files; there is 000012.png" in answer.err
    assert drawn.images == 0
