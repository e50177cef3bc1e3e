"""`twostage sample` and every other place that needs many samples: class by class, in batches, with progress."""

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.requests import class_ids
from twostage.data.loader import mix
from twostage.errors import refuse
from twostage.pictures import image_grid, save_image, save_labelled_rows


def sample_images(
    pipeline: Any, labels: Sequence[int | str | None], *, seed: int, batch_size: int = 100, **options: Any
) -> Tensor:
    """One image per label, [n, c, H, W] in [-1, 1] on the CPU; image i depends on (seed, i, its label) alone.

    Args:
        options: passed to the pipeline's call (num_inference_steps, guidance_scale, temperature ...).

    Raises:
        TwoStageError: an option that the pipeline does not allow.
    """
    check_options(pipeline, options)
    pipeline.set_progress_bar_config(desc="batch", leave=False, dynamic_ncols=True, disable=len(labels) < batch_size)
    parts = []
    with tqdm(total=len(labels), desc="sampling", unit="image", dynamic_ncols=True) as bar:
        for first in range(0, len(labels), batch_size):
            part = range(first, min(first + batch_size, len(labels)))
            parts.append(sample_some(pipeline, part, labels, seed=seed, **options))
            bar.update(len(part))
    return torch.cat(parts)


def sample_some(
    pipeline: Any, indices: Iterable[int], labels: Sequence[int | str | None], *, seed: int, **options: Any
) -> Tensor:
    """The images of some indices, [n, c, H, W] in [-1, 1] on the CPU, in one batch; see `sample_images`."""
    wanted = list(indices)
    generators = [torch.Generator().manual_seed(mix(seed, i)) for i in wanted]
    return pipeline([labels[i] for i in wanted], generator=generators, output_type="pt", **options).images * 2 - 1


def check_options(pipeline: Any, options: dict[str, Any]) -> None:
    """Refuse sampling options that the pipeline does not know or does not allow."""
    known = inspect.signature(pipeline.check_sampling).parameters
    for name, value in options.items():
        if name not in known:
            raise refuse(name, value, f"what {type(pipeline).__name__} understands: {', '.join(known)}")
    pipeline.check_sampling(**options)


def class_grid(pipeline: Any, path: Path, *, columns: int, seed: int, **options: Any) -> Tensor:
    """Draw `columns` images of every class, save them as one labelled row per class, return [N * columns, c, H, W]."""
    names = list(pipeline.config.id2label.values())
    images = sample_images(pipeline, [i for i in range(len(names)) for _ in range(columns)], seed=seed, **options)
    save_labelled_rows(images, names, path)
    return images


def sample_to_folder(
    pipeline: Any, folder: Path, labels: Sequence[int | str], num_images: int, seed: int, **options: Any
) -> None:
    """Write `num_images` PNG files per label (every class, if none is given) and `grid.png`.

    Raises:
        TwoStageError: a label or an option that the pipeline does not allow; nothing is written then.
    """
    names = pipeline.config.id2label
    wanted = class_ids(list(labels) or (list(range(len(names))) if names else None), num_images, names)
    images = sample_images(pipeline, wanted, seed=seed, **options)
    for i, (label, image) in enumerate(zip(wanted, images)):
        name = f"{i:05d}.png" if label is None else f"{i:05d}_class{label:03d}.png"
        save_image(image_grid(image[None], 1, scale=1), folder / name)
    save_image(image_grid(images, num_images), folder / "grid.png")
