"""Repair: whatever is damaged, the rest is kept, nothing is deleted, and verify finds nothing wrong afterwards."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, crash_image, episode, records, row, same, uuid_of
from buffer_sealed import everything, write

from robolearn.buffer import rebuild
from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import EpisodeRecord, Index, Relabel
from robolearn.buffer.log import HEAD
from robolearn.buffer.relabel import relabel
from robolearn.buffer.repair import repair
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.types import Kind


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes 0 to 5 sealed in two segments, 6 to 8 in logs; 1 is dropped, 3 relabelled, 4 tagged."""
    root = tmp_path_factory.mktemp("repair") / "buffer"
    write(root, range(3), name="a")
    write(root, range(3, 6), name="b")
    seal(root, everything=True)
    write(root, range(6, 9), name="a", log_bytes=1 << 20)
    index = Index(StorePaths(root).index, writable=True)
    index.edit(uuid_of(1), dropped=True)
    index.edit(uuid_of(4), tag="good", demo=True)
    index.close()
    relabel(root, [Relabel(uuid_of(3), "reward", 2, np.array([5.0, -1.0]))])
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "buffer"))


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)


def kept(root: Path, truth: dict[str, object], lost: set[int]) -> None:
    """All but ``lost`` is as it was, and the buffer can be used."""
    assert verify(root).ok, verify(root).problems
    found = everything(root)
    assert truth.keys() - found.keys() == {uuid_of(n) for n in lost}
    assert all(same(found[u], truth[u]) for u in found)  # type: ignore[arg-type]
    assert repair(root) == []
    write(root, range(50, 51), name="a")
    seal(root, everything=True)
    assert verify(root).episodes == len(found) + 1


def test_a_sound_buffer_is_left_alone(root: Path) -> None:
    before = {
        p: p.read_bytes() for p in root.rglob("*") if p.is_file() and p.stat().st_size and p.suffix != ".sqlite-shm"
    }
    assert repair(root) == []
    assert all(p.read_bytes() == data for p, data in before.items())
    assert not (root / "damaged").exists()


def test_a_damaged_row_in_a_log_costs_its_episode(root: Path) -> None:
    truth, record = everything(root), records(root)[7]
    flip(root / "logs" / record.log, record.offset + 100)
    told = repair(root)
    assert any(f"{uuid_of(7)}: dropped" in line for line in told)
    assert (records(root)[7].state, records(root)[7].tag) == ("dropped", f"repair: damaged in log {record.log}")
    assert (root / "damaged" / f"{record.log}.1").exists()
    kept(root, truth, {7})  # type: ignore[arg-type]


@pytest.mark.parametrize("position", [3, 20, 90])
def test_a_damaged_beginning_of_a_log_costs_nothing(root: Path, position: int) -> None:
    truth, record = everything(root), records(root)[6]
    flip(root / "logs" / record.log, position)
    assert not verify(root).ok
    repair(root)
    kept(root, truth, set())  # type: ignore[arg-type]


def test_a_missing_log_costs_its_episodes(root: Path) -> None:
    truth = everything(root)
    (root / "logs" / records(root)[6].log).unlink()
    repair(root)
    kept(root, truth, {6, 7, 8})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "position", "lost"),
    [
        ("zarr.json", 50, set()),
        ("reward/zarr.json", 10, set()),
        ("observation/camera/c.0.0.0.0", 60 * 9 + 5, {4}),
        ("observation/camera/c.0.0.0.0", -9, set()),
        ("reward/c.0", -3, set()),
        ("reward/c.0", 0, {3, 4, 5}),
        ("crc/camera/c.0", 3, {3, 4, 5}),
    ],
)
def test_a_damaged_segment_keeps_its_sound_episodes(root: Path, file: str, position: int, lost: set[int]) -> None:
    truth = everything(root)
    path = root / "segments" / "b-000001" / file
    flip(path, position % path.stat().st_size)
    assert not verify(root).ok
    assert repair(root)
    kept(root, truth, lost)  # type: ignore[arg-type]
    by_id = {r.uuid: r for r in records(root)}
    assert by_id[uuid_of(5)].tag == ("repair: damaged in segment b-000001" if 5 in lost else "")
    assert (root / "damaged" / "b-000001.1").is_dir()
    if 4 not in lost:
        assert (by_id[uuid_of(4)].tag, by_id[uuid_of(4)].demo) == ("good", True)


def test_a_missing_segment_costs_its_episodes(root: Path) -> None:
    truth = everything(root)
    shutil.rmtree(root / "segments" / "b-000001")
    repair(root)
    kept(root, truth, {3, 4, 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["gone", "junk", "empty", "half"])
def test_an_index_is_made_again(root: Path, how: str) -> None:
    path, truth, before = root / "index.sqlite", everything(root), {r.uuid: r for r in records(root)}
    raw = path.read_bytes()
    if how == "gone":
        path.unlink()
        with pytest.raises(StoreError, match="repair"):
            Writer(root, IMAGES, name="x", robot="r", task="t")
    else:
        path.write_bytes({"junk": b"\7" * len(raw), "empty": b"", "half": raw[: len(raw) // 2]}[how])
    assert not verify(root).ok
    assert repair(root)
    assert verify(root).ok, verify(root).problems
    after, found = {r.uuid: r for r in records(root)}, everything(root)
    assert found.keys() == truth.keys() | {uuid_of(1)}  # that it was dropped was known to the index alone
    assert all(same(found[u], truth[u]) for u in truth if u != uuid_of(3))
    assert same(found[uuid_of(3)], episode(3, 7, humans=[2], schema=IMAGES))  # as were corrections
    assert all((after[u].success, after[u].rows) == (before[u].success, before[u].rows) for u in truth)
    write(root, range(50, 51), name="a")
    assert verify(root).ok


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_without_an_index_what_may_not_be_read_is_not_set_aside(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, truth = os.open, everything(root)

    def refuse(path: str | Path, *more: int, **named: int) -> int:
        if path == root / "segments" / "b-000001":
            raise OSError(number, os.strerror(number))
        return real(path, *more, **named)

    (root / "index.sqlite").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StoreError, match="cannot read segment"):
            repair(root)
    assert (root / "segments" / "b-000001").is_dir()
    repair(root)
    assert everything(root).keys() >= truth.keys()
    assert not list((root / "damaged").iterdir())
    assert verify(root).ok


@pytest.mark.parametrize("where", ["open", "read"])
def test_edits_are_not_given_up_because_the_index_cannot_be_read_now(
    root: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    truth, before = everything(root), {r.uuid: (r.tag, r.state, r.relabels) for r in records(root)}
    with closing(sqlite3.connect(root / "index.sqlite", isolation_level=None)) as db:
        db.execute("DELETE FROM segments")  # so that it is made again

    class Refused(Index):
        def __init__(self, path: Path, *, writable: bool) -> None:
            if where == "open" and not writable:
                raise StoreError("cannot open index: unable to open database file")
            super().__init__(path, writable=writable)

        def _episodes(self, query: str, value: object) -> list[EpisodeRecord]:
            if where == "read" and value == uuid_of(4):
                raise StoreError("cannot read index: disk I/O error")
            return super()._episodes(query, value)

    with monkeypatch.context() as patch:
        patch.setattr(rebuild, "Index", Refused)
        with pytest.raises(StoreError, match=r"unable to open|disk I/O"):
            repair(root)
    assert repair(root)
    assert verify(root).ok, verify(root).problems
    assert {r.uuid: (r.tag, r.state, r.relabels) for r in records(root)} == before
    found = everything(root)
    assert all(same(found[u], truth[u]) for u in truth)


def test_a_flipped_byte_in_the_index_keeps_what_others_say(root: Path) -> None:
    truth, rng, path = everything(root), random.Random(3), root / "index.sqlite"
    raw = path.read_bytes()
    used = np.flatnonzero(np.frombuffer(raw, np.uint8))
    repaired = 0
    for _ in range(25):
        bad = bytearray(raw)
        bad[rng.choice(used)] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        copy = Path(shutil.copytree(root, root.parent / "copy"))
        if not verify(copy).ok:
            repaired += 1
            assert repair(copy)
            assert verify(copy).ok, verify(copy).problems
            found = everything(copy)
            assert truth.keys() <= found.keys()
            assert all(same(found[u], truth[u]) for u in truth if u != uuid_of(3))
        shutil.rmtree(copy)
    assert repaired > 3


def test_with_a_damaged_log_and_no_index_the_episodes_behind_the_damage_are_kept(root: Path) -> None:
    truth, record = everything(root), records(root)[6]
    flip(root / "logs" / record.log, record.offset + 5 * (HEAD.size + IMAGES.row.itemsize) + 100)
    (root / "index.sqlite").unlink()
    repair(root)
    assert verify(root).ok, verify(root).problems
    found = everything(root)
    for number in (7, 8):
        assert same(found[uuid_of(number)], truth[uuid_of(number)])
    part = found[uuid_of(6)]
    assert 0 < len(part) < 8
    assert same(part, truth[uuid_of(6)][: len(part)])
    assert next(r for r in records(root) if r.uuid == uuid_of(6)).recovered


def test_a_torn_tail_is_cut_off_as_recovery_does(tmp_path: Path) -> None:
    with Writer(tmp_path / "live", SCHEMA, name="a", robot="r", task="t") as w:
        for t in episode(1, 5)[:4]:
            w.append(t)
        root = crash_image(tmp_path / "live", tmp_path / "crash")
    log = next((root / "logs").iterdir())
    log.write_bytes(log.read_bytes()[:-5])
    assert repair(root) == []
    assert same(everything(root)[uuid_of(1)], episode(1, 5)[:3])
    assert verify(root).ok


def test_who_is_writing_is_not_disturbed(root: Path) -> None:
    with Writer(root, IMAGES, name="a", robot="r", task="t") as w:
        w.append(row(99, 0, Kind.FIRST, schema=IMAGES))
        with pytest.raises(StoreError, match="being written"):
            repair(root)


def test_segments_are_not_taken_for_leftovers_of_a_lost_index(root: Path) -> None:
    (root / "index.sqlite").unlink()
    Index.create(root / "index.sqlite")
    assert any("is not in the index" in p for p in verify(root).problems)
    seal(root, everything=True)
    assert {p.name for p in (root / "segments").iterdir()} == {"a-000001", "b-000001"}
    repair(root)
    assert len(everything(root)) == 9
    assert verify(root).ok


def test_a_damaged_schema_is_told(root: Path) -> None:
    flip(root / "schema.json", 60)
    with pytest.raises(CorruptDataError, match=r"schema\.json is damaged"):
        repair(root)


def test_corrections_survive_the_move_to_another_segment(root: Path) -> None:
    path = root / "segments" / "b-000001" / "kind" / "zarr.json"
    flip(path, 5)
    repair(root)
    index = Index(StorePaths(root).index, writable=False)
    with EpisodeFiles(StorePaths(root), index) as files:
        record = index.episode(uuid_of(3))
        assert record is not None
        assert files.low_dim(record)["reward"][2:4].tolist() == [5.0, -1.0]
    index.close()


def test_an_index_that_is_damaged_twice_is_kept_twice(root: Path) -> None:
    damaged = []
    for _ in range(2):
        path = StorePaths(root).index
        data = bytearray(path.read_bytes())
        data[:100] = bytes(100)
        path.write_bytes(data)
        damaged.append(bytes(data))
        repair(root)
        assert verify(root).ok, verify(root).problems
    found = [path.read_bytes() for path in sorted((root / "damaged").glob("index.sqlite.[0-9]"))]
    assert found == damaged
