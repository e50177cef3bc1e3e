"""The command `twostage`. Each command imports what it needs when it runs: help and mistakes answer at once."""

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipelines.arguments import BatchSize, Checkpoint, Data, Split
from pipelines.evaluation.commands import app as evaluate_app
from pipelines.options import sampling_options
from pipelines.reproduce.command import reproduce
from pipelines.toys.command import toys
from twostage.errors import TwoStageError


class Commands(TyperGroup):
    """All commands; Ctrl-C in any of them ends with one line and the shell's exit status for it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say(
                "interrupted; the same command resumes a training, encoding or evaluation, and does anything else anew"
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    help="Image tokenizers whose codebook does not collapse, and generators over their frozen codes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train a stage; the same command again goes on where it stopped.", no_args_is_help=True)
data_app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(data_app, name="data")
app.command()(reproduce)
app.command()(toys)

Config = Annotated[Path, typer.Argument(help="a YAML config, e.g. configs/fashion_mnist/tokenizer_cvq.yaml")]
Run = Annotated[Path | None, typer.Option("--output", help="run folder; default runs/<folder>/<name of the config>")]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. training.steps=100; may be repeated")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check the config, print it resolved, and stop")]
Saved = Annotated[Path, typer.Argument(help="run folder, or a saved tokenizer or pipeline")]
From = Annotated[str | None, typer.Option("--from", help="run folder or saved model whose weights are the start")]


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", help="folder to write")] = Path("runs/quickstart"),
) -> None:
    """Train, sample and measure everything once, small, on the embedded data set, in minutes on a CPU."""
    from pipelines.quickstart import run

    report = run(output)
    typer.echo(f"done: open {report}")


@train_app.command("tokenizer")
def train_tokenizer(
    config: Config, output: Run = None, set_: Set = None, data: Data = None, start: From = None, dry_run: DryRun = False
) -> None:
    """Stage one: an image tokenizer."""
    from pipelines import train
    from stage1_tokenizer.config import TokenizerConfig

    checked = train.read_config(TokenizerConfig, config, set_ or [], data, start)
    _train(train.train_tokenizer, checked, config, output, dry_run)


@train_app.command("ldm")
def train_ldm(
    config: Config, output: Run = None, set_: Set = None, start: From = None, dry_run: DryRun = False
) -> None:
    """Stage two: latent diffusion over frozen codes."""
    from pipelines import train
    from stage2_ldm.config import LDMConfig

    checked = train.read_config(LDMConfig, config, set_ or [], start=start)
    _train(train.train_ldm, checked, config, output, dry_run)


@train_app.command("transformer")
def train_transformer(
    config: Config, output: Run = None, set_: Set = None, start: From = None, dry_run: DryRun = False
) -> None:
    """Stage two: an autoregressive transformer over frozen codes."""
    from pipelines import train
    from stage2_transformer.config import TransformerConfig

    checked = train.read_config(TransformerConfig, config, set_ or [], start=start)
    _train(train.train_transformer, checked, config, output, dry_run)


def _train(command: Any, checked: Any, config: Path, output: Path | None, dry_run: bool) -> None:
    if dry_run:
        from pipelines.train import describe

        typer.echo(describe(checked), nl=False)
        return
    run = output or Path("runs") / config.resolve().parent.name / config.stem
    command(checked, run)
    from pipelines.processes import is_first

    if is_first():
        typer.echo(f"done: {run}")


@app.command()
def encode(
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="run folder of a tokenizer")],
    output: Annotated[Path, typer.Option("--output", help="codes folder to write")],
    data: Data = None,
    split: Split = "train",
    latents: Annotated[bool, typer.Option("--latents", help="also keep the encoder's output, as float16")] = False,
    views: Annotated[
        str, typer.Option("--views", help="of each image: none (but itself), flips, or ten-crop")
    ] = "none",
    batch_size: BatchSize = 256,
) -> None:
    """Freeze a data set's codes: one pass of a tokenizer, to disk; the same command goes on where it stopped."""
    from pipelines.processes import is_first, join_processes
    from pipelines.runs import check_output, data_of, load_tokenizer, with_root

    check_output(output)
    join_processes()
    source, loaded = with_root(data_of(tokenizer), data), load_tokenizer(tokenizer)
    from stage1_tokenizer.encode import encode as encode_dataset

    manifest = encode_dataset(
        loaded,
        source,
        output,
        split=split,  # type: ignore[arg-type]
        latents=latents,
        views=views,
        batch_size=batch_size,
    )
    if is_first():
        typer.echo(f"done: {manifest.count} images in {output}")


@app.command()
@sampling_options
def sample(
    pipeline: Annotated[Path, typer.Argument(help="run folder of a prior, or a saved pipeline")],
    output: Annotated[Path, typer.Option("--output", help="folder for the images and a grid of them")],
    class_label: Annotated[
        list[str] | None, typer.Option("--class-label", help="id or name; may be repeated; default: every class")
    ] = None,
    num_images: Annotated[int, typer.Option("--num-images", help="images per label")] = 8,
    checkpoint: Checkpoint = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    *,
    options: dict[str, Any],
) -> None:
    """Draw images from a trained prior."""
    from pipelines.runs import check_output, load_pipeline

    check_output(output)
    loaded = load_pipeline(pipeline, checkpoint)
    from pipelines.sample import sample_to_folder

    labels = [int(label) if re.fullmatch(r"-?\d+", label) else label for label in class_label or []]
    sample_to_folder(loaded, output, labels, num_images, seed, **options)
    typer.echo(f"done: {output}")


@app.command()
def card(path: Saved) -> None:
    """Write the model card of a run anew, README.md beside its model: with samples and numbers that came later."""
    from pipelines.sharing.card import shared, write_card

    found = shared(path)
    typer.echo(f"done: {write_card(found.folder, found.run)}")


@app.command()
def push(
    path: Saved,
    repo_id: Annotated[str, typer.Argument(help="USER/NAME on the Hugging Face Hub")],
    private: Annotated[bool, typer.Option("--private", help="a repository that is made now is private")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write the card, list the files, send nothing")] = False,
) -> None:
    """Upload a run's tokenizer or pipeline with its card, as `hf auth login` allows."""
    from pipelines.sharing.push import files, prepare
    from pipelines.sharing.push import push as upload

    folder = prepare(path, repo_id)
    for file in files(folder):
        typer.echo(f"{(folder / file).stat().st_size:>12,}  {file}")
    if not dry_run:
        typer.echo(f"done: {upload(folder, repo_id, private=private)}")


@app.command("import-compvis")
def import_compvis(
    config: Annotated[Path, typer.Argument(help="the YAML config that came with the checkpoint")],
    checkpoint: Annotated[Path, typer.Argument(help="its .ckpt file")],
    output: Annotated[Path, typer.Option("--output", help="folder to write")],
) -> None:
    """Make a released checkpoint of taming-transformers or latent diffusion one of this package."""
    from pipelines.import_compvis import import_compvis as import_

    model = import_(config, checkpoint, output)
    typer.echo(f"done: {type(model).__name__} in {output}")


@data_app.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(help="a folder, or a file of many images: .zip, .tar, .parquet, .arrow")],
    output: Annotated[Path | None, typer.Option("--output", help="PNG file for a few images of each split")] = None,
) -> None:
    """What lies there: which data set, its splits, classes, sizes, corrupt images (exit status 2 if there are any)."""
    from pipelines.runs import check_output_file
    from twostage.data.check import check_dataset, save_examples

    if output is not None:
        check_output_file(output)
    reports = check_dataset(path)
    for report in reports:
        typer.echo(report.describe())
    if output is not None:
        save_examples(reports, output)
        typer.echo(f"done: {output}")
    if corrupt := sum(report.corrupt for report in reports):
        raise TwoStageError(f"{path}: {corrupt} corrupt images, named above")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2, a warning one line."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
        try:
            app()
        except (TwoStageError, OSError) as error:  # OSError: the file system refused, where nothing said it better
            _say(error)
            sys.exit(2)


def _say(message: object) -> None:
    print(f"twostage: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
