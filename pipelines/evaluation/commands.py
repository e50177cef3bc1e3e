"""The commands `twostage evaluate ...`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.arguments import BatchSize, Checkpoint, Data, Split, known_split
from pipelines.options import sampling_options
from twostage.errors import TwoStageError, refuse

app = typer.Typer(help="Measure a tokenizer's reconstructions or a pipeline's samples.", no_args_is_help=True)

Output = Annotated[
    Path | None, typer.Option("--output", help="JSON file, a table row .md beside it; default metrics.json in the run")
]
Network = Annotated[
    str | None, typer.Option("--network", help="FILE.py:FACTORY of a feature network, in place of Inception")
]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="folder of reference statistics; default: in the user's cache")
]


@app.command("reconstruction")
def evaluate_reconstruction(
    tokenizer: Annotated[Path, typer.Argument(help="run folder of a tokenizer")],
    output: Output = None,
    data: Data = None,
    split: Split = "test",
    network: Network = None,
    checkpoint: Checkpoint = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help="default, or cvq: JPEG pairs as in the paper")
    ] = "default",
    batch_size: BatchSize = 256,
) -> None:
    """L1, PSNR, SSIM, LPIPS, rFID, usage and perplexity."""
    from pipelines.processes import join_processes
    from pipelines.runs import check_output_file, data_of, load_tokenizer, metrics_file, with_root

    output = output or metrics_file(tokenizer, step=checkpoint)
    check_output_file(output)
    join_processes()
    source, loaded = with_root(data_of(tokenizer), data), load_tokenizer(tokenizer, checkpoint)
    from pipelines.evaluation.reconstruction import reconstruction_row
    from twostage.metrics.features import load_network

    eye = load_network(network, loaded.device)
    row = reconstruction_row(loaded, source, eye, split=split, protocol=protocol, batch_size=batch_size)
    report(row, output)


@app.command("generation")
@sampling_options
def evaluate_generation(
    pipeline: Annotated[Path, typer.Argument(help="run folder of a prior, or a saved pipeline")],
    protocol: Annotated[
        str, typer.Option("--protocol", help="ldm, adm or clean: reference, resizing, classes")
    ] = "ldm",
    num_images: Annotated[int | None, typer.Option("--num-images", help="default: the protocol's, 50,000")] = None,
    output: Output = None,
    data: Data = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="train or test images as the reference; default: train", callback=known_split),
    ] = None,
    reference: Annotated[Path | None, typer.Option("--reference", help="published .npz file (protocol adm)")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="of samples: balanced, uniform, data; default: the protocol's")
    ] = None,
    network: Network = None,
    checkpoint: Checkpoint = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    batch_size: BatchSize = 100,
    save_images: Annotated[Path | None, typer.Option("--save-images", help="folder for the samples as PNG")] = None,
    save_npz: Annotated[Path | None, typer.Option("--save-npz", help="file for the samples as one array")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="also a distance for each class")] = False,
    neighbours: Annotated[
        bool, typer.Option("--neighbours", help="pictures/neighbours.png: samples and their nearest training images")
    ] = False,
    cache: Cache = None,
    *,
    options: dict[str, Any],
) -> None:
    """FID, KID, IS, precision and recall of samples against real images; the same command goes on where it stopped."""
    from pipelines.processes import join_processes
    from pipelines.runs import check_output, check_output_file, data_of, load_pipeline, metrics_file, with_root
    from twostage.metrics.generation_protocols import generation_protocol

    how = generation_protocol(protocol).changed(split=split, classes=_known_classes(classes))
    output = output or metrics_file(pipeline, step=checkpoint)
    for file in filter(None, (output, save_npz)):
        check_output_file(file)
    for folder in filter(None, (save_images, cache)):
        check_output(folder)
    join_processes()
    loaded = load_pipeline(pipeline, checkpoint)
    from pipelines.evaluation.generation import Request
    from pipelines.evaluation.generation import evaluate_generation as evaluate
    from twostage.metrics.features import load_network
    from twostage.metrics.reference import default_cache

    request = Request(
        protocol=how,
        num_images=how.num_images if num_images is None else num_images,
        parts=output.with_name(f"{output.name}.parts"),
        cache=cache or default_cache(),
        seed=seed,
        batch_size=batch_size,
        options=options,
        data=None if how.split is None else with_root(data_of(pipeline), data),
        reference=reference,
        save_images=save_images,
        save_npz=save_npz,
        per_class=per_class,
        neighbours=output.parent / "pictures" / "neighbours.png" if neighbours else None,
    )
    row = evaluate(loaded, load_network(network, loaded.device, how.resize), request)
    if row is not None:
        report(row, output)


@app.command("bounds")
def evaluate_bounds(
    run: Annotated[Path, typer.Argument(help="run folder of a tokenizer or of a prior, or a saved pipeline")],
    num_images: Annotated[int, typer.Option("--num-images", help="as many as there are samples to compare")],
    protocol: Annotated[str, typer.Option("--protocol", help="ldm or clean")] = "ldm",
    output: Annotated[
        Path | None,
        typer.Option("--output", help="JSON file, a table row .md beside it; default bounds.json in the run"),
    ] = None,
    data: Data = None,
    network: Network = None,
    batch_size: BatchSize = 100,
    cache: Cache = None,
) -> None:
    """How near samples can come: the distance of unseen real images to the reference, and of their reconstructions."""
    from pipelines.runs import check_output, check_output_file, data_of, load_tokenizer, with_root
    from twostage.metrics.generation_protocols import generation_protocol

    how, output = generation_protocol(protocol), output or run / "bounds.json"
    check_output_file(output)
    if cache is not None:
        check_output(cache)
    source, tokenizer = with_root(data_of(run), data), load_tokenizer(run)
    from pipelines.evaluation.bounds import evaluate_bounds as evaluate
    from twostage.metrics.features import load_network
    from twostage.metrics.reference import default_cache
    from twostage.metrics.weights import Missing

    eye = load_network(network, tokenizer.device, how.resize)
    if isinstance(eye, Missing):
        raise TwoStageError(f"{eye}; or name another feature network with --network")
    row = evaluate(tokenizer, eye, how, source, num_images, cache=cache or default_cache(), batch_size=batch_size)
    report(row, output)


@app.command("likelihood")
def evaluate_likelihood(
    pipeline: Annotated[Path, typer.Argument(help="run folder of an autoregressive prior, or a saved pipeline")],
    codes: Annotated[Path, typer.Option("--codes", help="codes folder, of images that it was not trained on")],
    output: Annotated[
        Path | None, typer.Option("--output", help="JSON file; default likelihood.json in the run")
    ] = None,
) -> None:
    """Bits per image of frozen codes; encode the test split for it."""
    from pipelines.runs import check_output_file, load_pipeline

    output = output or pipeline / "likelihood.json"
    check_output_file(output)
    loaded = load_pipeline(pipeline)
    from pipelines.evaluation.likelihood import evaluate_likelihood as evaluate

    report(evaluate(loaded, codes), output)


def _known_classes(choice: str | None) -> str | None:
    if choice not in (None, "balanced", "uniform", "data"):
        raise refuse("--classes", choice, "balanced, uniform, data")
    return choice


def report(row: dict[str, Any], path: Path) -> None:
    """Write a row and show it, on the first process."""
    from pipelines.evaluation.provenance import write_row
    from pipelines.processes import is_first
    from twostage.config import flatten

    if not is_first():
        return
    write_row(path, row)
    for name, value in flatten(row).items():
        typer.echo(f"{name:>24}  {value:.4f}" if isinstance(value, float) else f"{name:>24}  {value}")
    typer.echo(f"done: {path}")
