import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data.imagenet import imagenet
from twostage.errors import TwoStageError

WNIDS = ["n01440764", "n02012849", "n03126707"]
WORDS = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"
VALIDATION = {1: 2, 2: 0, 3: 1, 4: 2}
"""Number of a validation image -> its class."""


def name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def save(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path, "PNG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training images a class, four flat validation images."""
    for wnid in WNIDS:
        for i in range(2):
            save(tmp_path / "train" / wnid / f"{wnid}_{i}.JPEG")
    for number in VALIDATION:
        save(tmp_path / "val" / name(number), number)
    return tmp_path


def labels(dataset) -> list[int]:
    return [dataset[i]["class_label"] for i in range(len(dataset))]


def maps() -> dict[str, str]:
    names = {number: WNIDS[label] for number, label in VALIDATION.items()}
    backwards = sorted(VALIDATION, reverse=True)
    return {
        "LOC_val_solution.csv": "ImageId,PredictionString\n"
        + "".join(f"ILSVRC2012_val_{n:08d},{names[n]} 85 1 499 272 {names[n]} 1 2 3 4\n" for n in backwards),
        "val_map.txt": "".join(f"{name(n)}\t{names[n]}\n" for n in backwards),
        "val.txt": "".join(f"val/{name(n)} {VALIDATION[n]}\n" for n in backwards),
        "imagenet_2012_validation_synset_labels.txt": "".join(f"{names[n]}\n" for n in VALIDATION),
    }


@pytest.mark.parametrize("file", list(maps()))
@pytest.mark.parametrize("place", ["", "val"])
def test_labels_of_flat_validation_images(root: Path, file: str, place: str) -> None:
    (root / place / file).write_text(maps()[file])
    dataset = imagenet("test", root=str(root), image_size=8)
    assert labels(dataset) == [2, 0, 1, 2]
    assert dataset.classes == imagenet("train", root=str(root), image_size=8).classes == WNIDS


def test_labels_of_the_devkit(root: Path) -> None:
    """Its numbers are in an order of its own."""
    from scipy.io import savemat

    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    ids = {WNIDS[1]: 1, WNIDS[2]: 2, WNIDS[0]: 3}
    rows = np.array(
        [(i, wnid, "words") for wnid, i in ids.items()], dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O")]
    )
    savemat(devkit / "meta.mat", {"synsets": rows})
    truth = "".join(f"{ids[WNIDS[label]]}\n" for label in VALIDATION.values())
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    assert labels(imagenet("test", root=str(root), image_size=8)) == [2, 0, 1, 2]


def test_part_of_the_validation_images(root: Path) -> None:
    file = "imagenet_2012_validation_synset_labels.txt"
    (root / file).write_text(maps()[file])
    (root / "val" / name(1)).unlink()
    assert labels(imagenet("test", root=str(root), image_size=8)) == [0, 1, 2]


def test_without_labels_validation_images_are_used_and_it_is_said(root: Path) -> None:
    with pytest.warns(UserWarning, match=r"/val: used without labels.*LOC_val_solution\.csv"):
        dataset = imagenet("test", root=str(root), image_size=8)
    assert (len(dataset), dataset.classes, labels(dataset)) == (4, [], [0] * 4)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{name(1)} {WNIDS[0]}\n", f"{name(2)}: has no label (the file of labels does not name it)"),
        ("".join(f"{name(n)} n99999999\n" for n in VALIDATION), "has no label (its class n99999999 has no folder)"),
    ],
)
def test_labels_that_do_not_fit(root: Path, text: str, complaint: str) -> None:
    (root / "val_map.txt").write_text(text)
    with pytest.raises(TwoStageError) as error:
        imagenet("test", root=str(root), image_size=8)
    assert complaint in str(error.value)


def test_validation_images_in_folders(root: Path) -> None:
    for number, label in VALIDATION.items():
        target = root / "val" / WNIDS[label] / name(number)
        target.parent.mkdir(exist_ok=True)
        (root / "val" / name(number)).rename(target)
    dataset = imagenet("test", root=str(root), image_size=8)
    assert labels(dataset) == [0, 1, 2, 2]
    assert [int(dataset.where(i)[-13:-5]) for i in range(4)] == [2, 3, 1, 4]


@pytest.mark.parametrize("file", ["LOC_synset_mapping.txt", "synset_words.txt", "words.txt"])
def test_classes_are_called_by_words_where_there_are_any(root: Path, file: str) -> None:
    (root / file).write_text(WORDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = imagenet("train", root=str(root), image_size=8)
    assert dataset.classes == ["tench", "crane (n02012849)", "crane (n03126707)"]
    assert labels(dataset) == [0, 0, 1, 1, 2, 2]


def test_the_tree_of_kaggle(tmp_path: Path) -> None:
    for kind in ("train/n01440764/x", "train/n02012849/y", "val/" + name(1)[:-5], "test/ILSVRC2012_test_00000001"):
        save(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / f"{kind}.JPEG")
    (tmp_path / "LOC_synset_mapping.txt").write_text(WORDS)
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n" + name(1)[:-5] + ",n02012849 1 2 3 4 \n"
    )
    train, test = (imagenet(split, root=str(tmp_path), image_size=8) for split in ("train", "test"))
    assert (labels(train), labels(test)) == ([0, 1], [1])
    assert train.classes == test.classes == ["tench", "crane"]


def test_labels_within_a_zip_archive(root: Path, tmp_path_factory) -> None:
    (root / "val_map.txt").write_text(maps()["val_map.txt"])
    path = tmp_path_factory.mktemp("zip") / "imagenet.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    assert labels(imagenet("test", root=str(path), image_size=8)) == [2, 0, 1, 2]


def test_folders_with_other_names(root: Path) -> None:
    save(root / "train" / "cats" / "a.png")
    with pytest.raises(TwoStageError, match=r"train/cats: is not called by a wnid.*data\.name: folder"):
        imagenet("train", root=str(root), image_size=8)


def test_missing_splits(tmp_path: Path) -> None:
    save(tmp_path / "val" / "n01440764" / name(1))
    with pytest.raises(TwoStageError, match="has no train images; allowed: a folder train"):
        imagenet("train", root=str(tmp_path), image_size=8)
    assert imagenet("test", root=str(tmp_path), image_size=8).classes == ["n01440764"]
