"""What a table is: rows of tokenizers, each a change to one base, and the figures that are published for them.

A table is a YAML file; those of the papers lie in configs/tables and go by their names.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipelines.reproduce.budget import Budget, stretch
from pipelines.train import INSTALLED
from stage1_tokenizer.config import TokenizerConfig
from twostage.config import Section, flatten, load, override, read_yaml
from twostage.data import DATASETS
from twostage.errors import TwoStageError, refuse
from twostage.registry import Registry, suggest

FOLDER = INSTALLED / "tables"

Measure = Literal["L1", "PSNR", "SSIM", "LPIPS", "rFID", "FID", "usage", "perplexity"]

PLOTS = Registry(
    "plot",
    {
        "dots": "pipelines.reproduce.plots:dots",
        "lines": "pipelines.reproduce.plots:lines",
        "curves": "pipelines.reproduce.plots:curves",
        "progress": "pipelines.reproduce.plots:progress",
        "projections": "pipelines.reproduce.plots:projections",
    },
    provided=("results", "path"),
)

Overrides = dict[str, Any]
"""Key path -> value, as `--set KEY=VALUE` has them."""


class Slot(Section):
    """A data set of a table.

    Attributes:
        data: its component, without a root; null where there are published figures only.
        set: what differs from the base on this data.
    """

    data: dict[str, Any] | None = None
    set: Overrides = Field(default_factory=dict)


class Row(Section):
    """A row of a table.

    Attributes:
        name: as the table prints it.
        set: what differs from the base; null for a row of published figures only.
        published: data set -> measure -> figure, copied from the source.
        series: in a plot of lines, the line that this row is a point of.
    """

    name: Annotated[str, Field(min_length=1)]
    set: Overrides | None = None
    published: dict[str, dict[Measure, float]] = Field(default_factory=dict)
    series: str | None = None

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"\W+", "_", self.name.lower()).strip("_") or "row"


def _rows(values: Any) -> list[Row]:
    if not isinstance(values, list) or not values:
        raise refuse("rows", values, "a list of at least one row")
    return [_part(Row, value, f"rows.{i}") for i, value in enumerate(values)]


def _slots(values: Any) -> dict[str, Slot]:
    if not isinstance(values, dict) or not values:
        raise refuse("datasets", values, "a mapping of at least one name to {data: ..., set: ...}")
    return {str(name): _part(Slot, value, f"datasets.{name}") for name, value in values.items()}


def _part(schema: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict | schema):
        raise refuse(path, value, f"a mapping with the keys {', '.join(schema.model_fields)}")
    return value if isinstance(value, schema) else load(schema, value, path)


def _plots(values: Any) -> list[dict[str, Any]]:
    if not isinstance(values, list):
        raise refuse("plots", values, "a list of {name: ..., option: value}")
    return [PLOTS.resolve(value, f"plots.{i}") for i, value in enumerate(values)]


class Table(Section):
    """Rows of tokenizers under one budget.

    Attributes:
        title: one line.
        source: paper and table that the published figures stand in.
        note: what sets ours apart from the published figures.
        protocol: how the published figures were measured; see `twostage.metrics.protocols`.
        budget: how long every row is trained, where the command line names no other.
        measures: the columns, in their order.
        datasets: where the rows are trained and measured.
        base: a tokenizer's config without data, seed and steps; empty if every row is published only.
        rows: in the order of the source.
        plots: what is drawn of it: the first in table.png, each other in table_<name>.png.
    """

    title: str
    source: str
    note: str = ""
    protocol: Literal["default", "cvq"] = "default"
    budget: Annotated[Budget, BeforeValidator(Budget.parse)]
    measures: Annotated[list[Measure], Field(min_length=1)]
    datasets: Annotated[dict[str, Slot], BeforeValidator(_slots)]
    base: dict[str, Any] = Field(default_factory=dict)
    rows: Annotated[list[Row], BeforeValidator(_rows)]
    plots: Annotated[list[dict[str, Any]], BeforeValidator(_plots)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _rows_differ(self) -> "Table":
        for slug, times in Counter(row.slug for row in self.rows).items():
            if times > 1:
                raise refuse("rows", slug, f"once as the folder of a row, not {times} times")
        return self

    @model_validator(mode="after")
    def _published_where_there_is_a_column(self) -> "Table":
        for i, row in enumerate(self.rows):
            for dataset, figures in row.published.items():
                if dataset not in self.datasets:
                    raise TwoStageError(f"rows.{i}.published.{dataset}: unknown key; {suggest(dataset, self.datasets)}")
                for measure in figures:
                    if measure not in self.measures:
                        allowed = ", ".join(self.measures)
                        raise refuse(f"rows.{i}.published.{dataset}", measure, f"of the measures, {allowed}")
        return self

    @model_validator(mode="after")
    def _lines_have_places(self) -> "Table":
        for i, plot in enumerate(self.plots):
            for row in self.trained if plot["name"] == "lines" else ():
                if plot["over"] not in flatten(self.options(row)):
                    allowed = f"a key that the base or row {row.name!r} sets"
                    raise refuse(f"plots.{i}.over", plot["over"], allowed)
        return self

    @property
    def trained(self) -> list[Row]:
        """The rows that are not published only."""
        return [row for row in self.rows if row.set is not None]

    @property
    def protocols(self) -> list[str]:
        """How our figures are measured: as the published ones, and without any rounding."""
        return list(dict.fromkeys([self.protocol, "default"]))

    @property
    def follows_training(self) -> bool:
        """Whether checkpoints are measured, too."""
        return any(plot["name"] == "progress" for plot in self.plots)

    def options(self, row: Row) -> dict[str, Any]:
        """The base with what a row sets, before a data set and the budget decide the rest."""
        return override(self.base, _assignments(row.set or {}))

    def config(self, dataset: str, row: Row, *, root: str | None, steps: int, seed: int) -> TokenizerConfig:
        """The checked config of a row on a data set.

        Raises:
            TwoStageError: the row, the key, its value and what is allowed.
        """
        where, slot = f"row {row.name!r} on {dataset}", self.datasets[dataset]
        given = {"training.steps": steps, "training.seed": seed} | ({} if root is None else {"data.root": root})
        try:
            values = override({"data": slot.data, **self.base}, [*_assignments(slot.set), *_assignments(row.set or {})])
            values = override(stretch(values, steps), _assignments(given))
        except TwoStageError as error:
            raise TwoStageError(f"{where}: {error}") from None
        return load(TokenizerConfig, values, where)


def _assignments(overrides: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]


def needs_root(slot: Slot) -> bool:
    """Whether someone has to say where the data lies."""
    data = slot.data or {}
    name = data.get("name")
    fields = DATASETS.schema(name).model_fields if name in list(DATASETS) else {}
    return "root" in fields and fields["root"].is_required() and "root" not in data


def table_names() -> list[str]:
    """The tables that are installed with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_table(name: str) -> Path:
    """The table at a path that ends in .yaml, or the installed one of that name.

    Raises:
        TwoStageError: there is none of that name.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if name not in table_names():
        raise TwoStageError(f"TABLE: {name!r} is no table; {suggest(name, table_names())}, or a YAML file of your own")
    return FOLDER / f"{name}.yaml"


def read_table(path: Path) -> Table:
    """The checked table in a file; its rows' configs are checked when data and budget are known.

    Raises:
        TwoStageError: naming the file, the key, its value and what is allowed.
    """
    return load(Table, read_yaml(path), path)


def show_tables() -> str:
    """A line for each installed table: its name and its title."""
    titles = {name: str(read_yaml(FOLDER / f"{name}.yaml").get("title")) for name in table_names()}
    width = max(map(len, titles), default=0)
    return "\n".join(f"{name:<{width}}  {title}" for name, title in titles.items())
