"""`twostage reproduce`: a table's rows are trained, measured, written down; resumed where they stopped; or refused."""

import json
from functools import partial

import pytest
import yaml
from matplotlib.axes import Axes

from pipelines.reproduce.budget import Budget, stretch
from pipelines.reproduce.plots import progress
from pipelines.reproduce.results import Statistic, figure, gather
from pipelines.reproduce.table import read_table
from pipelines.reproduce.written import as_text
from stage1_tokenizer.report import Pictures
from stage1_tokenizer.train import TokenizerTask
from twostage.config import read_yaml
from twostage.training.log import read_log

TABLE = {
    "title": "Two rows",
    "source": "nowhere, Tab. 1",
    "note": "Ours are on shapes.",
    "protocol": "cvq",
    "budget": "6steps",
    "measures": ["PSNR", "SSIM", "rFID", "usage"],
    "datasets": {"small": {"data": {"name": "shapes", "image_size": 16, "count": 40}}, "elsewhere": {}},
    "base": {
        "autoencoder": {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4},
        "quantizer": {"codebook_size": 16, "dim": 4},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 0.5},
        "training": {"batch_size": 16, "checkpoint_every": 0.5, "log_every": 0.34},
    },
    "rows": [
        {
            "name": "Plain VQ",
            "set": {"quantizer.name": "vq"},
            "published": {"small": {"PSNR": 20.5, "rFID": 7.25}, "elsewhere": {"PSNR": 30.0}},
            "series": "VQ",
        },
        {"name": "Warm", "set": {"quantizer.name": "vq", "warm_start": {"steps": 0.5}, "quantizer.codebook_size": 8}},
        {"name": "Of others", "published": {"small": {"PSNR": 21.0}}},
    ],
    "plots": [
        {"name": "dots", "measures": ["PSNR"]},
        {"name": "lines", "over": "quantizer.codebook_size", "measures": ["PSNR"]},
        {"name": "curves", "scalars": ["reconstruction"]},
        {"name": "progress", "measures": ["PSNR"]},
        {"name": "projections"},
    ],
}


def dumped(table):
    return yaml.safe_dump(table, sort_keys=False)


@pytest.fixture(scope="module", autouse=True)
def _one_picture_of_a_run():
    """The one that is shown again; the others take longer than the training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pictures, "refresh", lambda self, tokenizer: None)
        for name in ("save_pairs", "save_usage", "save_codebook_health", "save_curves"):
            patch.setattr(f"stage1_tokenizer.report.{name}", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a table, and the same without pictures."""
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "toy.yaml").write_text(dumped(TABLE))
    (folder / "plain.yaml").write_text(dumped({**TABLE, "plots": []}))
    return folder


@pytest.fixture(scope="module")
def reproduce(toy, command, pixels):
    """(folder, options) -> the answer of the command on the toy table."""

    def run(output, *options, table="toy.yaml"):
        return command("reproduce", toy / table, "--output", output, "--network", pixels, *options)

    return run


@pytest.fixture(scope="module")
def done(toy, reproduce):
    """The table of the whole command."""
    answer = reproduce(toy / "done")
    assert answer.status == 0, answer.err
    return toy / "done", answer


def metrics(run, protocol=""):
    return json.loads((run / f"metrics{protocol}.json").read_text())


def test_every_cell_is_an_ordinary_run(done):
    folder, answer = done
    run = folder / "small" / "warm" / "seed_0"
    config = read_yaml(run / "config.yaml")
    assert config["training"]["steps"] == 6
    assert config["warm_start"]["steps"] == 3  # a share of the budget, as the others
    assert (config["optimizer"]["warmup_steps"], config["training"]["checkpoint_every"]) == (3, 3)
    assert (metrics(run)["protocol"], metrics(run, "_cvq")["protocol"]) == ("default", "cvq")
    assert (run / "tokenizer" / "README.md").is_file()
    assert "[2/2] small, Warm, seed 0: PSNR" in answer.out
    assert not (folder / "elsewhere").exists()


def test_the_table_has_published_figures_beside_ours(done):
    folder, _ = done
    text = (folder / "table.md").read_text()
    run = folder / "small" / "plain_vq" / "seed_0"
    psnr = {protocol: metrics(run, protocol)["PSNR"] for protocol in ("", "_cvq")}
    assert f"| Plain VQ | 20.50 | {psnr['_cvq']:.2f} |" in text  # as published: JPEG pairs
    assert f"| Plain VQ | {psnr['']:.2f} |" in text  # as they are
    assert "| Of others | 21.00 | – |" in text  # noqa: RUF001
    assert "## elsewhere" in text
    for said in ("nowhere, Tab. 1", "Ours are on shapes.", "6 steps a row", "torch ", "twostage reproduce"):
        assert said in text
    values = json.loads((folder / "table.json").read_text())
    assert values["rows"][0]["ours"]["cvq"]["PSNR"] == {
        "mean": psnr["_cvq"],
        "deviation": None,
        "values": [psnr["_cvq"]],
    }
    assert values["rows"][0]["published"] == {"PSNR": 20.5, "rFID": 7.25}


def test_another_network_has_a_column_of_its_own(done):
    lines = (done[0] / "table.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| row |"))
    assert "rFID, published" in head
    assert "rFID, ours" not in head
    assert "rFD-pixels@40, ours" in head


def test_every_plot_is_drawn(done):
    names = ["table.png", *(f"table_{plot}.png" for plot in ("curves", "lines", "progress", "projections"))]
    assert sorted(path.name for path in done[0].glob("*.png")) == names


def test_progress_is_that_of_every_checkpoint(done):
    folder, _ = done
    table = read_table(folder.parent / "toy.yaml")
    (curve,) = gather(table, folder, "6 steps", "").over_training("small", table.rows[0], "PSNR")
    run = folder / "small" / "plain_vq" / "seed_0"
    assert [share for share, _ in curve] == [0.5, 1.0]
    assert curve[0][1] == metrics(run, "_cvq_step_00000003")["PSNR"] != curve[1][1]
    assert curve[1][1] == metrics(run, "_cvq")["PSNR"]


def test_progress_is_drawn_where_there_is_any(done, tmp_path, monkeypatch):
    folder, _ = done
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text: titles.append(text))
    results = gather(read_table(folder.parent / "toy.yaml"), folder, "6 steps", "")
    progress(results, tmp_path / "table.png", measures=["PSNR"])
    assert titles == ["small: PSNR ↑"]  # not elsewhere, of which there are published figures only


def test_the_same_command_again_trains_nothing(done, reproduce, contents):
    folder, _ = done
    runs = contents(folder / "small")
    answer = reproduce(folder, table="plain.yaml")
    assert answer.status == 0
    assert answer.out.count("finished before") == 2
    assert contents(folder / "small") == runs


def test_a_killed_run_goes_on_to_the_same_bits(done, reproduce, tmp_path, monkeypatch):
    before = TokenizerTask.before_step

    def die(self, progress):
        if progress.step == 4:
            raise KeyboardInterrupt
        before(self, progress)

    monkeypatch.setattr(TokenizerTask, "before_step", die)
    killed = partial(reproduce, tmp_path / "killed", "--row", "plain_vq", table="plain.yaml")
    assert killed().status == 130
    assert json.loads((tmp_path / "killed" / "table.json").read_text())["rows"][0]["ours"] == {}
    steps = []
    monkeypatch.setattr(
        TokenizerTask, "before_step", lambda self, progress: (steps.append(progress.step), before(self, progress))
    )
    answer = killed()
    assert (answer.status, steps) == (0, [3, 4, 5])
    runs = [folder / "small" / "plain_vq" / "seed_0" for folder in (tmp_path / "killed", done[0])]
    assert metrics(runs[0])["model"] == metrics(runs[1])["model"]
    assert [line["step"] for line in read_log(runs[0])] == [2, 4, 6]


def test_a_run_that_fails_leaves_the_others(toy, command, tmp_path):
    rows = [{"name": "Wild", "set": {"quantizer.name": "vq", "optimizer.learning_rate": 1e30}}, TABLE["rows"][0]]
    (tmp_path / "wild.yaml").write_text(dumped({**TABLE, "rows": rows, "plots": []}))
    answer = command("reproduce", tmp_path / "wild.yaml", "--output", tmp_path / "output", "--budget", "3steps")
    assert answer.status == 2
    assert "1 of 2 runs failed: small, Wild, seed 0 (" in answer.err
    assert "| Plain VQ | 20.50 |" in (tmp_path / "output" / "table.md").read_text()


CHANGES = [
    ({"titel": "x"}, "titel: unknown key", "did you mean title?"),
    ({"budget": "3 hours"}, "budget: '3 hours'", "3epochs or 2000steps"),
    ({"budget": "2.5steps"}, "budget: '2.5steps'", "whole steps"),
    ({"measures": ["PSNR", "psnr"]}, "measures.1: 'psnr'", "'SSIM'"),
    ({"rows": []}, "rows: []", "at least one row"),
    ({"rows": [{"name": "A", "sett": {}}]}, "rows.0: sett: unknown key", "did you mean set?"),
    ({"rows": [{"name": "A"}, {"name": "a"}]}, "rows: 'a'", "not 2 times"),
    ({"rows": [{"name": "A", "published": {"smal": {}}}]}, "rows.0.published.smal: unknown key", "did you mean small?"),
    ({"rows": [{"name": "A", "published": {"small": {"L1": 0.1}}}]}, "rows.0.published.small: 'L1'", "PSNR, SSIM"),
    ({"plots": [{"name": "dot"}]}, "plots.0.name: 'dot' is not a plot", "did you mean dots?"),
    ({"plots": [{"name": "dots", "measures": []}]}, "plots.0.measures: []", "at least 1 item"),
    (
        {"plots": [{"name": "lines", "over": "quantizer.size", "measures": ["PSNR"]}]},
        "plots.0.over: 'quantizer.size'",
        "Plain VQ",
    ),
    (
        {"datasets": {"small": {"data": {"name": "shapez"}}}, "rows": TABLE["rows"][1:2]},
        "data.name: 'shapez'",
        "shapes",
    ),
    (
        {"rows": [TABLE["rows"][0], {"name": "B", "set": {"quantizer.name": "vq", "quantizer.sise": 3}}]},
        "row 'B' on small: quantizer.sise: unknown key",
        "codebook_size",
    ),
    (
        {"rows": [{"name": "B", "set": {"quantizer.name": "vq", "warm_start.steps": 1.5}}]},
        "row 'B' on small: warm_start.steps: 1.5",
        "integer",
    ),
]


@pytest.mark.parametrize(("change", "words"), [(change, words) for change, *words in CHANGES])
def test_a_bad_table_is_refused_before_anything_runs(command, tmp_path, change, words):
    (tmp_path / "bad.yaml").write_text(dumped({**TABLE, "plots": [], **change}))
    answer = command("reproduce", tmp_path / "bad.yaml", "--output", tmp_path / "output", "--dataset", "small")
    answer.assert_refused(tmp_path / "bad.yaml", *words)
    assert not (tmp_path / "output").exists()


OPTIONS = [
    (["--row", "Wram"], "--row: 'Wram'", "did you mean Warm?"),
    (["--row", "Of others"], "--row: 'Of others'", "Plain VQ, Warm"),
    (["--dataset", "elsewhere"], "--dataset: 'elsewhere'", "allowed: small"),
    (["--seeds", "0"], "--seeds: 0", "at least 1"),
    (["--budget", "many"], "budget: 'many'", "3epochs"),
    (["--data", "small=nowhere"], "row 'Plain VQ' on small: data.root: unknown key"),
]


@pytest.mark.parametrize(("options", "words"), [(options, words) for options, *words in OPTIONS])
def test_bad_options_are_refused(reproduce, tmp_path, options, words):
    answer = reproduce(tmp_path / "output", *options)
    answer.assert_refused(*words)
    assert not (tmp_path / "output").exists()


def test_a_folder_keeps_its_budget_and_its_rows(done, reproduce, command, toy, contents):
    folder, _ = done
    before = contents(folder)
    answer = reproduce(folder, "--budget", "7steps")
    assert (answer.status, "another budget ('6 steps' there, '7 steps' here)" in answer.err) == (2, True)
    changed = {**TABLE, "base": {**TABLE["base"], "mirror": True}}
    (toy / "changed.yaml").write_text(dumped(changed))
    answer = command("reproduce", toy / "changed.yaml", "--output", folder)
    assert (answer.status, "holds a run of another config (mirror: False there, True here)" in answer.err) == (2, True)
    assert contents(folder) == before


def test_a_wrong_name_shows_the_tables(command, tmp_path):
    answer, listed = command("reproduce", "cvq-tabel3"), command("reproduce", "--list")
    assert (answer.status, listed.status) == (2, 0)
    assert "did you mean cvq-table3?" in answer.err
    assert "cvq-table3" in listed.out
    assert answer.out == listed.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--data: None", "NAME=PATH, NAME one of mnist, cifar10"]),
        (["--data", "somewhere"], ["--data: 'somewhere'", "NAME=PATH"]),
        (["--dataset", "mnist"], ["--data: None", "--data mnist=PATH"]),
        (["--data", "mnist=somewhere"], ["somewhere: no such folder"]),
        (["--dataset", "mnist", "--data", "somewhere"], ["somewhere: no such folder"]),
    ],
)
def test_data_has_to_be_said_where_it_lies(command, tmp_path, options, words):
    answer = command("reproduce", "cvq-table1", "--output", tmp_path / "output", *options)
    answer.assert_refused(*words)
    assert not (tmp_path / "output").exists()


def test_budgets():
    assert Budget.parse("3epochs").steps(images=100, batch_size=64) == 5  # 4.7, rounded up
    assert Budget.parse("0.5epochs").steps(images=100, batch_size=10) == 5
    assert Budget.parse("7steps").steps(images=100, batch_size=10) == 7
    assert str(Budget.parse(str(Budget.parse("2000step")))) == "2000 steps"


def test_shares_of_the_budget_become_steps_and_nothing_else_does():
    values = {"warm_start": {"steps": 0.9999}, "optimizer": {"learning_rate": 0.5}, "training": {"log_every": 0.001}}
    assert stretch(values, 200) == {
        "warm_start": {"steps": 199},
        "optimizer": {"learning_rate": 0.5},
        "training": {"log_every": 1},
    }
    assert stretch({"warm_start": None, "optimizer": {"warmup_steps": 7}}, 200)["optimizer"] == {"warmup_steps": 7}


def test_figures_over_seeds():
    assert as_text(Statistic((1.0, 2.0, 3.0)), "PSNR") == "2.00 ± 1.00"
    assert as_text(Statistic((0.875,)), "usage") == "87.5%"
    assert as_text(None, "L1") == "–"  # noqa: RUF001


def test_a_figure_that_could_not_be_computed_is_none():
    row = {"rFID@10000": "missing: FID needs a file", "LPIPS": "missing: a trunk", "PSNR": 20.0, "rFD-own@10000": 3.0}
    assert [figure(row, measure) for measure in ("rFID", "LPIPS", "PSNR", "FID")] == [None, None, 20.0, None]
    assert figure({"rFID-50k": 2.0}, "rFID") == 2.0
