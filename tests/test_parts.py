import pytest
import torch

from twostage.errors import TwoStageError
from twostage.parts import Parts, claim, pixel_digest


@pytest.fixture
def parts(tmp_path):
    """Ten rows in files of four: row i holds i."""
    made = Parts(folder=tmp_path, name="rows", count=10, size=4)
    for part in made.ranges():
        made.write(part, {"x": torch.tensor(part).float()}, note=str(part.start))
    return made


def test_rows_come_back_in_order(parts):
    assert torch.cat(list(parts.stream("x"))).tolist() == list(range(10))
    assert parts.rows("x", [0, 3, 4, 9]).tolist() == [0, 3, 4, 9]
    assert parts.complete()
    assert parts.has("x")
    assert not parts.has("y")


def test_a_part_that_is_missing_cut_short_or_half_written_is_not_held(parts):
    first, second, third = parts.ranges()
    parts.path(first).unlink()
    parts.path(second).write_bytes(parts.path(second).read_bytes()[:-1])
    parts.path(third).rename(parts.path(third).with_suffix(".tmp"))
    assert [parts.holds(part) for part in parts.ranges()] == [False] * 3
    assert not parts.complete()


def test_more_rows_later_find_the_full_parts_of_before(parts, tmp_path):
    more = Parts(folder=tmp_path, name="rows", count=14, size=4)
    assert [more.holds(part) for part in more.ranges()] == [True, True, False, False]


def test_processes_share_the_parts(parts, monkeypatch):
    from twostage import parts as module

    shares = []
    for rank in range(2):
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(module, "world_size", lambda: 2)
        shares.append(parts.mine())
    assert shares == [[range(0, 4), range(8, 10)], [range(4, 8)]]


def test_a_note_of_every_part_decides_the_digest(parts):
    before = parts.digest("note")
    parts.write(range(4, 8), {"x": torch.zeros(4)}, note="other")
    assert parts.digest("note") != before


def test_a_part_of_another_kind_is_named(parts):
    with pytest.raises(TwoStageError, match=r"rows-00000000-00000004\.safetensors: could not be read"):
        parts.read(range(0, 4), "y")


def test_another_identity_has_another_folder(tmp_path):
    first = claim(tmp_path, {"seed": 0, "options": {"steps": 3}})
    assert claim(tmp_path, {"options": {"steps": 3}, "seed": 0}) == first
    assert claim(tmp_path, {"seed": 1, "options": {"steps": 3}}) != first
    (first / "identity.json").write_text('{"seed": 7, "options": {"steps": 3}}')
    with pytest.raises(TwoStageError, match="seed is 7, not 0; remove"):
        claim(tmp_path, {"seed": 0, "options": {"steps": 3}})


def test_pixels_and_their_shape_decide_a_digest():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    other = images.clone()
    other[1, 2, 3, 3] = 1
    assert len({pixel_digest(images), pixel_digest(other), pixel_digest(images.view(2, 3, 2, 8))}) == 3
    assert pixel_digest(images) == pixel_digest(images.clone())
