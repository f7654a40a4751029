import shutil
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import SCHEMA, contents, episode, same, uuid_of
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.buffer.replay import Replay
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import RobolearnError, StoreError

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
    import sqlite3

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
