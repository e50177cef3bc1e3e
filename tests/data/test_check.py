import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from twostage.data import DATASETS
from twostage.data import check as check_module
from twostage.data import recognise as recognise_module
from twostage.data.check import check_dataset, save_examples
from twostage.errors import TwoStageError


def save(path: Path, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(
        mode
    ).save(path)
    return path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train/cat/a.jpg", "train/cat/b.png", "train/dog/a.webp", "val/dog/x.jpeg"):
        save(tmp_path / name)
    return tmp_path


def only(path: Path) -> Any:
    (report,) = check_dataset(path)
    return report


def component(report: Any) -> dict[str, Any]:
    """What the last line of a report says, which has to be what the report has."""
    said = yaml.safe_load(report.describe().splitlines()[-1])["data"]
    assert said == report.component
    return said


def test_a_folder(root: Path) -> None:
    bad = truncate(save(root / "train" / "dog" / "large.png", (40, 30)))
    save(root / "train" / "dog" / "small.png", (5, 5), mode="L")
    report = only(root)
    train = report.splits["train"]
    assert (train.images, train.channels, train.classes) == (4, 3, {"cat": 2, "dog": 2})
    assert train.sizes == {(12, 10): 3, (5, 5): 1}
    assert train.good.tolist() == [0, 1, 2, 4]
    assert report.splits["test"].classes == {"cat": 0, "dog": 1}
    assert report.corrupt == 1 and train.corrupt[0].startswith(f"{bad}: corrupt (")
    assert f"  {bad}: " in report.describe()
    assert component(report) == {"name": "folder", "root": str(root), "image_size": 10}


def test_a_missing_split_is_said(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", (300, 400), mode="L")
    report = only(tmp_path)
    assert report.splits["train"].channels == 1
    assert "test: none (" in report.describe() and "held_out" in report.describe()
    assert component(report) == {"name": "folder", "root": str(tmp_path), "image_size": 256, "channels": 1}


@pytest.mark.parametrize("names", [["0/a/0a1.png", "f/0/f00.png"], ["00000/0.png", "01000/1000.png"]])
def test_folders_that_are_no_classes(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        save(tmp_path / name)
    assert component(only(tmp_path))["labels"] == "none"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_imagenet_in_an_archive_with_a_corrupt_file(tmp_path: Path, kind: str) -> None:
    names = ("train/n00000001/a.JPEG", "train/n00000002/b.JPEG", "val/n00000001/c.JPEG")
    for name in names:
        save((tmp_path / "tree" / name).with_suffix(".jpg")).rename(tmp_path / "tree" / name)
    truncate(tmp_path / "tree" / names[1])
    path = tmp_path / f"tree.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.write(tmp_path / "tree" / name, name)
    else:
        with tarfile.open(path, "w") as tar:
            tar.add(tmp_path / "tree", "tree")
    report = only(path)
    assert component(report) == {"name": "imagenet", "root": str(path), "image_size": 10}
    assert report.splits["train"].classes == {"n00000001": 1, "n00000002": 0}
    assert report.splits["train"].corrupt[0].startswith(f"{path}/train/n00000002/b.JPEG: corrupt (")


@pytest.mark.parametrize("name", ["ffhq", "celebahq"])
def test_faces_are_known_by_their_number(tmp_path: Path, name: str, monkeypatch) -> None:
    for i in range(3):
        save(tmp_path / f"{i:05d}.png")
    monkeypatch.setattr(recognise_module, "FACES", {3: name})
    assert recognise_module.recognise(tmp_path) == [{"name": name, "root": str(tmp_path)}]


def test_lsun_with_several_categories(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="needs twostage[lsun]")
    image = save(tmp_path / "one.webp").read_bytes()
    for name in ("cat_train", "cat_val", "tower_train"):
        folder = tmp_path / "lsun" / f"{name}_lmdb"
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=2**20) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"good", image)
            transaction.put(b"bad", image[:50])
    cat, tower = check_dataset(tmp_path / "lsun")
    assert (list(cat.splits), list(tower.splits), cat.corrupt) == (["train", "test"], ["train"], 2)
    assert component(tower) == {"name": "lsun", "root": str(tmp_path / "lsun"), "category": "tower", "image_size": 10}
    assert component(only(tmp_path / "lsun" / "cat_val_lmdb")) == component(cat)


def test_shards_and_tables(tmp_path: Path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    image = save(tmp_path / "one.png").read_bytes()
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "train-0.tar", "w") as tar:
        for name, content in (("a.png", image), ("a.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for path in (tmp_path / "shards", tmp_path / "shards" / "train-0.tar"):
        assert component(only(path)) == {"name": "webdataset", "root": str(path), "image_size": 10}
    rows = datasets.Dataset.from_dict({"image": [{"bytes": image, "path": None}]})
    (tmp_path / "table").mkdir()
    rows.to_parquet(str(tmp_path / "table" / "train.parquet"))
    for path in (tmp_path / "table", tmp_path / "table" / "train.parquet"):
        assert component(only(path)) == {"name": "hf", "root": str(path), "image_size": 10}


def test_many_classes_are_counted_not_all_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(check_module, "NAMED", 2)
    for i in range(4):
        for j in range(1 + i):
            save(tmp_path / f"class{i}" / f"{j}.png")
    assert "4 classes: class0 (1), class1 (2), ... of 1 to 4 images each" in only(tmp_path).describe()


def test_a_picture_of_good_images(root: Path, tmp_path: Path) -> None:
    truncate(root / "train" / "cat" / "b.png")
    save_examples(check_dataset(root), tmp_path / "grid.png")
    assert min(Image.open(tmp_path / "grid.png").size) > 50


def test_what_is_proposed_can_be_built(root: Path) -> None:
    resolved = DATASETS.resolve(component(only(root)), "data")
    assert len(DATASETS.build(resolved, split="train")) == 3


def test_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(TwoStageError, match="nowhere: no such folder; allowed: a folder with images, or a"):
        check_dataset(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(TwoStageError, match="holds no images; allowed: a folder with idx files"):
        check_dataset(tmp_path)
    with zipfile.ZipFile(tmp_path / "images.zip", "w"):
        pass
    with pytest.raises(TwoStageError, match=r"; look into .*/images\.zip$"):
        check_dataset(tmp_path)
