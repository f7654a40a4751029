from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import SCHEMA, episode, records, row, uuid_of
from buffer_sealed import sealed, write

from robolearn.buffer.index import EpisodeRecord, Index, LogRecord, Relabel, SegmentRecord
from robolearn.buffer.relabel import relabel
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.types import Kind


@pytest.fixture
def index(tmp_path: Path) -> Index:
    write(tmp_path, range(3), schema=SCHEMA)
    return Index(tmp_path / "index.sqlite", writable=True)


def test_several_episodes_are_edited_at_once_or_not_at_all(index: Index) -> None:
    before = index.changes()
    revision = index.revision()
    index.edit([uuid_of(0), uuid_of(2)], tag="night", demo=True)
    changed = index.changes(revision)
    assert [(r.uuid, r.tag, r.demo) for r in changed] == [(uuid_of(0), "night", True), (uuid_of(2), "night", True)]
    assert len({r.revision for r in changed}) == 1
    assert [r.id for r in index.changes()] == [r.id for r in before]
    now = index.changes()
    with pytest.raises(StoreError, match="no such episode"):
        index.edit([uuid_of(1), uuid_of(77)], tag="day")
    assert index.changes() == now
    index.close()


def test_an_open_episode_cannot_be_edited(tmp_path: Path) -> None:
    with Writer(tmp_path, SCHEMA, name="w", robot="r", task="t") as w:
        w.append(row(1, 0, Kind.FIRST))
        w.flush()
        index = Index(tmp_path / "index.sqlite", writable=True)
        with pytest.raises(StoreError, match="still open"):
            index.edit(uuid_of(1), tag="x")
        index.close()


def test_a_writer_that_tells_again_does_not_bring_a_sealed_episode_back(tmp_path: Path) -> None:
    write(tmp_path, range(2), schema=SCHEMA)
    told = records(tmp_path)[0]
    sealed(tmp_path, range(5, 6), schema=SCHEMA)
    index = Index(tmp_path / "index.sqlite", writable=True)
    moved = index.episode(told.uuid)
    assert moved is not None
    assert moved.segment
    with index.transaction(durable=True) as revision:
        index.put_episode(dataclasses.replace(told, tag="again"), revision)
    now = index.episode(told.uuid)
    assert now is not None
    assert now.place == moved.place
    assert now.tag == "again"
    index.close()


def test_what_is_put_comes_back(index: Index) -> None:
    log = LogRecord("a-000009.log", "a", 10, 5, closed=True, problem="bad")
    segment = SegmentRecord("a-000009", "a", 4, 1000, "dropped")
    relabels = [Relabel(uuid_of(1), "reward", 1, np.array([0.5])), Relabel(uuid_of(1), "source", 2, np.array([1, 2]))]
    with index.transaction(durable=True):
        index.put_log(log)
        index.put_segment(segment)
        for relabel in relabels:
            index.put_relabel(relabel)
    assert index.logs()["a-000009.log"] == log
    assert index.segments() == {"a-000009": segment}
    found = index.relabels(uuid_of(1))
    assert [(r.field, r.first, r.values.tolist()) for r in found] == [("reward", 1, [0.5]), ("source", 2, [1, 2])]
    assert index.relabels(uuid_of(2)) == []
    assert len(index.relabels()) == 2
    index.close()


def test_a_failed_transaction_changes_nothing(index: Index) -> None:
    revision = index.revision()
    record = dataclasses.replace(index.changes()[0], tag="x")

    def fail() -> None:
        with index.transaction(durable=True) as number:
            index.put_episode(record, number)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert index.revision() == revision
    assert all(r.tag == "" for r in index.changes())
    index.close()


def test_episodes_of_a_log_and_of_a_segment(tmp_path: Path) -> None:
    write(tmp_path, range(4), schema=SCHEMA, log_bytes=1 << 20)
    index = Index(tmp_path / "index.sqlite", writable=False)
    assert [r.uuid for r in index.of_log("actor-000001.log")] == [uuid_of(n) for n in range(4)]
    sealed(tmp_path, range(4, 6), schema=SCHEMA)
    assert index.of_log("actor-000001.log") == []
    found: list[EpisodeRecord] = index.of_segment("actor-000001")
    assert [(r.uuid, r.first_row) for r in found] == [(uuid_of(n), 8 * n) for n in range(6)]
    index.close()
    assert len(episode(0, 7)) == 8


def test_edits_do_not_lie_in_the_journal_alone(tmp_path: Path) -> None:
    """SQLite takes a damaged journal for a torn one: what is only there can get lost without a word."""
    root, cut = tmp_path / "buffer", tmp_path / "cut"
    with Writer(root, SCHEMA, name="w", robot="r", task="t") as w:
        for number in range(3):
            for t in episode(number, 4):
                w.append(t)
            w.end_episode(True)
        index = Index(root / "index.sqlite", writable=True)
        index.edit(uuid_of(0), tag="good")
        index.close()
        relabel(root, [Relabel(uuid_of(1), "reward", 1, np.array([5.0]))])
        assert not (root / "index.sqlite-wal").stat().st_size  # parts of it would go over what is newer
        for t in episode(3, 4):
            w.append(t)
        w.end_episode(True)
        shutil.copytree(root, cut, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    assert [(r.tag, r.relabels) for r in records(cut)] == [("good", 0), ("", 1), ("", 0)]


def test_a_reader_in_a_snapshot_does_not_keep_an_edit_from_ending(tmp_path: Path) -> None:
    write(tmp_path, range(2), schema=SCHEMA)
    with closing(Index(tmp_path / "index.sqlite", writable=False)) as reader, reader.snapshot():
        before = reader.changes()
        with closing(Index(tmp_path / "index.sqlite", writable=True)) as index:
            index.edit(uuid_of(0), tag="good")
        assert reader.changes() == before
    assert records(tmp_path)[0].tag == "good"


def test_a_full_disk_is_called_so(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = index._db.execute("PRAGMA page_count").fetchone()[0]
    index._db.execute(f"PRAGMA max_page_count = {pages}")
    full = "the disk is full: free some space and try again"
    with pytest.raises(StoreError, match=f"cannot write index .*: database or disk is full: .*; {full}$"):
        index.edit(uuid_of(0), tag="long " * 10_000)

    def fail() -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
        with index.transaction(durable=True):
            raise error

    real = os.statvfs(index.path)
    for blocks, end in ((1000, "disk I/O error$"), (3, f"; {full}$")):
        now = os.statvfs_result((65536, 65536, *real[2:4], blocks, *real[5:]))
        monkeypatch.setattr(os, "statvfs", lambda path, now=now: now)
        with pytest.raises(StoreError, match=end):
            fail()
    index.close()


@contextmanager
def handles(count: int) -> Iterator[None]:
    """No more than so many file handles can be opened within."""
    before, taken = resource.getrlimit(resource.RLIMIT_NOFILE), []
    limit = max(int(name) for name in os.listdir("/proc/self/fd")) + 10
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for fd in taken[len(taken) - count :]:
            os.close(fd)
        del taken[len(taken) - count :]
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("writable", [True, False])
def test_without_file_handles_that_is_what_an_index_says(index: Index, writable: bool, live: bool) -> None:
    index.edit(uuid_of(0), tag="x")  # in the journal, as long as this connection is open
    truth, errors = index.changes(), []
    if not live:
        index.close()
    for count in range(5):
        with handles(count):
            try:
                with closing(Index(index.path, writable=writable)) as other:
                    assert other.changes() == truth
            except StoreError as error:
                errors.append(error)
    assert all(type(e) is StoreError and "too many open files in this process" in str(e) for e in errors)
    assert len(errors) == (2 if live else 3)  # database, journal and, once per process, the memory that is shared
    index.close()


def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, writable: bool) -> None:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise error

    write(tmp_path, range(1), schema=SCHEMA)
    monkeypatch.setattr("robolearn.buffer.index._connect", fail)
    with pytest.raises(StoreError, match=r"readonly database$"):
        Index(tmp_path / "index.sqlite", writable=True)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(StoreError, match="readonly database: Permission denied; no permission to write here"):
        Index(tmp_path / "index.sqlite", writable=True)


def test_looking_for_the_reason_lets_go_of_no_lock(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process loses its locks on a file with the first of its handles that it closes."""
    opened, real = [], os.open

    def watched(path: Path, *more: int) -> int:
        opened.append(Path(path))
        return real(path, *more)

    monkeypatch.setattr(os, "open", watched)
    with handles(0), pytest.raises(StoreError, match="too many open files"):
        Index(index.path, writable=True)
    index.close()
    assert index.path.parent in opened
    assert all(path in (index.path.parent, Path("/dev/null")) for path in opened)


def test_an_index_without_its_tables_or_with_senseless_text_is_damaged(index: Index) -> None:
    index._db.execute("INSERT INTO logs VALUES (CAST(x'ff' AS TEXT), '', 0, 0, 0, '', 0)")
    with pytest.raises(CorruptDataError, match="is damaged"):
        index.logs()
    index._db.execute("DROP TABLE counter")
    with pytest.raises(CorruptDataError, match="no such table"):
        index.revision()
    index.close()
    with pytest.raises(CorruptDataError, match="no such table"):
        Index(index.path, writable=False)
