import json
from pathlib import Path

import numpy as np
import pytest
import torch

from twostage.data.codes import CodesManifest, EncodedBatch, FrozenCodes, one_view, read_manifest, write_codes
from twostage.errors import TwoStageError

ORIGIN = {"tokenizer": "a" * 64, "data": {"name": "shapes"}, "split": "train", "classes": ["x", "y"]}


def batches(sizes: tuple[int, ...], codebook_size: int, latents: bool) -> list[EncodedBatch]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for size in sizes:
        codes = torch.randint(codebook_size, (size, 2, 2, 3), generator=generator)
        codes[0, 0, 0, 0] = codebook_size - 1
        z = torch.randn(size, 2, 4, 2, 3, generator=generator) if latents else None
        made.append(EncodedBatch(codes=codes, labels=torch.arange(size) % 2, latents=z))
    return made


def write(
    folder: Path, sizes: tuple[int, ...] = (4, 4, 4, 1), codebook_size: int = 16, latents: bool = False
) -> CodesManifest:
    made = batches(sizes, codebook_size, latents)
    return write_codes(folder, made, shard_size=8, codebook_size=codebook_size, **ORIGIN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "codes", latents=True)
    return tmp_path / "codes"


@pytest.mark.parametrize("sizes", [(4, 4, 4, 1), (3, 3, 3, 3), (20,), (8, 8), (1,)])
@pytest.mark.parametrize("latents", [False, True])
def test_what_is_written_is_read(tmp_path: Path, sizes: tuple[int, ...], latents: bool) -> None:
    manifest = write(tmp_path / "codes", sizes, latents=latents)
    dataset = FrozenCodes(tmp_path / "codes", ORIGIN["tokenizer"])
    assert dataset.manifest == manifest == read_manifest(tmp_path / "codes")
    assert len(dataset) == manifest.count == sum(sizes)
    made = batches(sizes, 16, latents)
    examples = [dataset[i] for i in range(len(dataset))]
    codes, labels = (torch.stack([example[key] for example in examples]) for key in ("codes", "class_label"))
    assert codes.dtype == labels.dtype == torch.int64
    assert torch.equal(codes, torch.cat([batch.codes for batch in made]))
    assert torch.equal(labels, torch.cat([batch.labels for batch in made]))
    assert all(("latents" in example) == latents for example in examples)
    if latents:
        z = torch.stack([example["latents"] for example in examples])
        assert z.dtype == torch.float32
        assert torch.equal(z, torch.cat([batch.latents for batch in made]).half().float())


def test_the_manifest(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.tokenizer, manifest.classes, manifest.codebook_size) == ("a" * 64, ["x", "y"], 16)
    assert (manifest.shape, manifest.views, manifest.count, manifest.latents) == ([2, 3], 2, 13, True)
    kinds = ("codes", "labels", "latents")
    assert sorted(manifest.files) == [f"{kind}-{shard:05d}.npy" for kind in kinds for shard in range(2)]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*manifest.files, "manifest.json"])


def test_latents_are_kept_as_float16(folder: Path) -> None:
    assert np.load(folder / "latents-00000.npy").dtype == np.float16


@pytest.mark.parametrize(("codebook_size", "dtype"), [(65_535, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_codes_take_as_little_room_as_they_can(tmp_path: Path, codebook_size: int, dtype: str) -> None:
    write(tmp_path / "codes", codebook_size=codebook_size)
    assert np.load(tmp_path / "codes" / "codes-00000.npy").dtype == dtype
    dataset = FrozenCodes(tmp_path / "codes", ORIGIN["tokenizer"])
    assert dataset[0]["codes"][0, 0, 0].item() == codebook_size - 1


def refused(folder: Path, *parts: str, tokenizer: str = "a" * 64) -> None:
    with pytest.raises(TwoStageError) as error:
        FrozenCodes(folder, tokenizer)
    for part in parts:
        assert part in str(error.value)


def test_another_tokenizer_is_refused(folder: Path) -> None:
    refused(folder, str(folder), "a" * 12, "b" * 12, "encode the data again", tokenizer="b" * 64)


@pytest.mark.parametrize("name", ["codes-00001.npy", "labels-00000.npy", "latents-00001.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "longer", "changed"])
def test_a_broken_shard_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    good = path.read_bytes()
    path.unlink()
    damaged = {"empty": b"", "truncated": good[:-1], "longer": good + b"x", "changed": good[:-1] + b"\x07"}
    if damage != "missing":
        path.write_bytes(damaged[damage])
    refused(folder, str(path), "missing" if damage == "missing" else "truncated or changed")


def test_a_folder_without_codes_is_named(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path / "manifest.json"), "no such file")


@pytest.mark.parametrize("content", ["{", "[]", "{}", "3", json.dumps({"count": 3})])
def test_a_manifest_that_is_none_is_named(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    refused(folder, str(folder / "manifest.json"))


@pytest.mark.parametrize("before", [False, True])
def test_a_failure_leaves_nothing_new(tmp_path: Path, before: bool) -> None:
    folder = tmp_path / "codes"
    if before:
        write(folder, (2,))

    def broken():
        yield from batches((8, 8), 16, False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_codes(folder, broken(), shard_size=8, codebook_size=16, **ORIGIN)
    assert [p.name for p in tmp_path.iterdir()] == (["codes"] if before else [])
    if before:
        assert len(FrozenCodes(folder, ORIGIN["tokenizer"])) == 2


def test_writing_again_replaces_the_folder(folder: Path) -> None:
    write(folder, (2,))
    assert len(FrozenCodes(folder, ORIGIN["tokenizer"])) == 2
    assert sorted(p.name for p in folder.iterdir()) == ["codes-00000.npy", "labels-00000.npy", "manifest.json"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TwoStageError, match="is not empty and holds no codes"):
        write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_conditional_prior_of_unlabelled_codes_is_refused(tmp_path):
    manifest = CodesManifest(
        tokenizer="t",
        data={},
        split="train",
        classes=[],
        codebook_size=2,
        shape=[1, 1],
        views=1,
        count=1,
        files={},
        latents=False,
    )
    assert manifest.num_classes(conditional=False) is None
    with pytest.raises(TwoStageError, match=r"conditional: True is not allowed; allowed: false: .*unlabelled"):
        manifest.num_classes(conditional=True)


def test_one_view_of_each_image_is_drawn_with_its_own_latents(folder: Path) -> None:
    dataset = FrozenCodes(folder, ORIGIN["tokenizer"])
    batch = {key: torch.stack([dataset[i][key] for i in range(8)]) for key in dataset[0]}
    seen = [set() for _ in range(8)]
    for seed in range(30):
        torch.manual_seed(seed)
        drawn = one_view(batch)
        assert torch.equal(drawn["class_label"], batch["class_label"])
        for i in range(8):
            view = next(v for v in range(2) if torch.equal(drawn["codes"][i], batch["codes"][i, v]))
            assert torch.equal(drawn["latents"][i], batch["latents"][i, view])
            seen[i].add(view)
    assert seen == [{0, 1}] * 8
