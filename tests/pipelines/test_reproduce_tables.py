"""Every shipped table: its command, its rows' tokenizers, and published figures as the papers print them."""

import re
import shlex
from functools import cache

import pytest
import torch
import typer
import yaml

from pipelines.cli import app
from pipelines.reproduce.choices import choose_places
from pipelines.reproduce.table import FOLDER, find_table, needs_root, read_table, table_names
from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.config import TokenizerConfig
from twostage.config import flatten, load, read_yaml, to_yaml


@cache
def table_of(name):
    return read_table(find_table(name))


def first_line(name):
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("name", table_names())
def test_the_first_line_is_the_command(name):
    found = re.fullmatch(r"# twostage reproduce (.+)", first_line(name))
    command = typer.main.get_command(app).commands["reproduce"]
    options = command.make_context("reproduce", shlex.split(found[1])).params
    assert options["table"] == name
    table = table_of(name)
    places = choose_places(table, options["dataset"] or [], options["data"] or [])
    assert set(places.values()) == ({"PATH"} if table.trained else set())


@pytest.mark.parametrize("name", table_names())
def test_every_row_is_a_tokenizer(name):
    table = table_of(name)
    slots = {dataset: slot for dataset, slot in table.datasets.items() if slot.data} if table.trained else {}
    assert bool(slots) == bool(table.trained)
    for dataset, slot in slots.items():
        for row in table.trained:
            root = "somewhere" if needs_root(slot) else None
            config = table.config(dataset, row, root=root, steps=600, seed=3)
            assert (config.training.steps, config.training.seed, config.data["root"]) == (600, 3, "somewhere")
            size, dim = config.data["image_size"], config.quantizer["dim"]  # the quantiser was built by the config
            assert latents(to_yaml(config.autoencoder), dim, size)[:2] == (1, dim)


@cache
def latents(autoencoder, dim, image_size):
    """The shape of an image's latents, at full size, without its numbers."""
    with torch.device("meta"):
        network = AUTOENCODERS.build(yaml.safe_load(autoencoder), channels=3, latent_dim=dim)
        return network.encode(torch.empty(1, 3, image_size, image_size)).shape


@pytest.mark.parametrize("name", table_names())
def test_rows_differ_in_what_they_train(name):
    table = table_of(name)
    told = [str(sorted(table.options(row).items(), key=str)) for row in table.trained]
    assert len(set(told)) == len(told)


PUBLISHED = [
    ("cvq-table1", "SQ-VAE", "cifar10", {"L1": 0.0482, "SSIM": 0.8779, "PSNR": 24.07, "LPIPS": 0.2333, "rFID": 37.92}),
    ("cvq-table2", "VQGAN 16x16, K = 1024", "imagenet", {"usage": 0.44, "PSNR": 19.07, "rFID": 7.94}),
    ("cvq-table2", "CVQ-VAE 16x16x4, K = 1024", "ffhq", {"PSNR": 26.87, "SSIM": 0.8398, "LPIPS": 0.0533, "rFID": 2.03}),
    ("cvq-table3", "D + anchors, online", "cifar10", {"SSIM": 0.8991, "LPIPS": 0.1897, "rFID": 26.62, "PSNR": 24.79}),
    ("cvq-table3", "E + contrastive loss", "fashion_mnist", {"L1": 0.0344, "PSNR": 24.66, "rFID": 8.85}),
    ("cvq-table4c", "unique, offline", "cifar10", {"L1": 0.0507, "PSNR": 23.15, "rFID": 36.99}),
    ("cvq-table4c", "closest, online", "mnist", {"SSIM": 0.9819, "LPIPS": 0.0244, "rFID": 2.59}),
    ("cvq-table4d", "hard encoded features (Jukebox)", "ffhq", {"SSIM": 0.7646, "LPIPS": 0.0870, "rFID": 3.91}),
    ("cvq-table5", "CVQ-VAE-LDM-8", "bedrooms", {"FID": 3.02}),
    ("cvq-table6", "LDM-4, 200 and 250 steps", "imagenet", {"FID": 10.56}),
    ("bs-table2", "NS-VQ, K = 8192", "celebahq", {"rFID": 16.89, "usage": 1.0}),
    ("bs-table2", "VQ (VQVAE2), K = 1024", "celebahq", {"rFID": 31.17, "usage": 0.40}),
    ("bs-table3", "TransVQ, K = 8192", "celebahq", {"rFID": 13.70, "usage": 1.0}),
    ("bs-table3", "EMA (VQGAN-EMA), K = 64", "celebahq", {"rFID": 159.21, "usage": 1.0}),
    ("bs-table4", "NS-VQ, K = 8192, d = 64", "celebahq", {"SSIM": 0.96, "LPIPS": 0.015, "rFID": 14.01}),
]


@pytest.mark.parametrize(("name", "row", "dataset", "figures"), PUBLISHED)
def test_published_figures_are_those_of_the_papers(name, row, dataset, figures):
    (found,) = [known.published[dataset] for known in table_of(name).rows if known.name == row]
    assert figures.items() <= found.items()


def test_tables_that_share_a_row_share_its_figures():
    """Row D of Tab. 3 is the running average of Tab. 4d, and row A and E of Tab. 3 stand in Tab. 1, too."""
    names = ("cvq-table1", "cvq-table3", "cvq-table4d", "recipe")
    rows = {name: {row.name: row for row in table_of(name).rows} for name in names}
    same = [
        ("cvq-table1", "VQ-VAE", "A VQ-VAE"),
        ("cvq-table1", "CVQ-VAE", "E + contrastive loss"),
        ("recipe", "VQ-VAE", "A VQ-VAE"),
        ("recipe", "CVQ-VAE", "E + contrastive loss"),
        ("cvq-table4d", "running average (CVQ-VAE)", "D + anchors, online"),
    ]
    for table, mine, row in same:
        for dataset in ("mnist", "cifar10"):
            figures = rows[table][mine].published[dataset]
            assert figures.items() <= rows["cvq-table3"][row].published[dataset].items()


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "fashion_mnist"])
def test_the_recipe_is_that_of_the_configs(dataset):
    table = table_of("recipe")
    config = load(TokenizerConfig, read_yaml(FOLDER.parent / dataset / "tokenizer_transvq.yaml"), dataset)
    (row,) = table.trained
    same = table.config(dataset, row, root=config.data["root"], steps=config.training.steps, seed=0)
    own = {"data.classes", "training.checkpoint_every", "training.keep_checkpoints"}
    here, there = ({k: v for k, v in flatten(one.model_dump()).items() if k not in own} for one in (same, config))
    assert here == there
