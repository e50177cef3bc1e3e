from pathlib import Path
from typing import Any

import pytest

from pipelines.train import find_config, read_config
from stage1_tokenizer.config import TokenizerConfig
from stage2_ldm.config import LDMConfig
from stage2_transformer.config import TransformerConfig
from twostage.config import claim_run, load, override, read_yaml, to_yaml
from twostage.errors import TwoStageError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SCHEMAS = {"tokenizer": TokenizerConfig, "ldm": LDMConfig, "transformer": TransformerConfig}

GOOD = """
data: {name: shapes, image_size: 16, count: 64}
autoencoder: {name: vqvae, width: 16}
quantizer: {name: cvq, codebook_size: 16, dim: 4}
warm_start: {steps: 2}
optimizer: {learning_rate: 1e-3}
training: {steps: 10, batch_size: 8}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tokenizer.yaml"
    file.write_text(GOOD)
    return file


def read(path: Path, *assignments: str, data: str | None = None) -> Any:
    return read_config(TokenizerConfig, path, assignments, data)


def refused(path: Path, *assignments: str) -> str:
    with pytest.raises(TwoStageError) as error:
        read(path, *assignments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        # unknown keys
        ("trainin.steps=3", ("trainin: unknown key", "did you mean training?")),
        ("training.batchsize=3", ("training.batchsize: unknown key", "did you mean batch_size?")),
        ("warm_start.stepz=3", ("warm_start.stepz: unknown key", "did you mean steps?")),
        ("quantizer.codebok_size=3", ("quantizer.codebok_size: unknown key", "did you mean codebook_size?")),
        ("data.split=test", ("data.split: unknown key", "image_size, count, seed")),
        # wrong types
        ("training.steps=many", ("training.steps: 'many' is not allowed", "integer")),
        ("training.steps=3.5", ("training.steps: 3.5 is not allowed", "integer")),
        ("training.steps=true", ("training.steps: True is not allowed", "integer")),
        ("training=3", ("training: 3 is not allowed",)),
        ("warm_start=3", ("warm_start: 3 is not allowed",)),
        ("optimizer.learning_rate=fast", ("optimizer.learning_rate: 'fast' is not allowed", "number")),
        ("optimizer.betas=[0.9]", ("optimizer.betas: [0.9] is not allowed", "two numbers")),
        ("quantizer.codebook_size='16'", ("quantizer.codebook_size: '16' is not allowed", "integer")),
        # out of range
        ("training.steps=0", ("training.steps: 0 is not allowed", "greater than or equal to 1")),
        ("training.ema_decay=1.0", ("training.ema_decay: 1.0 is not allowed", "less than 1")),
        ("optimizer.learning_rate=0", ("optimizer.learning_rate: 0 is not allowed", "greater than 0")),
        ("optimizer.learning_rate=.nan", ("optimizer.learning_rate: nan is not allowed",)),
        ("optimizer.betas=[0.9, 1.5]", ("optimizer.betas.1: 1.5 is not allowed", "less than 1")),
        ("optimizer.schedule=linear", ("optimizer.schedule: 'linear' is not allowed", "'constant' or 'cosine'")),
        ("quantizer.decay=1.0", ("quantizer.decay: 1.0 is not allowed", "less than 1")),
        ("quantizer.anchor=nearest", ("quantizer.anchor: 'nearest' is not allowed", "'closest'")),
        # components
        ("quantizer.name=cqv", ("quantizer.name: 'cqv' is not a quantizer", "did you mean cvq?")),
        ("quantizer.name=[cvq]", ("quantizer.name: ['cvq'] is not a quantizer", "cvq")),
        ("quantizer=cvq", ("quantizer: 'cvq' is not allowed", "a mapping with a `name` key")),
        ("quantizer={codebook_size: 3}", ("quantizer: {'codebook_size': 3} is not allowed", "`name`")),
        ("quantizer={name: cvq, dim: 4}", ("quantizer.codebook_size: missing",)),
        ("quantizer.preset=offical", ("quantizer.preset: 'offical' is not a preset of cvq", "did you mean official?")),
        ("quantizer.preset=[official]", ("quantizer.preset: ['official'] is not a preset of cvq",)),
        ("autoencoder.preset=x", ("autoencoder.preset: 'x' is not a preset of vqvae", "none")),
        # shapes that cannot be
        ("data.image_size=18", ("data.image_size: 18 is not allowed", "downsampling factor 4")),
        ("warm_start.steps=10", ("warm_start.steps: 10 is not allowed", "fewer than training.steps (10)")),
    ],
)
def test_a_mistake_is_named(path: Path, assignment: str, parts: tuple[str, ...]) -> None:
    message = refused(path, assignment)
    assert message.startswith(f"{path}: {parts[0]}")
    for part in parts:
        assert part in message


def test_an_unknown_key_is_named_before_a_missing_one(path: Path) -> None:
    message = refused(path, "quantizer={name: cvq, codebok_size: 16, dim: 4}")
    assert "quantizer.codebok_size: unknown key" in message


def test_a_missing_section_is_named(path: Path) -> None:
    path.write_text(GOOD.replace("optimizer: {learning_rate: 1e-3}", ""))
    assert refused(path) == f"{path}: optimizer: missing; a value is required"


def test_warm_start_ends_before_training(path: Path) -> None:
    assert read(path, "warm_start.steps=9").warm_start.steps == 9


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E3", 1e3), ("-2e-1", -0.2), (".5", 0.5), ("3", 3), ("-3", -3), ("1_000", 1000)]
    + [(text, text) for text in ("e5", "1-4", "08", "1e-4x", "1.2.3", ".")],
)
def test_numbers(tmp_path: Path, text: str, value: object) -> None:
    (tmp_path / "a.yaml").write_text(f"key: {text}")
    read = read_yaml(tmp_path / "a.yaml")["key"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is written twice"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: the key 'b' is written twice"),
        ("a: {b: 1, b: 2}", "line 1: the key 'b' is written twice"),
        ("a: 1\nb: [2\n", "not valid YAML"),
        ("a: {{root}}", "line 1 not valid YAML"),
        ("- 1\n- 2\n", "found list"),
        ("", "found NoneType"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(TwoStageError) as error:
        read_yaml(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    for name in ("picture.png", "nowhere.yaml", "."):
        with pytest.raises(TwoStageError, match="config could not be read"):
            read_yaml(tmp_path / name)


def test_a_preset_is_expanded_and_never_stored(path: Path) -> None:
    quantizer = read(path, "quantizer.preset=official").quantizer
    assert "preset" not in quantizer
    assert (quantizer["anchor"], quantizer["contrastive_weight"]) == ("closest", 0.0)
    assert read(path).quantizer["anchor"] == "probability"


def test_a_value_beside_a_preset_wins(path: Path) -> None:
    quantizer = read(path, "quantizer.preset=official", "quantizer.anchor=random").quantizer
    assert (quantizer["anchor"], quantizer["contrastive_weight"]) == ("random", 0.0)


def test_overrides(path: Path) -> None:
    config = read(
        path,
        "training.steps=20",
        "optimizer.learning_rate=5e-4",
        "quantizer.codebook_size=32",
        "warm_start=null",
        "data={name: idx, root: there}",
        data="/elsewhere",
    )
    assert (config.training.steps, config.training.batch_size) == (20, 8)
    assert config.optimizer.learning_rate == 5e-4
    assert (config.quantizer["codebook_size"], config.quantizer["dim"]) == (32, 4)
    assert config.warm_start is None
    assert config.data == {"name": "idx", "root": "/elsewhere", "image_size": 28, "classes": None}


def test_overrides_leave_their_input_alone() -> None:
    values = {"a": {"b": {"c": 1}}}
    assert override(values, ["a.b.c=2", "a.b.d=3", "e.f=4"]) == {"a": {"b": {"c": 2, "d": 3}}, "e": {"f": 4}}
    assert values == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.steps", "--set 'training.steps' is not allowed; allowed: KEY=VALUE"),
        ("=3", "--set '=3' is not allowed"),
        ("training.steps.more=3", "--set training.steps.more: steps holds 10"),
        ("training.steps=[1", "--set training.steps: line 1 not valid YAML"),
    ],
)
def test_a_bad_override_is_named(path: Path, assignment: str, message: str) -> None:
    assert message in refused(path, assignment)


@pytest.mark.parametrize("assignments", [[], ["quantizer.preset=official"], ["optimizer.learning_rate=1e-7"]])
def test_the_resolved_config_has_every_default_and_loads_to_the_same(path: Path, assignments: list[str]) -> None:
    config = read(path, *assignments)
    values = config.model_dump()
    assert values["quantizer"]["decay"] == 0.99
    assert values["training"]["accumulation"] == 1
    assert values["warm_start"]["features"] == 30_000
    assert values["data"]["seed"] == 0
    path.write_text(to_yaml(values))
    assert read_yaml(path) == values
    assert load(TokenizerConfig, read_yaml(path)) == config


@pytest.mark.parametrize("text", ["1e-4", "08", "no", "null", "3", "0.5", "~", "a: b", "", "2020-01-01", "ü"])
def test_strings_stay_strings(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(to_yaml({"key": text, "keys": [text]}), encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"key": text, "keys": [text]}


def test_a_config_does_not_change(path: Path) -> None:
    config = read(path)
    with pytest.raises(ValueError, match="frozen"):
        config.training.steps = 3


RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "tables")


@pytest.mark.parametrize("path", RUNS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_config_loads(path: Path) -> None:
    schema = SCHEMAS[path.stem.split("_")[0]]
    config = load(schema, read_yaml(path), path)
    assert load(schema, config.model_dump()) == config


def test_configs_are_shipped() -> None:
    assert {path.stem for path in (CONFIGS / "quickstart").iterdir()} == set(SCHEMAS)


def claim(run: Path, config: Any) -> None:
    claim_run(run, config, TokenizerConfig.PLACES.__contains__)


def test_a_run_is_claimed_and_claimed_again(path: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", read(path)
    claim(run, config)
    assert load(TokenizerConfig, read_yaml(run / "config.yaml")) == config
    (run / "log.jsonl").touch()
    claim(run, config)
    assert sorted(p.name for p in run.iterdir()) == ["config.yaml", "log.jsonl"]


def test_a_run_older_than_an_option_goes_on_at_its_default(path: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", read(path)
    claim(run, config)
    values = read_yaml(run / "config.yaml")
    del values["quantizer"]["moments"], values["training"]["accumulation"]
    (run / "config.yaml").write_text(to_yaml(values))
    with pytest.raises(TwoStageError, match=r"quantizer\.moments: 'kept' there, 'reset' here"):
        claim(run, read(path, "quantizer.moments=reset"))
    claim(run, config)
    assert read_yaml(run / "config.yaml") == config.model_dump()


def test_an_empty_folder_may_be_claimed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    claim(tmp_path / "run", read(path))


def test_a_claim_that_was_cut_off_does_not_stop_the_next(path: Path, tmp_path: Path) -> None:
    """A process killed while it wrote config.yaml, or one beside us that is writing it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.yaml.0123abcd.tmp").touch()
    claim(tmp_path / "run", read(path))
    assert (tmp_path / "run" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.steps=11", "training.steps: 10 there, 11 here"),
        ("quantizer.anchor=random", "quantizer.anchor: 'probability' there, 'random' here"),
        ("warm_start=null", "warm_start"),
    ],
)
def test_a_run_of_another_config_is_refused(path: Path, tmp_path: Path, assignment: str, message: str) -> None:
    run = tmp_path / "run"
    claim(run, read(path))
    before = (run / "config.yaml").read_text()
    with pytest.raises(TwoStageError) as error:
        claim(run, read(path, assignment))
    assert str(error.value).startswith(f"{run}: ")
    assert message in str(error.value)
    assert (run / "config.yaml").read_text() == before


def test_where_the_data_lies_may_change(path: Path, tmp_path: Path) -> None:
    run, idx = tmp_path / "run", "data={name: idx, root: here}"
    claim(run, read(path, idx))
    claim(run, read(path, idx, data="there"))
    assert read_yaml(run / "config.yaml")["data"]["root"] == "there"
    with pytest.raises(TwoStageError, match=r"data\.image_size"):
        claim(run, read(path, idx, "data.image_size=32"))


def test_how_fast_a_run_goes_may_change(path: Path, tmp_path: Path) -> None:
    claim(tmp_path / "run", read(path))
    claim(tmp_path / "run", read(path, "training.channels_last=true", "training.compile=true", "training.workers=2"))
    assert read_yaml(tmp_path / "run" / "config.yaml")["training"]["channels_last"] is True
    with pytest.raises(TwoStageError, match=r"training\.precision"):
        claim(tmp_path / "run", read(path, "training.precision=bf16"))


def test_a_folder_of_something_else_is_refused(path: Path, tmp_path: Path) -> None:
    run = tmp_path / "thesis"
    run.mkdir()
    (run / "chapter1.tex").write_text("Once")
    with pytest.raises(TwoStageError, match="is not empty and holds no run"):
        claim(run, read(path))
    assert [p.name for p in run.iterdir()] == ["chapter1.tex"]


def test_a_file_in_place_of_the_run_folder_is_refused(path: Path) -> None:
    config = read(path)
    with pytest.raises(TwoStageError, match="could not be written"):
        claim(path, config)
    assert path.read_text() == GOOD


def test_a_config_is_found_on_disk_first_and_in_the_package_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    installed = find_config(Path("configs/quickstart/ldm.yaml"))
    assert installed.is_absolute()
    assert installed.is_file()
    assert find_config(Path("quickstart/ldm.yaml")) == installed
    own = Path("configs/quickstart/ldm.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    assert find_config(own) == own
    assert find_config(Path("nowhere.yaml")) == Path("nowhere.yaml")
