"""Commits in the background, shared commits, long episodes: nothing is acknowledged early, lost or left waiting."""

import errno
import itertools
import os
import threading
from pathlib import Path

import pytest
from buffer_rows import contents, crash_image, episode, logs, records, row, same, uuid_of
from test_buffer_writer import FullDisk, wait_for, write, writer

from robolearn.buffer import writer as module
from robolearn.buffer.index import Index
from robolearn.buffer.log import LogWriter
from robolearn.buffer.schema import Schema
from robolearn.buffer.verify import verify
from robolearn.core.clock import FakeClock
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind, Transition


class Disk:
    """Log files whose sync can be held up, can fail, and is counted."""

    def __init__(self) -> None:
        self.free, self.fails, self.syncs, self.entered = threading.Event(), False, 0, 0
        self.free.set()

    def open(self, path: Path, schema: Schema, name: str) -> LogWriter:
        return LogWriter(path, schema, name, sync=self.sync)

    def sync(self, fd: int) -> None:
        self.entered += 1
        assert self.free.wait(30.0)
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(fd)
        self.syncs += 1


def test_append_does_not_wait_for_a_slow_disk_and_one_commit_runs_at_a_time(tmp_path: Path) -> None:
    disk, clock, rows = Disk(), FakeClock(), episode(1, 9)
    with writer(tmp_path, clock=clock, open_log=disk.open) as w:
        w.append(rows[0])
        disk.free.clear()
        for t in rows[1:]:
            clock.advance(0.3)
            w.append(t)
        wait_for(lambda: disk.entered == 1)
        assert records(tmp_path) == []
        assert w.stats.unsynced_bytes > 0
        disk.free.set()
        wait_for(lambda: [r.rows for r in records(tmp_path)] == [1])
        assert disk.entered == 1
        w.end_episode(True)
        assert w.stats.unsynced_bytes == 0
    assert same(contents(tmp_path)[uuid_of(1)], rows)


def test_append_waits_when_the_disk_is_far_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSYNCED_BYTES", 1000)
    with writer(tmp_path, commit_every_s=1e9) as w:
        for t in episode(1, 200):
            w.append(t)
            assert w.stats.unsynced_bytes < 1000 + 2 * 200
        assert w.stats.commits > 10
        w.end_episode(True)


def test_an_import_is_held_back_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSYNCED_BYTES", 1000)
    with writer(tmp_path, partial=False) as w:
        for t in episode(1, 50):
            w.append(t)
            assert w.stats.unsynced_bytes < 1000 + 2 * 200
        assert records(tmp_path) == []
        w.end_episode(True)


def test_what_failed_in_the_background_reaches_the_next_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rows, failed = FakeClock(), episode(1, 6), threading.Event()

    def full(self: Index, *args: object) -> None:
        failed.set()
        raise StoreError("database or disk is full")

    with writer(tmp_path, clock=clock) as w:
        w.append(rows[0])
        w.append(rows[1])
        with monkeypatch.context() as patch:
            patch.setattr(Index, "put_log", full)
            clock.advance(0.3)
            w.append(rows[2])
            assert failed.wait(30.0)
            wait_for(lambda: not w._committer.busy)
            with pytest.raises(StoreError, match="database or disk is full"):
                w.append(rows[3])
        for t in rows[3:]:
            w.append(t)
        w.end_episode(True)
        assert w.episodes == 1
    assert same(contents(tmp_path)[uuid_of(1)], rows)
    assert verify(tmp_path).ok


def test_a_failed_sync_in_the_background_ends_the_log_and_the_successor_goes_on(tmp_path: Path) -> None:
    disk, clock, rows = Disk(), FakeClock(), episode(1, 6)
    w = writer(tmp_path, clock=clock, open_log=disk.open)
    w.append(rows[0])
    disk.free.clear()
    clock.advance(0.3)
    w.append(rows[1])
    disk.fails = True
    disk.free.set()
    wait_for(lambda: not w._committer.busy)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"cannot sync|failed to sync"):
            w.append(rows[2])
    with pytest.raises(StoreError, match="failed to sync"):
        w.close()
    with writer(tmp_path) as again:
        assert again.episodes == 1
        write(again, episode(2, 2))
    assert same(contents(tmp_path)[uuid_of(1)], rows[:2])
    assert verify(tmp_path).ok


def test_a_clock_set_back_does_not_hold_up_commits(tmp_path: Path) -> None:
    clock, rows = FakeClock(10**15), episode(1, 3)
    with writer(tmp_path, clock=clock, unix_ns=lambda: clock.now_ns()) as w:
        w.append(rows[0])
        w.append(rows[1])
        clock.time_ns = 0
        w.append(rows[2])
        wait_for(lambda: [r.rows for r in records(tmp_path)] == [2])
        w.append(rows[3])
        w.end_episode(True)
        write(w, episode(2, 2))
        assert w.stats.blocked_s >= 0.0
    assert [r.uuid for r in records(tmp_path)] == [uuid_of(1), uuid_of(2)]
    assert records(tmp_path)[1].unix_ns == 0
    assert verify(tmp_path).ok


def test_several_episodes_share_a_commit_and_are_acknowledged_after_it(tmp_path: Path) -> None:
    disk = Disk()
    with writer(tmp_path / "b", commit_every_s=1e9, open_log=disk.open) as w:
        for number in range(10):
            for t in episode(number, 2):
                w.append(t)
            w.end_episode(number % 2 == 0, wait=False)
            assert w.has(uuid_of(number))
        with pytest.raises(StoreError, match="already in buffer"):
            w.append(row(3, 0, Kind.FIRST))
        assert (w.episodes, w.successes, w.stats.waiting_episodes, disk.syncs) == (0, 0, 10, 0)
        image = crash_image(tmp_path / "b", tmp_path / "killed")
        w.flush(durable=True)
        assert (w.episodes, w.successes, w.stats.waiting_episodes, disk.syncs) == (10, 5, 0, 1)
        assert [r.success for r in records(tmp_path / "b")] == [True, False] * 5
    with writer(image) as again:
        assert (again.episodes, again.successes) == (10, 5)
    for root in (tmp_path / "b", image):
        assert all(same(contents(root)[uuid_of(n)], episode(n, 2)) for n in range(10))
        assert verify(root).ok


def test_a_full_group_is_acknowledged_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", 3)
    with writer(tmp_path, commit_every_s=1e9) as w:
        for number in range(7):
            for t in episode(number, 1):
                w.append(t)
            w.end_episode(True, wait=False)
            assert w.stats.waiting_episodes < 3
        assert w.episodes == 6
        write(w, episode(7, 1))
        assert w.episodes == 8


def test_a_group_is_acknowledged_in_the_background(tmp_path: Path) -> None:
    clock = FakeClock()
    with writer(tmp_path, clock=clock) as w:
        for number in range(3):
            for t in episode(number, 1):
                w.append(t)
            w.end_episode(True, wait=False)
        clock.advance(0.3)
        w.append(row(3, 0, Kind.FIRST))
        wait_for(lambda: not w._committer.busy)
        assert w.episodes == 0
        w.append(row(3, 1, Kind.TERMINATED))
        assert w.episodes == 3
        w.end_episode(False, wait=False)
    assert [r.success for r in records(tmp_path)] == [True, True, True, False]


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("at", range(5))
def test_a_kill_after_a_shared_commit_within_an_episode(tmp_path: Path, at: int, partial: bool) -> None:
    root, rows = tmp_path / "b", episode(2, 3)
    with writer(root, commit_every_s=1e9, partial=partial) as w:
        for t in episode(1, 2):
            w.append(t)
        w.end_episode(True, wait=False)
        for t in rows[:at]:
            w.append(t)
        w.flush(durable=True)
        for t in rows[at:]:
            w.append(t)
        w.end_episode(True, wait=False)
        image = crash_image(root, tmp_path / "killed")
    with writer(image) as again:
        assert (again.episodes, again.successes) == (2, 2)
    assert same(contents(image)[uuid_of(2)], rows)
    assert verify(image).ok


def test_stats_count_what_was_done(tmp_path: Path) -> None:
    with writer(tmp_path, commit_every_s=1e9) as w:
        write(w, episode(1, 4))
        write(w, episode(2, 4))
        s = w.stats
        assert (s.rows, s.waiting_episodes, s.unsynced_bytes) == (10, 0, 0)
        assert s.bytes < sum(p.stat().st_size for p in (tmp_path / "logs").iterdir())
        assert s.commits >= 2
        assert 0 < s.last_commit_s <= s.max_commit_s <= s.blocked_s


# -- long episodes


def test_a_full_log_is_closed_when_its_episode_ends(tmp_path: Path) -> None:
    with writer(tmp_path, log_bytes=1) as w:
        write(w, episode(1, 2))
        assert [log.closed for log in logs(tmp_path)] == [True]
    assert len(logs(tmp_path)) == 1


def test_the_number_of_a_log_is_not_used_again_when_its_file_is_gone(tmp_path: Path) -> None:
    with writer(tmp_path) as w:
        write(w, episode(1, 2))
    (tmp_path / "logs" / records(tmp_path)[0].log).unlink()  # as sealing does
    with writer(tmp_path) as w:
        write(w, episode(2, 2))
    assert [log.name for log in logs(tmp_path)] == ["actor-000001.log", "actor-000002.log"]


def joined(root: Path) -> list[list[Transition]]:
    """Rows of the episodes in order of arrival."""
    found = contents(root)
    return [found[r.uuid] for r in records(root)]


def check_parts(parts: list[list[Transition]], rows: list[Transition]) -> None:
    """Together the parts have the transitions of ``rows``, each once."""
    steps = [t for part in parts for t in part[1:]]
    assert [t.stamp_ns for t in steps] == [t.stamp_ns for t in rows[1:]]
    assert [(t.reward, t.kind, t.source) for t in steps] == [(t.reward, t.kind, t.source) for t in rows[1:]]
    for before, after in itertools.pairwise(parts):
        assert (after[0].kind, after[0].index, after[0].reward) == (Kind.FIRST, 0, 0.0)
        assert not after[0].executed.any()
        assert after[0].stamp_ns == before[-1].stamp_ns
        assert all((after[0].observation[k] == v).all() for k, v in before[-1].observation.items())


def test_an_episode_without_end_is_split_and_its_logs_are_closed(tmp_path: Path) -> None:
    rows = episode(1, 30, humans=[5])
    with writer(tmp_path, log_bytes=1, split_rows=7, demo=True) as w:
        for t in rows[:25]:
            w.append(t)
        assert [log.closed for log in logs(tmp_path)] == [True] * 3  # the fourth is not known before its first commit
        assert [(r.success, r.demo, r.truncated) for r in records(tmp_path)][:3] == [(False, False, True)] * 3
        for t in rows[25:]:
            w.append(t)
        w.end_episode(True)
        assert (w.transitions, w.episodes) == (30, 5)
    parts = joined(tmp_path)
    assert [len(p) for p in parts] == [8, 8, 8, 8, 3]
    check_parts(parts, rows)
    assert [(r.success, r.demo, r.truncated, r.recovered) for r in records(tmp_path)] == [
        *[(True, True, True, False)] * 4,
        (True, True, False, False),
    ]
    assert verify(tmp_path).ok
    with writer(tmp_path) as again:
        assert (again.transitions, again.episodes, again.successes) == (30, 5, 5)


def test_short_episodes_and_imports_are_not_split(tmp_path: Path) -> None:
    with writer(tmp_path, log_bytes=1, split_rows=7) as w:
        write(w, episode(1, 7))
    with writer(tmp_path, "import", log_bytes=1, split_rows=7, partial=False) as w:
        write(w, episode(2, 20))
    assert [r.rows for r in records(tmp_path)] == [8, 21]


@pytest.mark.parametrize("after", range(12))
def test_a_split_goes_on_where_a_full_disk_stopped_it(tmp_path: Path, after: int) -> None:
    """The disk takes ``after`` more writes, then none for a while."""
    rows, disk = episode(1, 12), FullDisk()
    allowed = [after]

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        allowed[0] -= 1
        disk.full = allowed[0] < 0
        return disk.pwrite(fd, data, offset)

    def make(path: Path, schema: Schema, name: str) -> LogWriter:
        return LogWriter(path, schema, name, pwrite=pwrite)

    failures = 0
    with writer(tmp_path, log_bytes=1, split_rows=3, open_log=make) as w:
        for t in rows:
            for _ in range(2):
                try:
                    w.append(t)
                    break
                except StoreError:
                    failures += 1
                    allowed[0] = 1000
        w.end_episode(True)
    assert failures == 1
    check_parts(joined(tmp_path), rows)
    assert verify(tmp_path).ok


def test_a_kill_at_any_moment_of_a_split(tmp_path: Path) -> None:
    rows, root, images = episode(1, 8), tmp_path / "b", []

    def make(path: Path, schema: Schema, name: str) -> LogWriter:
        return LogWriter(path, schema, name, pwrite=pwrite)

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        images.append((crash_image(root, tmp_path / f"killed{len(images)}"), w.transitions))
        return os.pwrite(fd, data, offset)

    with writer(root, log_bytes=1, split_rows=3, open_log=make) as w:
        for t in rows:
            w.append(t)
        w.end_episode(True)
    assert len(images) > 12
    for image, acknowledged in images:
        with writer(image) as again:
            assert again.transitions >= acknowledged
        if acknowledged:
            check_parts([p for p in joined(image) if len(p) > 1], rows[: again.transitions + 1])
        assert verify(image).ok
