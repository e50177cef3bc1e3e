"""The floors of the house: imports go down only. Read from the source, so that lazy imports count too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "twostage": (),
    "stage1_tokenizer": ("twostage",),
    "stage2_ldm": ("twostage", "stage1_tokenizer.tokenizer"),
    "stage2_transformer": ("twostage", "stage1_tokenizer.tokenizer"),
    "pipelines": ("twostage", "stage1_tokenizer", "stage2_ldm", "stage2_transformer"),
}
"""What a package may import of the others: a package whole, or one module of it."""

QUANTIZERS = "stage1_tokenizer.quantizers"
SHARED_BY_QUANTIZERS = (
    "INNER",
    "anchors",
    "base",
    "contrastive",
    "kmeans",
    "mapped",
    "nearest",
    "noise",
    "reset",
    "straight_through",
)
LONGEST = 400


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imported(tree: ast.AST, module: str, *, is_package: bool) -> list[tuple[int, str]]:
    """Every module that a file may import, with its line; `from a import b` counts as `a.b`, at any depth."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            here = module.split(".")[: -up or None] if node.level else []
            origin = ".".join([*here, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
    return found


def objection(module: str, target: str) -> str | None:
    """Why `module` must not import `target`, or None."""
    package = module.split(".")[0]
    for outside in ("tests", "benchmarks"):
        if is_in(target, outside):
            return f"no package imports {outside}"
    if target.split(".")[0] in MAY_IMPORT:
        if not any(is_in(target, allowed) for allowed in (package, *MAY_IMPORT[package])):
            return f"{package} may import {', '.join(MAY_IMPORT[package]) or 'no other package'}"
        if package != "pipelines" and "train" in target.split("."):
            return "only pipelines imports a train module"
    if is_in(module, QUANTIZERS) and is_in(target, QUANTIZERS):
        file = target.removeprefix(QUANTIZERS).lstrip(".").split(".")[0]
        own = module.removeprefix(QUANTIZERS).lstrip(".").split(".")[0]
        if file not in (own, *SHARED_BY_QUANTIZERS):
            return "a quantiser file imports no other quantiser file"
    return None


def violations(root: Path) -> list[str]:
    """`file:line: what: why` for every breach in the packages under `root`."""
    found = []
    for package in MAY_IMPORT:
        for path in sorted((root / package).rglob("*.py")):
            text, name = path.read_text(encoding="utf-8"), path.relative_to(root)
            if (length := len(text.splitlines())) > LONGEST:
                found.append(f"{name}:{length}: more than {LONGEST} lines")
            is_package = path.name == "__init__.py"
            module = ".".join((name.parent if is_package else name.with_suffix("")).parts)
            for line, target in imported(ast.parse(text), module, is_package=is_package):
                if reason := objection(module, target):
                    found.append(f"{name}:{line}: imports {target}: {reason}")
    return found


def test_the_floors_of_the_house() -> None:
    assert all((ROOT / package / "__init__.py").is_file() for package in MAY_IMPORT)
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("twostage/config.py", "import stage1_tokenizer"),
        ("twostage/data/loader.py", "from pipelines.cli import main"),
        ("twostage/data/loader.py", "from ...stage2_ldm import denoiser"),
        ("stage1_tokenizer/losses.py", "from stage2_ldm.denoiser import LatentDenoiser"),
        ("stage1_tokenizer/losses.py", "import pipelines.cli as cli"),
        ("stage2_ldm/denoiser.py", "from stage1_tokenizer import encode"),
        ("stage2_ldm/denoiser.py", "from stage1_tokenizer.quantizers.cvq import CVQ"),
        ("stage2_ldm/denoiser.py", "import stage2_transformer.prior"),
        ("stage2_transformer/prior.py", "from stage2_ldm import objective"),
        ("stage1_tokenizer/report.py", "from stage1_tokenizer import train"),
        ("stage1_tokenizer/report.py", "from stage1_tokenizer.train import TokenizerTask"),
        ("stage1_tokenizer/report.py", "from .train import TokenizerTask"),
        ("stage1_tokenizer/__init__.py", "from .train import TokenizerTask"),
        ("stage1_tokenizer/quantizers/cvq.py", "from stage1_tokenizer.quantizers.vq import VQ"),
        ("stage1_tokenizer/quantizers/cvq.py", "from stage1_tokenizer.quantizers import vq"),
        ("stage1_tokenizer/quantizers/cvq.py", "from . import vq"),
        ("pipelines/sample.py", "import tests.helpers"),
        ("twostage/files.py", "from benchmarks import timing"),
    ],
)
@pytest.mark.parametrize("where", ["{}", "def late():\n    {}", "class A:\n    def b(self):\n        {}"])
def test_a_planted_violation_is_found(tmp_path: Path, file: str, line: str, where: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(where.format(line))
    (found,) = violations(tmp_path)
    assert found.startswith(f"{file}:{where.count(chr(10)) + 1}: imports ")


def test_a_long_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "twostage").mkdir()
    (tmp_path / "twostage" / "long.py").write_text("x = 1\n" * (LONGEST + 1))
    assert violations(tmp_path) == [f"twostage/long.py:{LONGEST + 1}: more than {LONGEST} lines"]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("twostage/data/loader.py", "from ..errors import refuse"),
        ("stage1_tokenizer/losses.py", "import twostage.files, os"),
        ("stage2_ldm/train.py", "from stage1_tokenizer.tokenizer import VQTokenizer"),
        ("stage2_ldm/denoiser.py", "from .objective import loss"),
        ("stage1_tokenizer/quantizers/cvq.py", "from stage1_tokenizer.quantizers.base import Quantizer"),
        ("stage1_tokenizer/encode.py", "from stage1_tokenizer.quantizers.vq import VQ"),
        ("pipelines/train.py", "from stage2_ldm.train import train"),
        ("pipelines/cli.py", "from pipelines import train"),
        ("twostage/models.py", "import tests_of_another"),
    ],
)
def test_what_is_allowed_is_not_found(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert violations(tmp_path) == []
