"""YAML -> strict models. A run is one YAML; a wrong key, type or value is refused before anything is built."""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from twostage.errors import TwoStageError, refuse
from twostage.files import write_text
from twostage.registry import Registry, first_error

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
"""Types for constructor parameters and sections; a value outside their range is refused with its key."""


class Section(BaseModel):
    """A part of a config: unknown keys and wrong types are errors, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


def component(registry: Registry) -> Any:
    """The type of a section field that holds `{name: ..., option: value}` for a class of `registry`."""

    def resolve(value: Any, info: ValidationInfo) -> dict[str, Any]:
        return registry.resolve(value, str(info.field_name))

    return Annotated[dict[str, Any], BeforeValidator(resolve)]


def _two(values: list[float]) -> list[float]:
    if len(values) != 2:
        raise ValueError("exactly two numbers are needed")
    return values


class OptimizerConfig(Section):
    """AdamW with a linear warm-up, then a constant rate or a cosine to zero.

    `weight_decay` acts on matrices and kernels, not on biases, the gains of norms and embeddings.
    """

    learning_rate: Positive
    betas: Annotated[list[Fraction], AfterValidator(_two)] = [0.9, 0.999]
    weight_decay: NonNegative = 0.0
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["constant", "cosine"] = "cosine"


class TrainingConfig(Section):
    """The loop: how long, how much at a time, and what is kept on the way.

    `batch_size` is the number of examples per optimiser step, over all processes and accumulation steps.
    `channels_last` lays images out with their channels together, which convolutions may be faster with; `compile` has
    torch.compile make the model's kernels, for which a C++ compiler is needed; `gradient_checkpointing` keeps only what
    goes into each block of a transformer and computes the rest again when gradients are taken, which needs less memory
    and about a third more time. None of them changes what is saved. Of the checkpoints the newest `keep_checkpoints`
    stay, for `--checkpoint` of the commands that sample.
    """

    steps: Count
    batch_size: Count
    accumulation: Count = 1
    seed: Seed = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    gradient_clip: Positive | None = None
    ema_decay: Fraction | None = None
    checkpoint_every: Count = 1000
    keep_checkpoints: Count = 2
    log_every: Count = 50
    workers: NonNegativeInt = 0
    tensorboard: bool = False

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.batch_size % self.accumulation:
            allowed = f"a multiple of {self.accumulation} (training.accumulation)"
            raise refuse("training.batch_size", self.batch_size, allowed)
        return self


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without two of its traps: `1e-4` is a number, and a key written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # refused below
            if key in keys:
                raise TwoStageError(f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice")
            keys.add(key)
        return super().construct_mapping(node, deep)


_FLOAT = r"^(?=.*[.eE])[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that `_Loader` would take for numbers."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise TwoStageError(f"{source}:{where} not valid YAML ({getattr(error, 'problem', error)})") from None
    except TwoStageError as error:
        raise TwoStageError(f"{source}: {error}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        TwoStageError: no such file, not YAML, a key written twice, or not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise TwoStageError(f"{path}: config could not be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise TwoStageError(f"{path}: config could not be read (not UTF-8 text)") from None
    value = _parse(text, str(path))
    if not isinstance(value, dict):
        raise TwoStageError(f"{path}: a config is a mapping of keys to values, found {type(value).__name__}")
    return value


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`values` with each `a.b=v` of the command line applied; v is read as YAML.

    Raises:
        TwoStageError: an assignment without `=`, or through a key that holds no mapping.
    """
    result = dict(values)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path:
            raise TwoStageError(f"--set {assignment!r} is not allowed; allowed: KEY=VALUE, e.g. training.steps=100")
        *parents, last = path.split(".")
        place = result
        for key in parents:
            child = place.get(key, {})
            if not isinstance(child, Mapping):
                raise TwoStageError(f"--set {path}: {key} holds {child!r}, which has no keys of its own")
            place[key] = dict(child)
            place = place[key]
        place[last] = _parse(text, f"--set {path}")
    return result


S = TypeVar("S", bound=Section)


def load(schema: type[S], values: Mapping[str, Any], source: str | Path = "config") -> S:
    """`values` as a checked `schema`, every default written out.

    Raises:
        TwoStageError: naming `source`, the full path of the key, its value and what is allowed.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise TwoStageError(f"{source}: {first_error(error, schema)}") from None
    except TwoStageError as error:
        raise TwoStageError(f"{source}: {error}") from None


def to_yaml(values: Mapping[str, Any]) -> str:
    """`values` as YAML, in their own order."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, default_flow_style=None)


KEEPING = tuple(
    f"training.{key}" for key in ("channels_last", "compile", "gradient_checkpointing", "keep_checkpoints", "workers")
)
"""What leaves a run's numbers alone may change between two commands of one run, as where its data lies may."""


def claim_run(run: Path, config: Section, ignore: Callable[[str], bool]) -> None:
    """Write `config.yaml` into the run folder, or check that the one already there says the same.

    Args:
        ignore: true for the key paths that may differ between two commands of one run (where the data lies).

    Raises:
        TwoStageError: the folder holds a run of another config; the first key that differs is named.
    """
    values, path = config.model_dump(), run / "config.yaml"
    if path.exists():
        before, now = flatten(_completed(read_yaml(path), type(config))), flatten(values)
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key) and key not in KEEPING and not ignore(key):
                raise TwoStageError(
                    f"{run}: holds a run of another config ({key}: {before.get(key)!r} there, {now.get(key)!r} here); "
                    "choose another --output, or remove that folder"
                )
    elif run.is_dir() and not all(path.name in entry.name for entry in run.iterdir()):  # ours, or half-written
        raise TwoStageError(f"{run}: is not empty and holds no run; choose another --output")
    write_text(path, to_yaml(values))


def _completed(values: dict[str, Any], schema: type[Section]) -> dict[str, Any]:
    """The config of a run that may be older than some options: those are at their defaults."""
    try:
        return load(schema, values).model_dump()
    except TwoStageError:
        return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
