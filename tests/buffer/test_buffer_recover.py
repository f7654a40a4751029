from pathlib import Path

import pytest
from buffer_rows import SCHEMA, contents, crash_image, episode, records, row, same, uuid_of
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.buffer.log import HEAD
from robolearn.buffer.recover import recover
from robolearn.buffer.replay import Replay
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.types import Kind

STRIDE = HEAD.size + SCHEMA.row.itemsize


def writer(root: Path, name: str = "actor", *, demo: bool = False, partial: bool = True) -> Writer:
    return Writer(root, SCHEMA, name=name, robot="arm", task="peg", demo=demo, partial=partial, commit_every_s=1e9)


def image_of(tmp_path: Path, *, appended: int, flushed: int | None = None, synced: bool = False) -> Path:
    """A crash with episode 1 complete, and ``appended`` rows of episode 2, ``flushed`` of them in the index."""
    rows = episode(2, 6, humans=[1])
    with writer(tmp_path / "live", demo=True) as w:
        for t in episode(1, 3):
            w.append(t)
        w.end_episode(True)
        for i, t in enumerate(rows[:appended]):
            w.append(t)
            if flushed == i + 1:
                w.flush(durable=synced)
        return crash_image(tmp_path / "live", tmp_path / "crash")


def log_of(root: Path) -> Path:
    return next((root / "logs").iterdir())


@pytest.mark.parametrize("flushed", [None, 1, 3])
@pytest.mark.parametrize("appended", [0, 1, 4, 6])
def test_whole_rows_are_kept_as_a_truncated_episode(tmp_path: Path, appended: int, flushed: int | None) -> None:
    root = image_of(tmp_path, appended=appended, flushed=flushed)
    with writer(root) as w:
        assert (w.episodes, w.successes) == (1 + (appended > 0), 1)
        assert w.transitions == 3 + max(appended - 1, 0)
    found = contents(root)
    assert same(found[uuid_of(1)], episode(1, 3))
    if appended:
        assert same(found[uuid_of(2)], episode(2, 6, humans=[1])[:appended])
        record = records(root)[1]
        assert (record.state, record.truncated, record.recovered, record.success) == ("complete", True, True, False)
        assert (record.demo, record.interventions) == (False, int(appended > 1))
    assert verify(root).ok


def test_a_last_row_without_acknowledgement_is_a_whole_episode(tmp_path: Path) -> None:
    root = image_of(tmp_path, appended=7)
    writer(root).close()
    record = records(root)[1]
    assert (record.rows, record.truncated, record.recovered, record.success) == (7, False, True, False)


@pytest.fixture(scope="module")
def four_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_of(tmp_path_factory.mktemp("four"), appended=4)


@given(cut=st.integers(1, 3 * STRIDE - 1), junk=st.binary(max_size=STRIDE))
@settings(max_examples=25, deadline=None)
def test_a_torn_tail_costs_only_the_torn_row(
    four_rows: Path, tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    root = crash_image(four_rows, tmp_path_factory.mktemp("torn") / "crash")
    log = log_of(root)
    size = log.stat().st_size - cut
    with log.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(junk)
    assert recover(root) == ["actor"]
    kept = 4 - -(-cut // STRIDE)
    if junk:  # the junk may happen to be what was cut
        assert len(contents(root)[uuid_of(2)]) in (kept, kept + 1)
    assert same(contents(root)[uuid_of(2)][:kept], episode(2, 6, humans=[1])[:kept])
    assert verify(root).ok
    with writer(root) as w:
        for t in episode(3, 2):
            w.append(t)
        w.end_episode(True)
    assert same(contents(root)[uuid_of(3)], episode(3, 2))


def test_an_end_that_the_index_missed_is_taken_from_the_log(tmp_path: Path) -> None:
    with writer(tmp_path / "live", demo=True) as w:
        for t in episode(1, 3):
            w.append(t)
        w.flush()
        before = crash_image(tmp_path / "live", tmp_path / "before")
        w.end_episode(True)
        after = crash_image(tmp_path / "live", tmp_path / "after")
    log_of(before).write_bytes(log_of(after).read_bytes())
    writer(before).close()
    record = records(before)[0]
    assert (record.state, record.success, record.demo, record.recovered) == ("complete", True, True, False)


def test_damage_before_a_crash_is_told_and_the_rest_is_kept(tmp_path: Path) -> None:
    root = image_of(tmp_path, appended=5, flushed=5, synced=True)
    raw = bytearray(log_of(root).read_bytes())
    raw[-2 * STRIDE + 50] ^= 1  # in row 3 of 0..4
    log_of(root).write_bytes(raw)
    writer(root).close()
    assert same(contents(root)[uuid_of(2)], episode(2, 6, humans=[1])[:3])
    report = verify(root)
    assert any("that were on disk are lost" in p for p in report.problems)


def test_sound_rows_behind_damage_are_told(tmp_path: Path) -> None:
    root = image_of(tmp_path, appended=5)
    raw = bytearray(log_of(root).read_bytes())
    raw[-2 * STRIDE + 50] ^= 1
    log_of(root).write_bytes(raw)
    writer(root).close()
    assert len(contents(root)[uuid_of(2)]) == 3
    assert any("sound but not used" in p for p in verify(root).problems)


def test_a_power_cut_that_took_the_whole_episode_leaves_nothing_to_trip_over(tmp_path: Path) -> None:
    root = image_of(tmp_path, appended=3, flushed=3)
    with log_of(root).open("r+b") as file:
        file.truncate(log_of(root).stat().st_size - 3 * STRIDE)
    writer(root).close()
    with Replay(root, SCHEMA) as replay:
        replay.refresh()
        assert (replay.episodes, replay.transitions) == (1, 3)
    assert verify(root).ok


def test_a_log_that_died_while_it_was_made_is_left_alone(tmp_path: Path) -> None:
    root = image_of(tmp_path, appended=0)
    (root / "logs" / "actor-000002.log").write_bytes(b"RLG")
    with writer(root) as w:
        for t in episode(2, 2):
            w.append(t)
        w.end_episode(True)
    assert same(contents(root)[uuid_of(2)], episode(2, 2))
    assert verify(root).ok


def test_the_living_are_not_recovered(tmp_path: Path) -> None:
    with writer(tmp_path, "alive") as w, writer(tmp_path, "alive-2"):
        w.append(row(1, 0, Kind.FIRST))
        w.flush()
        assert recover(tmp_path) == []
        assert records(tmp_path)[0].state == "open"


def test_recovery_twice_is_recovery_once(tmp_path: Path) -> None:
    root = image_of(tmp_path, appended=4)
    assert recover(root) == ["actor"]
    first = records(root)
    assert recover(root) == []
    assert records(root) == first


def test_half_a_copy_is_discarded(tmp_path: Path) -> None:
    with writer(tmp_path / "live", partial=False) as w:
        for t in episode(1, 3)[:2]:
            w.append(t)
        w.flush()
        root = crash_image(tmp_path / "live", tmp_path / "crash")
    for place in (root, tmp_path / "live"):
        with writer(place) as w:
            assert w.episodes == 0
            for t in episode(1, 3):
                w.append(t)
            w.end_episode(True)
        assert same(contents(place)[uuid_of(1)], episode(1, 3))
        assert verify(place).ok
