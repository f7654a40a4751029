from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import SCHEMA, episode, records, row, uuid_of
from buffer_sealed import sealed, write

from robolearn.buffer.index import EpisodeRecord, Index, LogRecord, Relabel, SegmentRecord
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
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
