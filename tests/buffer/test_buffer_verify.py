import dataclasses
import random
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, contents, episode, records, same, uuid_of
from buffer_sealed import everything, write
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.buffer.check_segment import has_rows
from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import Index, Relabel
from robolearn.buffer.relabel import relabel
from robolearn.buffer.replay import Replay
from robolearn.buffer.rows import unpack
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, RobolearnError, StoreError

EPISODES = 4


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound") / "buffer"
    for name, numbers in (("demo", (1, 2)), ("actor", (3, 4))):
        with Writer(root, SCHEMA, name=name, robot="r", task="t", demo=name == "demo") as w:
            for number in numbers:
                for t in episode(number, 3):
                    w.append(t)
                w.end_episode(True)
    return root


def damaged(sound: Path, target: Path, file: str, at: float, mask: int) -> Path:
    shutil.copytree(sound, target)
    raw = bytearray((target / file).read_bytes())
    raw[int(at * (len(raw) - 1))] ^= mask
    (target / file).write_bytes(raw)
    return target


def test_a_sound_buffer(sound: Path) -> None:
    report = verify(sound)
    assert report.ok
    assert (report.episodes, report.rows) == (EPISODES, 4 * EPISODES)


@given(st.sampled_from(["demo-000001", "actor-000001"]), st.floats(0, 1), st.integers(1, 255))
@settings(deadline=None, max_examples=60)
def test_any_flip_in_a_log_is_found(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, log: str, at: float, mask: int
) -> None:
    root = damaged(sound, tmp_path_factory.mktemp("flip") / "buffer", f"logs/{log}.log", at, mask)
    report = verify(root)
    assert len(report.problems) == 1, report
    assert report.episodes >= EPISODES - (2 if "does not start" in report.problems[0] else 1)


@given(st.floats(0, 1), st.integers(1, 255))
@settings(deadline=None, max_examples=120)
def test_no_flip_in_the_index_changes_what_is_sampled(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, at: float, mask: int
) -> None:
    """A flipped bit may hit nothing that matters; then all is as before. Else somebody says so."""
    root = damaged(sound, tmp_path_factory.mktemp("flip") / "buffer", "index.sqlite", at, mask)
    if verify(root).ok:
        found = contents(root)
        assert all(same(found[uuid_of(n)], episode(n, 3)) for n in range(1, EPISODES + 1))
    try:
        with Replay(root, SCHEMA) as replay:
            replay.refresh()
            counts = (replay.transitions, replay.demo_transitions, replay.online_transitions)
            batch = replay.sample(64)
    except RobolearnError:
        return
    assert counts == (12, 6, 6) or not verify(root).ok
    numbers = (batch.next_observation["count"] // 1000).tolist()
    assert set(numbers[0::2]) <= {1, 2}
    assert set(numbers[1::2]) <= {3, 4}
    assert np.array_equal(batch.next_observation["q"][:, 1], batch.next_observation["count"] % 1000)


@given(st.floats(0, 1), st.integers(1, 255))
@settings(deadline=None, max_examples=60)
def test_a_flip_in_the_schema_never_passes_as_another(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, at: float, mask: int
) -> None:
    root = damaged(sound, tmp_path_factory.mktemp("flip") / "buffer", "schema.json", at, mask)
    try:
        with Replay(root, SCHEMA) as replay:
            replay.refresh()
            assert replay.transitions == 12
    except RobolearnError:
        assert not verify(root).ok


def test_a_missing_log_and_a_missing_index_row_are_found(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / "buffer"
    shutil.copytree(sound, root)
    db = sqlite3.connect(root / "index.sqlite", isolation_level=None)
    db.execute("DELETE FROM episodes WHERE uuid = ?", (uuid_of(4),))
    db.close()
    assert any("is not in the index" in p for p in verify(root).problems)
    (root / "logs" / "demo-000001.log").unlink()
    assert any("not on disk" in p for p in verify(root).problems)


def test_all_damage_is_told_and_the_sound_rest_is_counted(sound: Path, tmp_path: Path) -> None:
    one = damaged(sound, tmp_path / "one", "logs/demo-000001.log", 0.3, 1)
    two = damaged(one, tmp_path / "two", "logs/actor-000001.log", 0.9, 1)
    report = verify(two)
    assert len(report.problems) == 2
    assert report.episodes == EPISODES - 2


def test_verify_while_a_writer_is_at_work(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / "buffer"
    shutil.copytree(sound, root)
    with Writer(root, SCHEMA, name="actor", robot="r", task="t", commit_every_s=1e9) as w:
        for t in episode(9, 5):
            w.append(t)
            assert verify(root).ok
            w.flush()
            assert verify(root).ok
        w.end_episode(True)
        assert verify(root).episodes == EPISODES + 1


def test_no_buffer(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no buffer"):
        verify(tmp_path)
    (tmp_path / "schema.json").write_text("{}")
    assert not verify(tmp_path).ok


@pytest.fixture(scope="module")
def with_segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes 0 to 5 sealed in two segments, 6 in a log; one is dropped, one relabelled, one tagged."""
    root = tmp_path_factory.mktemp("segments") / "buffer"
    write(root, range(3), name="a")
    write(root, range(3, 6), name="b")
    seal(root, everything=True)
    write(root, range(6, 7), name="a")
    index = Index(StorePaths(root).index, writable=True)
    index.edit(uuid_of(1), dropped=True)
    index.edit(uuid_of(4), tag="good", demo=True)
    index.close()
    relabel(root, [Relabel(uuid_of(3), "reward", 2, np.array([5.0, -1.0]))])
    report = verify(root)
    assert report.ok, report.problems
    assert (report.episodes, report.rows) == (6, 48)
    return root


def outcome(root: Path) -> object:
    """All that can be read."""
    rows = {u: [(t.reward, t.index, t.observation["q"].tobytes()) for t in ts] for u, ts in everything(root).items()}
    return rows, [dataclasses.replace(r, revision=0) for r in records(root)]


def test_any_flip_in_any_file_of_a_segment_is_found(with_segments: Path, tmp_path: Path) -> None:
    rng, truth = random.Random(5), everything(with_segments)
    root = tmp_path / "buffer"
    shutil.copytree(with_segments, root)
    files = [p for p in sorted((root / "segments").rglob("*")) if p.is_file()]
    assert len(files) > 70
    for path in files:
        raw = path.read_bytes()
        for position in {rng.choice([0, len(raw) - 1]), rng.randrange(len(raw))}:
            bad = bytearray(raw)
            bad[position] ^= 1 << rng.randrange(8)
            path.write_bytes(bad)
            assert not verify(root).ok, f"byte {position} of {path.relative_to(root)}"
            index = Index(StorePaths(root).index, writable=False)
            with EpisodeFiles(StorePaths(root), index) as reader:
                for record in index.changes():
                    if record.state != "dropped":
                        try:
                            rows = reader.rows(record)
                        except CorruptDataError:
                            continue
                        assert same([unpack(r, IMAGES) for r in rows], truth[record.uuid])
            index.close()
        path.write_bytes(raw)
    assert verify(root).ok


def test_a_flip_in_an_index_of_segments_never_goes_unseen(with_segments: Path, tmp_path: Path) -> None:
    """It may hit a byte that nothing depends on; then everything reads as before."""
    rng, root, truth = random.Random(7), tmp_path / "buffer", outcome(with_segments)
    raw = (with_segments / "index.sqlite").read_bytes()
    used = np.flatnonzero(np.frombuffer(raw, np.uint8))
    seen = 0
    shutil.copytree(with_segments, root)
    for position in rng.choices(used, k=100):
        bad = bytearray(raw)
        bad[position] ^= 1 << rng.randrange(8)
        for suffix in ("-wal", "-shm"):
            (root / f"index.sqlite{suffix}").unlink(missing_ok=True)
        (root / "index.sqlite").write_bytes(bad)
        if verify(root).ok:
            assert outcome(root) == truth, f"byte {position}"
        else:
            seen += 1
    assert seen > 50


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("DELETE FROM relabels", "corrections of episode .* are missing"),
        ("DELETE FROM episodes WHERE relabels = 1", "which is not there"),
        ("UPDATE segments SET rows = rows + 1", "an entry of segments fails its checksum"),
        ("UPDATE logs SET length = 0", "an entry of logs fails its checksum"),
        ("UPDATE relabels SET first = 3", "an entry of relabels fails its checksum"),
        ("DELETE FROM segments WHERE name = 'b-000001'", "not listed there"),
        ("UPDATE episodes SET revision = revision - 1", "fails its checksum"),
    ],
)
def test_changes_behind_our_back_are_found(with_segments: Path, tmp_path: Path, query: str, message: str) -> None:
    root = tmp_path / "buffer"
    shutil.copytree(with_segments, root)
    db = sqlite3.connect(root / "index.sqlite", isolation_level=None)
    db.execute(query)
    db.close()
    assert any(re.search(message, p) for p in verify(root).problems), verify(root).problems


@pytest.mark.parametrize("change", ["missing", "extra", "short"])
def test_a_segment_has_all_its_files_and_no_others(with_segments: Path, tmp_path: Path, change: str) -> None:
    root = tmp_path / "buffer"
    shutil.copytree(with_segments, root)
    shard = root / "segments" / "b-000001" / "reward" / "c.0"
    if change == "missing":
        shard.unlink()
    elif change == "extra":
        shard.with_name("c.1").write_bytes(b"")
    else:
        shard.write_bytes(shard.read_bytes()[:-1])
    problems = verify(root).problems
    assert any("reward" in p for p in problems), problems


def test_a_log_removed_while_it_is_looked_at_has_no_rows(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealing removes logs beside `verify`; what was still there a moment ago may not be there now."""
    (record, *_) = records(sound)
    paths = StorePaths(sound)
    assert has_rows(paths, record)
    monkeypatch.setattr(Path, "is_file", lambda _: True)  # a moment ago
    assert not has_rows(paths, dataclasses.replace(record, log="gone-000001.log"))
