"""What a row of reconstruction says, and that it does not depend on batches and processes."""

import json

import pytest
import torch

from pipelines.evaluation.reconstruction import evaluate_reconstruction
from twostage.data import DATASETS
from twostage.metrics.features import load_network
from twostage.parts import pixel_digest


@pytest.fixture
def network(pixels):
    return load_network(pixels)


@pytest.fixture
def dataset():
    data = DATASETS.resolve({"name": "shapes", "image_size": 16, "count": 50}, "data")
    return DATASETS.build(data, split="test")


def test_counts_are_over_the_whole_set_however_it_is_cut(tokenizer, dataset, network):
    whole = evaluate_reconstruction(tokenizer, dataset, network)
    parts = evaluate_reconstruction(tokenizer, dataset, network, batch_size=7)
    assert whole["n"] == parts["n"] == 50
    for name in ("L1", "PSNR", "SSIM", "usage", "perplexity", "rFD-pixels@50"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4), name
    images = torch.stack([dataset[i]["images"] for i in range(50)])
    codes = tokenizer.encode(images).codes
    assert whole["usage"] == pytest.approx(len(codes.unique()) / 16)
    share = codes.flatten().bincount() / codes.numel()
    assert whole["perplexity"] == pytest.approx(torch.exp(-torch.xlogy(share, share).sum()).item(), rel=1e-5)


def test_two_processes_give_the_row_of_one(tokenizer, dataset, network, tmp_path, two_processes):
    one = evaluate_reconstruction(tokenizer, dataset, network, batch_size=9)

    def run():
        from twostage.training.distributed import rank

        row = evaluate_reconstruction(tokenizer, dataset, network, batch_size=9)
        (tmp_path / f"{rank()}.json").write_text(json.dumps(row))

    two_processes(tmp_path / "meet", run)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == one


def test_the_images_are_told_apart_by_their_pixels(tokenizer, dataset, network):
    from twostage.data.images import to_uint8

    found = [evaluate_reconstruction(tokenizer, data, network)["pixels"] for data in (dataset, dataset)]
    other = DATASETS.build(
        DATASETS.resolve({"name": "shapes", "image_size": 16, "count": 50, "seed": 1}, ""), split="test"
    )
    assert found[0] == found[1] != evaluate_reconstruction(tokenizer, other, network)["pixels"]
    assert pixel_digest(to_uint8(dataset[0]["images"][None])) != pixel_digest(to_uint8(dataset[1]["images"][None]))


def test_a_checkpoint_of_the_run_in_place_of_its_end(chain, command):
    from pipelines.runs import load_tokenizer

    run = chain / "tokenizer"
    first, last = (int(path.stem.removeprefix("step_")) for path in sorted((run / "checkpoints").iterdir()))
    end, kept = load_tokenizer(run).state_dict(), load_tokenizer(run, last).state_dict()
    assert all(torch.equal(kept[name], end[name]) for name in end)
    assert not all(torch.equal(value, end[name]) for name, value in load_tokenizer(run, first).state_dict().items())
    assert command("evaluate", "reconstruction", run, "--checkpoint", first).status == 0
    assert (run / f"metrics_step_{first:08d}.json").is_file()
    assert "--checkpoint: 1 is not allowed" in command("evaluate", "reconstruction", run, "--checkpoint", 1).err
