"""Parquet files with more images than the disk has room for, here or on the Hugging Face Hub, streamed."""

from pathlib import Path

import numpy as np

from twostage.config import Count
from twostage.data.hf import check_place, class_column, columns, labelled_rows, read_by_datasets, split_name
from twostage.data.images import Split
from twostage.data.sources.row_groups import RowGroups
from twostage.data.stored import Channels, OnCorrupt, unlabelled
from twostage.data.streamed import StreamedImages
from twostage.errors import refuse

SUFFIX = ".parquet"


def parquet(
    split: Split,
    *,
    root: str,
    image_size: Count,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    buffer: Count = 8192,
    channels: Channels = 3,
    on_corrupt: OnCorrupt = "refuse",
) -> StreamedImages:
    """As `hf`, of Parquet files alone, and nothing is written to the disk: images are read from where they are, a row
    group at a time, when a batch needs them.

    Every image comes once in an epoch: row groups in a random order, images mixed within windows. The order follows
    from seed and epoch, so that training resumes exactly. Labels are read, all of them, before it begins.

    Args:
        root: a folder or file (.parquet), or the name of a data set on the Hub.
        buffer: images that are mixed with each other; up to three times as many wait in memory as they are stored, in
            all processes and workers together. A larger one mixes better where neighbours are alike, sorted by class
            say. With row groups of a thousand images each worker may read, and keep, what the others do, unless it is
            larger too: 32 row groups.
        config, image_column, label_column: see `hf`.
        image_size, channels, on_corrupt: see `StoredImages`.

    Raises:
        TwoStageError: what lies at `root` is no Parquet, its row groups are too large, or it has no such split or
            column.
    """
    urls = parquet_files(root, config)

    def withheld(name: str) -> bool:
        rows = RowGroups(Path(root), urls[name][:1])
        column = label_column or class_column(rows)
        return column is not None and column in rows.column_names and rows.first(column) == -1

    chosen = split_name(urls, split, withheld, root)
    rows = RowGroups(Path(root), urls[chosen])
    rows.image_column, labels = columns(rows, image_column, label_column, f"{root}: {chosen}")
    selection = unlabelled(np.arange(len(rows)))
    if labels is not None:
        training = rows if chosen == "train" or "train" not in urls else RowGroups(Path(root), urls["train"])
        selection = labelled_rows(rows, training, labels, f"{root}: {chosen}")
    return StreamedImages(
        rows, selection, buffer=buffer, image_size=image_size, channels=channels, on_corrupt=on_corrupt
    )


def parquet_files(root: str, config: str | None) -> dict[str, list[str]]:
    """Where the files of each split are.

    Raises:
        TwoStageError: there is no such folder or name, or what is there is no Parquet.
    """
    check_place(root, (SUFFIX,))
    import datasets

    with read_by_datasets(root):
        if Path(root).is_file():
            builder = datasets.load_dataset_builder("parquet", data_files=root)
        else:
            builder = datasets.load_dataset_builder(root, config)
    found = {str(split): [str(url) for url in urls] for split, urls in (builder.config.data_files or {}).items()}
    others = [url for urls in found.values() for url in urls if not url.endswith(SUFFIX)]
    if others or not found:
        what = others[0] if others else "no data files"
        raise refuse(f"{root}: data files", what, "Parquet; name: hf reads other kinds, name: webdataset tar shards")
    return found
