"""Pruning: what people gave stays, readers are not disturbed, and a crash leaves every episode whole or dropped."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from buffer_pruned import STEPS, intact
from buffer_rows import IMAGES, episode, records, uuid_of

from robolearn.buffer import retain as retain_module
from robolearn.buffer import segment as segment_module
from robolearn.buffer.index import Index, Relabel
from robolearn.buffer.relabel import relabel
from robolearn.buffer.replay import Replay
from robolearn.buffer.retain import disk_use, prune
from robolearn.buffer.seal import seal
from robolearn.buffer.segment import SegmentReader
from robolearn.buffer.store import StorePaths, locked
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Source

DAY_NS = 86_400 * 10**9
NOW = 1_000 * DAY_NS


def segment(root: Path, number: int, *, days: float = 0.0, demo: bool = False, humans: tuple[int, ...] = ()) -> str:
    """One more segment, of episodes ``number`` and ``number + 1``, so many days old; its name."""
    began = NOW - int(days * DAY_NS)
    with Writer(root, IMAGES, name="actor", robot="arm", task="peg", unix_ns=lambda: began) as w:
        for n in (number, number + 1):
            for t in episode(n, STEPS, humans=humans, schema=IMAGES):
                w.append(t)
            w.end_episode(True, demo=demo)
    return seal(root, everything=True)[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five segments, 5 to 1 days old; the second has demonstrations, the third a correction."""
    root = tmp_path / "buffer"
    for number in range(5):
        segment(root, 10 * number, days=5 - number, demo=number == 1, humans=(3,) if number == 2 else ())
    return root


def names(root: Path) -> list[str]:
    return sorted(p.name[-1] for p in (root / "segments").iterdir())


def edit(root: Path, number: int, **changes: object) -> None:
    index = Index(StorePaths(root).index, writable=True)
    try:
        index.edit(uuid_of(number), **changes)  # type: ignore[arg-type]
    finally:
        index.close()


def test_the_oldest_go_until_the_budget_is_kept(root: Path) -> None:
    before = disk_use(StorePaths(root))
    done = prune(root, max_bytes=before.total - 1)
    assert [d.segment[-1] for d in done.dropped] == ["1"]
    assert (done.dropped[0].episodes, done.dropped[0].steps, done.within) == (2, 2 * STEPS, True)
    assert done.before == before
    assert names(root) == ["2", "3", "4", "5"]
    assert disk_use(StorePaths(root)).segments == before.segments - done.freed
    assert done.after == disk_use(StorePaths(root)).total <= before.total - 1
    assert intact(root) == {uuid_of(n) for n in (10, 11, 20, 21, 30, 31, 40, 41)}
    assert prune(root, max_bytes=done.after).dropped == []


def test_demonstrations_corrections_and_what_is_tagged_stay_whatever_the_budget(root: Path) -> None:
    edit(root, 40, tag="please keep this")
    done = prune(root, max_bytes=0)
    assert [d.segment[-1] for d in done.dropped] == ["1", "4"]
    assert {name[-1]: why for name, why in done.kept.items()} == {
        "2": "pinned by 2 of 2 episodes",
        "3": "pinned by 2 of 2 episodes",
        "5": "pinned by 1 of 2 episodes",
    }
    assert not done.within
    assert done.after > 0
    assert len(intact(root)) == 6
    edit(root, 40, tag="keepsake")
    assert [d.segment[-1] for d in prune(root, max_bytes=0).dropped] == ["5"]


def test_a_step_relabelled_as_human_pins(root: Path) -> None:
    relabel(root, [Relabel(uuid_of(0), "source", 2, [int(Source.HUMAN)])])  # type: ignore[arg-type]
    assert "1" not in [d.segment[-1] for d in prune(root, max_bytes=0).dropped]


def test_only_what_is_old_enough_goes(root: Path) -> None:
    done = prune(root, older_than_s=1.5 * 86_400, unix_ns=lambda: NOW)
    assert [d.segment[-1] for d in done.dropped] == ["1", "4"]
    assert names(root) == ["2", "3", "5"]
    assert done.within
    root_bytes = disk_use(StorePaths(root)).total
    both = prune(root, older_than_s=0.5 * 86_400, max_bytes=root_bytes, unix_ns=lambda: NOW)
    assert both.dropped == []


@pytest.mark.parametrize(
    ("select", "gone"),
    [("robot=arm", "145"), ("robot=leg", ""), ("policy<10", "1"), ("policy<33", "1"), ("policy>=30", "45")],
)
def test_a_filter_must_hold_for_every_step(root: Path, select: str, gone: str) -> None:
    assert "".join(d.segment[-1] for d in prune(root, max_bytes=0, select=select).dropped) == gone
    assert len(intact(root)) == 10 - 2 * len(gone)


def test_a_dry_run_changes_nothing(root: Path) -> None:
    before = [(r.uuid, r.revision) for r in records(root)]
    plan = prune(root, max_bytes=0, dry_run=True)
    assert [(r.uuid, r.revision) for r in records(root)] == before
    assert len(names(root)) == 5
    done = prune(root, max_bytes=0)
    assert (done.dropped, done.kept) == (plan.dropped, plan.kept)


def test_what_a_reader_has_open_stays_until_it_lets_go(root: Path) -> None:
    reader = SegmentReader(root / "segments" / "actor-000001")
    done = prune(root, max_bytes=0)
    assert done.kept["actor-000001"] == "a reader has it open"
    assert [d.segment[-1] for d in done.dropped] == ["4", "5"]
    reader.close()
    assert [d.segment[-1] for d in prune(root, max_bytes=0).dropped] == ["1"]


def test_a_reader_that_comes_in_at_the_last_moment_reads_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = records(root)[0]
    readers: list[SegmentReader] = []
    real = retain_module._Pruner._marked

    def late(self: object, segment: object) -> object:
        if not readers:
            readers.append(SegmentReader(root / "segments" / "actor-000001"))
        return real(self, segment)  # type: ignore[arg-type]

    monkeypatch.setattr(retain_module._Pruner, "_marked", late)
    done = prune(root, max_bytes=0)
    assert done.waiting == ["actor-000001"]
    assert len(readers[0].whole(record, 0, STEPS + 1)) == STEPS + 1
    assert verify(root).ok
    assert prune(root, max_bytes=1 << 40).waiting == ["actor-000001"]
    readers[0].close()
    assert prune(root, max_bytes=1 << 40).waiting == []
    assert names(root) == ["2", "3"]


def test_an_episode_pinned_at_the_last_moment_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = retain_module._Pruner._marked

    def late(self: object, segment: object) -> object:
        edit(root, 0, demo=True)
        return real(self, segment)  # type: ignore[arg-type]

    monkeypatch.setattr(retain_module._Pruner, "_marked", late)
    assert prune(root, max_bytes=0).kept["actor-000001"] == "was edited meanwhile"
    assert "1" in names(root)


def test_dropped_episodes_do_not_count_and_stay_dropped(root: Path) -> None:
    edit(root, 10, dropped=True)
    edit(root, 11, dropped=True)
    assert [d.segment[-1] for d in prune(root, max_bytes=0).dropped] == ["2", "1", "4", "5"]
    with pytest.raises(StoreError, match="cannot come back"):
        edit(root, 0, dropped=False)
    assert intact(root) == {uuid_of(20), uuid_of(21)}


def test_requests_that_make_no_sense_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected max_bytes or older_than_s"):
        prune(root)
    with pytest.raises(StoreError, match="at least 0"):
        prune(root, max_bytes=-1)
    with pytest.raises(StoreError, match="at least 0"):
        prune(root, older_than_s=float("nan"))
    with pytest.raises(StoreError, match="unknown word"):
        prune(root, max_bytes=0, select="robto=arm")
    with pytest.raises(StoreError, match="no buffer"):
        prune(tmp_path, max_bytes=0)
    with locked(StorePaths(root).seal_lock), pytest.raises(StoreError, match="another process"):
        prune(root, max_bytes=0, patience_s=0.1)
    assert len(names(root)) == 5


def test_a_missing_or_damaged_segment_is_left_to_repair(root: Path) -> None:
    shutil.rmtree(root / "segments" / "actor-000001")
    shard = next((root / "segments" / "actor-000004" / "policy_version").glob("c*"))
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    done = prune(root, max_bytes=0, select="policy<32")
    assert done.kept["actor-000001"].startswith(("is damaged", "its files are missing"))
    assert done.kept["actor-000004"].startswith("is damaged")
    assert "files are missing" in prune(root, max_bytes=0).kept["actor-000001"]


class _Died(BaseException):
    pass


@pytest.mark.parametrize("moment", ["remove_unused", "rename", "fsync_dir", "rmtree", "partly"])
def test_a_crash_at_any_stage_leaves_every_episode_whole_or_dropped(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def die(*_: object, **__: object) -> None:
        shutil.copytree(root, tmp_path / "crash")
        raise _Died

    def partly(path: Path) -> None:
        (path / "zarr.json").unlink()
        die()

    place: object = {"remove_unused": retain_module, "rename": os, "fsync_dir": segment_module}.get(moment, shutil)
    act: Callable[..., None] = partly if moment == "partly" else die
    monkeypatch.setattr(place, "rmtree" if moment == "partly" else moment, act)
    with pytest.raises(_Died):
        prune(root, max_bytes=0)
    monkeypatch.undo()
    crash = tmp_path / "crash"
    expected = {uuid_of(n) for n in (10, 11, 20, 21, 30, 31, 40, 41)}
    assert intact(crash) == expected
    left = prune(crash, max_bytes=1 << 40)
    assert (left.dropped, left.waiting) == ([], [])
    assert names(crash) == ["2", "3", "4", "5"]
    assert intact(crash) == expected


@pytest.mark.parametrize("full", ["index", "files"])
def test_an_error_leaves_nothing_half_done(root: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    def fail(*_: object) -> None:
        if full == "index":
            raise sqlite3.OperationalError("database or disk is full")
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(*((Index, "put_segment") if full == "index" else (shutil, "rmtree")), fail)
    with pytest.raises(StoreError, match=r"disk is full|read-only"):
        prune(root, max_bytes=0)
    monkeypatch.undo()
    assert len(intact(root)) == (10 if full == "index" else 8)
    assert len(names(root)) == 5
    assert len(prune(root, max_bytes=0).dropped) == (3 if full == "index" else 2)
    assert names(root) == ["2", "3"]


def test_a_learner_goes_on_sampling_and_forgets_what_was_pruned(tmp_path: Path) -> None:
    root = tmp_path / "buffer"
    for number in range(0, 40, 2):
        segment(root, number)
    replay = Replay(root, IMAGES, ram_bytes=20_000)  # most images are read from disk
    try:
        replay.refresh()
        replay.sample(64, demo_fraction=0.0)
        done = prune(root, max_bytes=0)
        assert set(done.kept.values()) == {"a reader has it open"}
        assert done.dropped
        for _ in range(5):
            replay.sample(64, demo_fraction=0.0)
        replay.refresh()
        assert replay.episodes == 40 - sum(one.episodes for one in done.dropped)
        replay.sample(64, demo_fraction=0.0)
    finally:
        replay.close()
    assert len(prune(root, max_bytes=0).dropped) == len(done.kept)
