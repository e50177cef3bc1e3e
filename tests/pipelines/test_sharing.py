"""`twostage card` and `twostage push`: what goes out, that it loads again, and that it says nothing of this machine."""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub.utils import filter_repo_objects

from pipelines.sharing.card import CARD, shareable, write_card
from pipelines.sharing.push import files, push
from twostage.errors import TwoStageError

RUNS = {"tokenizer": "tokenizer", "ldm": "pipeline", "unconditional": "pipeline", "transformer": "pipeline"}
REPO = "someone/something"


@pytest.fixture
def copy(chain, tmp_path):
    """name -> a copy of the run of that name, without its checkpoints and what was measured meanwhile."""

    def make(name):
        return shutil.copytree(chain / name, tmp_path / name, ignore=shutil.ignore_patterns("checkpoints", "metrics*"))

    return make


def read(card):
    """A card's front matter, its text, and its block of Python."""
    _, header, text = card.read_text().split("---\n", 2)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return yaml.safe_load(header), text, code


@pytest.mark.parametrize(("name", "part"), RUNS.items())
def test_training_leaves_a_card(chain, name, part):
    header, text, code = read(chain / name / part / CARD)
    assert header["library_name"] == "twostage"
    assert header["pipeline_tag"] == ("image-to-image" if name == "tokenizer" else "unconditional-image-generation")
    assert {"vector-quantization", "cvq", "shapes"} <= set(header["tags"])
    pictures = re.findall(r"\]\((.*?)\)", text)
    assert "pictures/curves.png" in pictures
    for picture in pictures:
        stem = Path(picture).name
        assert (chain / name / part / picture).read_bytes() == (chain / name / "pictures" / stem).read_bytes()
    resolved = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert resolved == shareable(yaml.safe_load((chain / name / "config.yaml").read_text()))
    assert ("class_label='circle', " in code) == (name in ("ldm", "transformer"))


@pytest.mark.parametrize(("name", "part"), [("tokenizer", "tokenizer"), ("transformer", "pipeline")])
def test_what_a_card_says_of_loading_works(chain, name, part):
    _, _, code = read(chain / name / part / CARD)
    values = {"images": torch.zeros(1, 3, 16, 16)}
    exec(code.replace("path/to/this/folder", str(chain / name / part)), values)
    if name == "tokenizer":
        assert (values["codes"].shape, values["images"].shape) == ((1, 4, 4), (1, 3, 16, 16))
    else:
        assert [image.size for image in values["images"]] == [(16, 16)] * 4


@pytest.mark.parametrize("name", RUNS)
def test_no_file_that_is_shared_names_a_place_on_this_machine(chain, command, copy, name):
    run = copy(name)
    assert command("push", run, REPO, "--dry-run").status == 0
    shared = files(run / RUNS[name])
    assert Path(CARD) in shared
    for file in shared:
        content = (run / RUNS[name] / file).read_bytes()
        assert str(chain.folder).encode() not in content, file
        assert str(run.parent).encode() not in content, file


def test_numbers_and_samples_that_came_later(command, copy):
    run = copy("transformer")
    assert command("card", run).status == 0  # the run's own may know numbers that were taken since
    before = (run / "pipeline" / CARD).read_text()
    (run / "samples").mkdir()
    shutil.copy(run / "pictures" / "curves.png", run / "samples" / "grid.png")
    first = {"protocol": "ldm", "KID": "missing: weights in /somewhere", "samples": None, "a": "b|c"}
    (run / "metrics.json").write_text(json.dumps(first))
    (run / "metrics_b.json").write_text(json.dumps({"FID": 12.34567, "images": {"split": "test", "n": 50000}}))
    answer = command("card", run)
    assert (answer.status, answer.out) == (0, f"done: {run / 'pipeline' / CARD}\n")
    after = (run / "pipeline" / CARD).read_text()
    numbers = (
        "| protocol | ldm |",
        "| a | b\\|c |",
        "| FID | 12.3457 |",
        "| images.split | test |",
        "| images.n | 50000 |",
    )
    for words in (*numbers, "(pictures/samples.png)"):
        assert words not in before
        assert words in after
    assert after.count("\n| ") == 2 + len(numbers)  # what is missing is left out
    assert (run / "pipeline" / "pictures" / "samples.png").is_file()


def test_a_card_that_was_edited_stays(command, copy):
    run = copy("tokenizer")
    card = run / "tokenizer" / CARD
    card.write_text("mine")
    assert command("card", run).status == 0
    assert card.read_text() == "mine"


def test_a_card_without_its_run(copy):
    run = copy("ldm")
    card = run / "pipeline" / CARD
    before = card.read_text()
    assert write_card(run / "pipeline", None).read_text() == before  # it knows more than could be known now
    card.unlink()
    assert "## Training" not in write_card(run / "pipeline", None, REPO).read_text()
    assert REPO in card.read_text()


@dataclass
class Hub:
    """Takes what HfApi is called with, and keeps it in a folder in place of the Hub."""

    folder: Path
    calls: list = field(default_factory=list)

    def create_repo(self, repo_id, **options):
        self.calls.append((repo_id, options))
        return type("RepoUrl", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        every = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        for name in filter_repo_objects(every, allow_patterns=allow_patterns):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path) / name, self.folder / name)
        return type("CommitInfo", (), {"commit_url": f"https://hub/{repo_id}/commit/1"})


def snapshot(cache):
    """Where the client's cache keeps the one version of `REPO`, which it is told of."""
    repository = cache / f"models--{REPO.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return repository / "snapshots" / ("0" * 40)


@pytest.mark.parametrize("name", ["tokenizer", "ldm", "transformer"])
def test_what_was_pushed_loads_by_its_name(command, copy, monkeypatch, tmp_path, name):
    import huggingface_hub

    import pipelines
    import stage1_tokenizer
    from twostage.models import fingerprint

    run, hub = copy(name), Hub(snapshot(tmp_path / "cache"))
    (run / RUNS[name] / ".secret").write_text("not to be seen")
    (run / RUNS[name] / "pictures" / "[1].png").write_text("odd")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    answer = command("push", run, REPO, "--private")
    assert answer.status == 0, answer.err
    assert answer.out.endswith(f"done: https://hub/{REPO}/commit/1\n")
    assert hub.calls == [(REPO, {"private": True, "exist_ok": True})]
    listed = [line.split(maxsplit=1)[1] for line in answer.out.splitlines()[:-1]]
    assert sorted(listed) == sorted(str(p.relative_to(hub.folder)) for p in hub.folder.rglob("*") if p.is_file())
    assert "pictures/[1].png" in listed
    assert ".secret" not in listed
    index = run / RUNS[name] / "model_index.json"
    kind = getattr(pipelines, json.loads(index.read_text())["_class_name"]) if index.exists() else None
    offline = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    if kind is None:
        loaded = stage1_tokenizer.VQTokenizer.from_pretrained(REPO, **offline)
    else:
        loaded = kind.from_pretrained(REPO, **offline).tokenizer
    assert fingerprint(loaded) == fingerprint(
        stage1_tokenizer.VQTokenizer.from_pretrained(run / RUNS[name] / ("tokenizer" if kind else ""))
    )
    assert f'from_pretrained("{REPO}")' in (hub.folder / CARD).read_text()


def test_a_dry_run_sends_nothing(command, copy, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    run = copy("tokenizer")
    answer = command("push", run, REPO, "--dry-run")
    assert (answer.status, answer.err) == (0, "")
    names = [line.split(maxsplit=1)[1] for line in answer.out.splitlines()]
    assert {"README.md", "config.json", "diffusion_pytorch_model.safetensors"} <= set(names)


@pytest.mark.parametrize("repo_id", ["a/b/c", "a b/c", "-a/b", "/tmp/somewhere"])
def test_names_that_the_hub_would_not_have(command, copy, repo_id):
    run = copy("tokenizer")
    before = (run / "tokenizer" / CARD).read_text()
    answer = command("push", "--dry-run", "--", run, repo_id)
    answer.assert_refused(f"REPO_ID: '{repo_id}' is not allowed; allowed: USER/NAME")
    assert (run / "tokenizer" / CARD).read_text() == before


def test_a_hub_that_refuses(tmp_path):
    class Closed(Hub):
        def create_repo(self, *_, **__):
            raise OSError("not logged in\nread the manual")

    with pytest.raises(TwoStageError, match=rf"^{REPO}: could not be pushed \(OSError: not logged in\)$"):
        push(tmp_path, REPO, private=False, api=Closed(tmp_path))


def test_nothing_to_share(command, tmp_path):
    for path, why in [(tmp_path, "no model_index.json, no config.json"), (tmp_path / "no", "there is no such folder")]:
        for arguments in (("card", path), ("push", path, REPO)):
            answer = command(*arguments)
            assert (answer.status, f"{path}: holds neither a pipeline nor a tokenizer ({why})" in answer.err) == (
                2,
                True,
            )


def test_loading_says_when_a_folder_does_not_exist(tmp_path):
    from pipelines.runs import load_pipeline, load_tokenizer

    for load, what in [(load_tokenizer, "tokenizer"), (load_pipeline, "pipeline")]:
        with pytest.raises(TwoStageError, match=rf"^someone/nowhere: holds no {what} \(there is no such folder\)"):
            load("someone/nowhere")
