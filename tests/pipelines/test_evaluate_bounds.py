"""How near samples can come: real images and their reconstructions, compared as samples are."""

import json

import pytest
import torch


@pytest.fixture
def bounds(chain, command, tmp_path, pixels):
    """(run, *options) -> the answer and the row."""

    def run(name, *options):
        output = tmp_path / "bounds.json"
        always = ("--network", pixels, "--cache", tmp_path / "cache", "--output", output)
        answer = command("evaluate", "bounds", chain / name, *always, *options)
        return answer, json.loads(output.read_text()) if output.is_file() else None

    return run


def test_floor_and_limit_are_the_distances_of_unseen_images_and_their_reconstructions(bounds, chain, pixels):
    from pipelines.runs import data_of, load_tokenizer
    from twostage.data import DATASETS
    from twostage.data.images import to_uint8
    from twostage.metrics.features import load_network
    from twostage.metrics.generation import generation_metrics

    row = bounds("tokenizer", "--num-images", 9, "--batch-size", 4)[1]
    real, unseen = (DATASETS.build(data_of(chain / "tokenizer"), split=split) for split in ("train", "test"))
    chosen = torch.stack([unseen[i]["images"] for i in unseen.spread(9)])
    tokenizer = load_tokenizer(chain / "tokenizer")
    with torch.no_grad():
        given = tokenizer.decode(tokenizer.encode(chosen).z_q).clamp(-1, 1)
    for name, images in (("floor", chosen), ("limit", given)):
        expected = generation_metrics(real, to_uint8(images), load_network(pixels))
        for key in ("FD-pixels@9", "KD-pixels@9", "precision-pixels@9", "recall-pixels@9"):
            assert row[f"{name} {key}"] == pytest.approx(expected[key], rel=1e-5, abs=1e-7), (name, key)
    assert (row["n"], row["n_reference"], row["images"]) == (9, len(real), "test")
    assert not any("FID" in key for key in row)


def test_a_prior_has_the_bounds_of_its_tokenizer(bounds):
    assert bounds("transformer", "--num-images", 5)[1] == bounds("tokenizer", "--num-images", 5)[1]


MISTAKES = [
    (["--num-images", 3], ("num_images: 3", "4..")),
    (["--num-images", 10**6], ("num_images: 1000000", "number of test images")),
    (["--num-images", 5, "--protocol", "adm"], ("--protocol: 'adm'", "images of the data set")),
]


@pytest.mark.parametrize(("options", "words"), MISTAKES)
def test_mistakes_are_refused_before_anything_is_written(bounds, options, words):
    answer, row = bounds("tokenizer", *options)
    assert (answer.status, row, len(answer.err.splitlines())) == (2, None, 1)
    for word in words:
        assert word in answer.err
