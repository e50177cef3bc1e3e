"""Face data sets: FFHQ (Karras et al., "A Style-Based Generator Architecture for GANs", 2019) and CelebA-HQ
(Karras et al., "Progressive Growing of GANs", 2018), in any of the forms in which they are kept."""

import re

import numpy as np

from twostage.config import Count, NonNegativeInt
from twostage.data.images import Split
from twostage.data.stored import OnCorrupt, StoredImages, unlabelled
from twostage.data.tree import all_images, open_tree, split_folders, split_images

NUMBER = re.compile(rb"(\d+)\.[^./]*$")


def last(names: np.ndarray, count: int) -> np.ndarray:
    """The last `count` by the number that a name ends with; names without one come first."""
    found = [NUMBER.search(name) for name in names.tolist()]
    numbers = np.array([int(match[1]) if match else -1 for match in found])
    chosen = np.zeros(len(names), dtype=bool)
    chosen[np.argsort(numbers, kind="stable")[len(names) - count :]] = True
    return chosen


def ffhq(
    split: Split,
    *,
    root: str,
    image_size: Count = 256,
    held_out: NonNegativeInt = 10_000,
    train_list: str | None = None,
    test_list: str | None = None,
    on_corrupt: OnCorrupt = "refuse",
) -> StoredImages:
    """FFHQ: 70,000 images, flat or in folders of a thousand, of any size; no labels.

    Its authors count images 0 to 59,999 as training data, 60,000 to 69,999 as validation data: `held_out` of the
    highest numbers are for testing. VQGAN (taming-transformers) and the papers that build on its files drew 10,000
    others: give their `ffhqtrain.txt` and `ffhqvalidation.txt` as lists to have the same.

    Args:
        root: a folder, or a .zip or .tar archive; folders train and val (or test, validation) in it count.
        image_size, on_corrupt: see `StoredImages`.
        train_list, test_list: see `folder`.

    Raises:
        TwoStageError: see `open_tree` and `split_images`.
    """
    return _faces(split, root, image_size, held_out, {"train": train_list, "test": test_list}, on_corrupt)


def celebahq(
    split: Split,
    *,
    root: str,
    image_size: Count = 256,
    held_out: NonNegativeInt = 5_000,
    train_list: str | None = None,
    test_list: str | None = None,
    on_corrupt: OnCorrupt = "refuse",
) -> StoredImages:
    """CelebA-HQ: 30,000 images, as PNG, JPEG or .npy files (`imgHQ00000.npy`); no labels.

    It has no split of its own. VQGAN and latent diffusion train on 25,000 images and hold out 5,000, as here, where
    these are the ones of the highest numbers; for the same ones give `celebahqtrain.txt` and `celebahqvalidation.txt`
    of taming-transformers as lists.

    Args:
        root: a folder, or a .zip or .tar archive; folders train and val (or test, validation) in it count.
        image_size, on_corrupt: see `StoredImages`.
        train_list, test_list: see `folder`.

    Raises:
        TwoStageError: see `open_tree` and `split_images`.
    """
    return _faces(split, root, image_size, held_out, {"train": train_list, "test": test_list}, on_corrupt)


def _faces(
    split: Split, root: str, image_size: int, held_out: int, lists: dict[Split, str | None], on_corrupt: OnCorrupt
) -> StoredImages:
    source = open_tree(root)
    if "test" in split_folders(source, all_images(source)):
        held_out = 0
    images, _ = split_images(source, split, lists, held_out, last)
    return StoredImages(source, unlabelled(images), image_size=image_size, on_corrupt=on_corrupt)
