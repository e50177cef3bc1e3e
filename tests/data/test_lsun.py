import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data.lsun import lsun
from twostage.data.sources import listing
from twostage.data.sources.database import Database
from twostage.errors import TwoStageError

lmdb = pytest.importorskip("lmdb", reason="needs twostage[lsun]")


def write(folder: Path, count: int) -> Path:
    """A database of `count` images, the i-th of brightness i, under keys like LSUN's."""
    import io

    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=2**20) as environment, environment.begin(write=True) as transaction:
        for i in reversed(range(count)):
            file = io.BytesIO()
            Image.fromarray(np.full((6, 9, 3), i, np.uint8)).save(file, "WEBP", lossless=True)
            transaction.put(f"{i:040x}".encode(), file.getvalue())
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "bedroom_train_lmdb", 5)
    write(tmp_path / "bedroom_val_lmdb", 2)
    write(tmp_path / "church_outdoor_train_lmdb", 3)
    return tmp_path


def brightness(dataset) -> list[int]:
    return [round((dataset[i]["images"].mean().item() + 1) * 127.5) for i in range(len(dataset))]


@pytest.mark.parametrize("category", ["bedroom", "bedroom_train", "bedroom_val", "bedroom_train_lmdb"])
def test_both_splits_by_any_name(root: Path, category: str) -> None:
    train, test = (lsun(split, root=str(root), category=category, image_size=4) for split in ("train", "test"))
    assert (brightness(train), brightness(test)) == ([0, 1, 2, 3, 4], [0, 1])
    assert train.classes == [] and train.image_size == 4


def test_an_exported_folder(root: Path) -> None:
    path = root / "tower_train" / "0" / "a" / "0a1b.webp"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((6, 9, 3), 7, np.uint8)).save(path, lossless=True)
    assert brightness(lsun("train", root=str(root), category="tower", image_size=4)) == [7]


def test_categories_and_splits_that_are_not_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TwoStageError, match=r"cat_train_lmdb: no such database; .*: bedroom, church_outdoor$"):
        lsun("train", root=str(root), category="cat")
    with pytest.raises(TwoStageError, match="church_outdoor_val_lmdb: no such database"):
        lsun("test", root=str(root), category="church_outdoor")


def test_no_database(tmp_path: Path) -> None:
    (tmp_path / "cat_train_lmdb").mkdir()
    (tmp_path / "cat_train_lmdb" / "data.mdb").write_bytes(b"x" * 10_000)
    with pytest.raises(TwoStageError, match="cat_train_lmdb: is no LMDB database that can be read"):
        lsun("train", root=str(tmp_path), category="cat")


def test_without_lmdb_the_extra_is_named(root: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(TwoStageError, match=r"lmdb is not installed; pip install 'twostage\[lsun\]'"):
        lsun("train", root=str(root), category="bedroom")


def test_nothing_is_written_beside_the_data(root: Path) -> None:
    (root / "bedroom_train_lmdb" / "lock.mdb").unlink()
    lsun("train", root=str(root), category="bedroom")[0]
    assert [path.name for path in (root / "bedroom_train_lmdb").iterdir()] == ["data.mdb"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(listing, "WORTH_KEEPING", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "twostage" / "listings"


def keys_read(monkeypatch) -> list[str]:
    from twostage.data.sources import database

    read: list[str] = []
    keys = database._keys
    monkeypatch.setattr(database, "_keys", lambda place: read.append(place.name) or keys(place))
    return read


def test_keys_are_listed_once(root: Path, cache: Path, monkeypatch) -> None:
    read = keys_read(monkeypatch)
    found = [Database(root / "bedroom_train_lmdb") for _ in range(3)]
    assert (len(read), len(list(cache.iterdir()))) == (1, 1)
    assert all(np.array_equal(source.names, found[0].names) for source in found)
    assert found[2].read(4) == found[0].read(4)
    Database(root / "bedroom_val_lmdb")
    assert len(list(cache.iterdir())) == 1, "two keys are not worth keeping"


def test_threads_open_it_once(root: Path, monkeypatch) -> None:
    from twostage.data.sources import database

    opened: list[Path] = []
    really = database._open
    source = Database(root / "bedroom_train_lmdb")
    database._environments.pop(str(source.place.resolve()))[1].close()
    monkeypatch.setattr(database, "_open", lambda place: time.sleep(0.05) or opened.append(place) or really(place))
    with ThreadPool(4) as pool:
        assert pool.map(source.read, range(4)) == [source.read(i) for i in range(4)]
    assert len(opened) == 1


def test_a_changed_database_is_listed_anew(root: Path, cache: Path, monkeypatch) -> None:
    from twostage.data.sources import database

    place = root / "bedroom_train_lmdb"
    Database(place)
    database._environments.pop(str(place.resolve()))[1].close()
    write(place, 9)
    assert len(Database(place)) == 9
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not whole", b"nonsense"])
def test_a_broken_listing_is_made_anew(root: Path, cache: Path, damage: bytes) -> None:
    Database(root / "bedroom_train_lmdb")
    (kept,) = cache.iterdir()
    kept.write_bytes(damage)
    assert len(Database(root / "bedroom_train_lmdb")) == 5
    assert kept.stat().st_size > 100


def test_a_cache_that_cannot_be_written(root: Path, tmp_path: Path, cache: Path, monkeypatch) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    assert len(Database(root / "bedroom_train_lmdb")) == 5
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.chdir(tmp_path)
    assert len(Database(root / "bedroom_train_lmdb")) == 5
    assert not Path("relative").exists()
