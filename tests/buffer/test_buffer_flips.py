"""Random bits flip anywhere in a buffer: what is read is what was written or an error, and repair keeps the rest."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, episode, records, same, uuid_of
from buffer_sealed import everything, write

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import Index, Relabel
from robolearn.buffer.log import FrameType, mapped, scan
from robolearn.buffer.relabel import relabel
from robolearn.buffer.repair import repair
from robolearn.buffer.replay import Replay
from robolearn.buffer.rows import unpack
from robolearn.buffer.seal import seal
from robolearn.buffer.segment import SegmentReader
from robolearn.buffer.store import StorePaths
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.types import Kind, Transition

Truth = dict[str, list[Transition]]
CORRECTED = uuid_of(5)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes 0 to 7 in two segments, 8 to 11 in a log; 1 is dropped, 4 tagged, 5 corrected."""
    root = tmp_path_factory.mktemp("flips") / "buffer"
    write(root, range(4), name="a")
    write(root, range(4, 8), name="b")
    seal(root, everything=True)
    write(root, range(8, 12), name="a", log_bytes=1 << 20)
    index = Index(StorePaths(root).index, writable=True)
    index.edit(uuid_of(1), dropped=True)
    index.edit(uuid_of(4), tag="good", demo=True)
    index.close()
    relabel(root, [Relabel(CORRECTED, "reward", 2, np.array([5.0, -1.0]))])
    return root


def outcome(root: Path) -> object:
    """All that can be read."""
    rows = {
        u: [(t.reward, t.index, t.observation["q"].tobytes(), t.observation["camera"].tobytes()) for t in ts]
        for u, ts in everything(root).items()
    }
    return rows, records(root)


def read(root: Path, truth: Truth) -> set[str]:
    """Read all there is, one by one; which episodes were an error. Never another row than was written."""
    bad = set()
    index = Index(StorePaths(root).index, writable=False)
    try:
        with EpisodeFiles(StorePaths(root), index) as files:
            for record in index.changes():
                if record.state != "dropped":
                    try:
                        rows = files.rows(record)
                    except CorruptDataError:
                        bad.add(record.uuid)
                    else:
                        assert same([unpack(r, IMAGES) for r in rows], truth[record.uuid])
    finally:
        index.close()
    return bad


def sample(root: Path, truth: Truth) -> None:
    """Batches in which everything was written so."""
    with Replay(root, IMAGES, ram_bytes=100) as replay:
        replay.refresh()
        for demo_fraction in (0.0, 1.0):
            batch = replay.sample(48, demo_fraction=demo_fraction)
            for i, count in enumerate(batch.next_observation["count"].tolist()):
                after = truth[uuid_of(count // 1000)][count % 1000]
                before = truth[uuid_of(count // 1000)][count % 1000 - 1]
                assert batch.reward[i] == np.float32(after.reward)
                assert batch.discount[i] == (after.kind is not Kind.TERMINATED)
                assert np.array_equal(batch.action[i], after.executed)
                for key in IMAGES.observation:
                    assert np.array_equal(batch.observation[key][i], before.observation[key])
                    assert np.array_equal(batch.next_observation[key][i], after.observation[key])


def hit(sound: Path, path: Path, position: int) -> set[str]:
    """Episodes that have a part in a byte, or share a checksum with it."""
    if path.suffix == ".log":
        owner = ""
        for frame in scan(mapped(path)):
            owner = frame.json()["episode"] if frame.type is FrameType.BEGIN else owner
            if position < frame.end:
                return {owner} - {""}
    if path.name.startswith("c."):
        folder = path.relative_to(sound / "segments").parts[0]
        reader = SegmentReader(sound / "segments" / folder)
        array = next(a for a in reader.arrays.values() if sound / "segments" / folder / a.shard == path)
        unit = array.stride if array.checked else array.row_bytes
        rows = array.chunk_rows if array.checked else 1
        first = position // unit * rows
        reader.close()
        return {e.uuid for e in reader.episodes if e.first_row < first + rows and first < e.first_row + e.rows}
    return set()


def files_of(sound: Path, kind: str) -> list[Path]:
    if kind == "log":
        return [p for p in (sound / "logs").iterdir() if p.stat().st_size]
    if kind == "index":
        return [sound / "index.sqlite"]
    found = [p for p in (sound / "segments").rglob("*") if p.is_file()]
    return [p for p in found if (p.name == "zarr.json") == (kind == "metadata")]


def flip(rng: random.Random, path: Path) -> int:
    """Flip a bit; its byte. Every other time one that is not zero: most of an index is empty."""
    raw = bytearray(path.read_bytes())
    used = [i for i, byte in enumerate(raw) if byte] if rng.random() < 0.5 else range(len(raw))
    position = rng.choice(used)
    raw[position] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)
    return position


def flip_once(rng: random.Random, sound: Path, root: Path, kind: str, truth: Truth) -> bool:
    """Flip a bit in a copy; whether ``verify`` saw it."""
    shutil.copytree(sound, root)
    path = rng.choice(files_of(sound, kind))
    position = flip(rng, root / path.relative_to(sound))
    where = f"byte {position} of {path.relative_to(sound)}"
    touched = hit(sound, path, position)
    for look in (read, sample):
        try:
            look(root, truth)
        except CorruptDataError:
            pass
        except StoreError:
            assert kind == "index", where  # SQLite may say that it is no database
    seen = not verify(root).ok
    if not seen:
        assert kind == "index", where
        assert outcome(root) == outcome(sound), where
        return False
    assert repair(root), where
    assert verify(root).ok, (where, verify(root).problems)
    found = everything(root)
    assert truth.keys() - found.keys() <= touched, where
    for uuid in truth.keys() & found.keys():
        if kind != "index" or uuid != CORRECTED:  # its corrections are in the index alone
            assert same(found[uuid], truth[uuid]), where
    return True


@pytest.mark.parametrize(
    "flips", [4, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])], ids=["few", "many"]
)
@pytest.mark.parametrize("kind", ["log", "shard", "metadata", "index"])
def test_a_flipped_bit_is_found_and_costs_only_what_it_hits(sound: Path, tmp_path: Path, kind: str, flips: int) -> None:
    truth, seen = everything(sound), Counter[bool]()
    assert read(sound, truth) == set()
    sample(sound, truth)
    rng = random.Random(f"{kind} {flips}")
    for _ in range(flips):
        seen[flip_once(rng, sound, tmp_path / "buffer", kind, truth)] += 1
        shutil.rmtree(tmp_path / "buffer")
    assert seen[True] >= flips // 4  # of an index, free bytes are not


@pytest.fixture
def journal(tmp_path: Path) -> tuple[Path, Truth]:
    """What a power cut leaves: 0 to 3 and 4 to 7 acknowledged, the first sealed, and all of it in SQLite's journal."""
    root, cut = tmp_path / "live", tmp_path / "cut"
    Writer(root, IMAGES, name="a", robot="arm", task="peg").close()
    index = Index(StorePaths(root).index, writable=True)  # who closes last writes the journal back
    write(root, range(4), name="a")
    with Writer(root, IMAGES, name="b", robot="arm", task="peg") as w:
        for number in range(4, 8):
            for t in episode(number, 7, humans=[2], schema=IMAGES):
                w.append(t)
            w.end_episode(True)
        seal(root, everything=True)
        truth = everything(root)
        shutil.copytree(root, cut, ignore=shutil.ignore_patterns("*-shm"))
    index.close()
    return cut, truth


@pytest.mark.parametrize("flips", [3, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("first", ["repair", "seal", "write"])
def test_a_flipped_bit_in_the_journal_of_the_index_loses_nothing(
    journal: tuple[Path, Truth], tmp_path: Path, first: str, flips: int
) -> None:
    """SQLite takes what follows the flip for a torn tail, so the index becomes older than the data."""
    cut, truth = journal
    rng, root, older = random.Random(f"{first} {flips}"), tmp_path / "buffer", 0
    assert (cut / "index.sqlite-wal").stat().st_size
    for _ in range(flips):
        shutil.copytree(cut, root)
        where = f"byte {flip(rng, root / 'index.sqlite-wal')}"
        try:
            older += len(records(root)) < 8 or not verify(root).ok
            if first == "seal":
                seal(root, everything=True)
            elif first == "write":
                write(root, range(20, 21), name="a")
        except StoreError:
            pass  # told; repair is next
        repair(root)
        for name in "ab":  # takes in what the index has never heard of
            write(root, range(30, 31) if name == "a" else range(31, 32), name=name)
        assert verify(root).ok, (where, verify(root).problems)
        found = everything(root)
        assert truth.keys() <= found.keys(), where
        assert all(same(found[u], truth[u]) for u in truth), where
        shutil.rmtree(root)
    assert older


def test_an_index_from_a_copy_made_before_sealing_does_not_cost_what_was_sealed(tmp_path: Path) -> None:
    root = tmp_path / "buffer"
    write(root, range(4), name="a")
    old = (root / "index.sqlite").read_bytes()
    seal(root, everything=True)
    truth = everything(root)
    (root / "index.sqlite").write_bytes(old)
    assert any("where they are no more" in p for p in verify(root).problems), verify(root).problems
    seal(root, everything=True)
    write(root, range(10, 11), name="a")
    assert repair(root)
    assert verify(root).ok, verify(root).problems
    found = everything(root)
    assert found.keys() == truth.keys() | {uuid_of(10)}
    assert all(same(found[u], truth[u]) for u in truth)
    assert {r.state for r in records(root)} == {"complete"}
