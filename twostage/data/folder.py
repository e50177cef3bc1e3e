"""One's own images: files below a folder, or in an archive of it."""

from typing import Literal

from twostage.config import Count, NonNegativeInt
from twostage.data.images import Split
from twostage.data.stored import Channels, OnCorrupt, StoredImages, unlabelled
from twostage.data.tree import (
    class_folders,
    evenly,
    images_below,
    labelled,
    open_tree,
    split_folders,
    split_images,
)


def folder(
    split: Split,
    *,
    root: str,
    image_size: Count,
    channels: Channels = 3,
    labels: Literal["folders", "none"] = "folders",
    held_out: NonNegativeInt = 0,
    train_list: str | None = None,
    test_list: str | None = None,
    on_corrupt: OnCorrupt = "refuse",
) -> StoredImages:
    """Image files: `root/train/<class>/*` and `root/test/<class>/*` (else `val`, else `validation`), nested or not.

    Without class folders the set has no labels. Without split folders every image is for training, less what is held
    out. Files of other kinds and hidden ones are passed over. The order is that of the paths.

    Args:
        root: a folder, or a .zip or .tar archive.
        image_size, channels, on_corrupt: see `StoredImages`.
        labels: "none" when the folders are no classes (numbered ones, or those that LSUN's export makes of its keys).
        held_out: without a folder of test images, so many of the others, evenly, are for testing.
        train_list, test_list: text files with one path below `root` a line: the images of the split, in this order.
            A name without folders and suffix is enough where only one image has it.

    Raises:
        TwoStageError: see `open_tree`, `split_images` and `labelled`.
    """
    source = open_tree(root)
    lists: dict[Split, str | None] = {"train": train_list, "test": test_list}
    images, below = split_images(source, split, lists, held_out, evenly)
    selection = unlabelled(images)
    if labels == "folders":
        of_classes = b"" if lists[split] else split_folders(source, images_below(source)).get("train", below)
        selection = labelled(source, images, below, class_folders(source, of_classes))
    return StoredImages(source, selection, image_size=image_size, channels=channels, on_corrupt=on_corrupt)
