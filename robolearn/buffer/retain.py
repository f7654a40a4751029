"""Retention: old segments go when the disk budget is reached; what people gave is kept."""

from __future__ import annotations

import dataclasses
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.filters import Filter
from robolearn.buffer.index import EpisodeRecord, Index, SegmentRecord
from robolearn.buffer.log import storage_error
from robolearn.buffer.seal import remove_leftovers
from robolearn.buffer.segment import lock_alone, opened, remove_unused
from robolearn.buffer.selecting import every_step
from robolearn.buffer.store import StorePaths, locked, read_schema
from robolearn.buffer.transfer import WRITER as COPIED
from robolearn.core.errors import CorruptDataError, StoreError

KEEP = "keep"
"""A word in the tag of an episode that pins it."""
_POLL_S = 0.05


@dataclass(frozen=True)
class DiskUse:
    """Sizes of a buffer's files [bytes]; ``total`` is what a budget is about.

    Attributes:
        index: without SQLite's journal, which comes and goes.
        damaged: what ``repair`` set aside; not part of ``total``.
    """

    logs: int
    segments: int
    index: int
    damaged: int

    @property
    def total(self) -> int:
        """Logs, segments and index."""
        return self.logs + self.segments + self.index


@dataclass(frozen=True)
class Dropped:
    """A segment that went (or would go)."""

    segment: str
    bytes: int
    episodes: int
    steps: int


@dataclass
class Pruned:
    """What ``prune`` did, or would do.

    Attributes:
        before, after: logs, segments and index [bytes]; ``after`` is an estimate for a dry run.
        max_bytes: the budget; None if there was none.
        dropped: segments that went, oldest first.
        kept: segment -> why it could not go, of those that were old enough to be asked.
        waiting: dropped segments whose files go with the next ``prune``, since a reader has them open.
        dry_run: nothing was changed.
    """

    before: DiskUse
    after: int
    max_bytes: int | None
    dry_run: bool
    dropped: list[Dropped] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """Bytes of the segments that went."""
        return sum(one.bytes for one in self.dropped)

    @property
    def within(self) -> bool:
        """Whether the budget is kept now."""
        return self.max_bytes is None or self.after <= self.max_bytes


def prune(
    root: Path,
    *,
    max_bytes: int | None = None,
    older_than_s: float | None = None,
    select: str = "",
    dry_run: bool = False,
    patience_s: float = 30.0,
    unix_ns: Callable[[], int] = time.time_ns,
) -> Pruned:
    """Drop whole segments, oldest first. Others may write, read and sample meanwhile.

    An episode counts as no older than those that arrived before it, whatever the clock said; copies have the time of
    their original. A segment stays if one of its episodes is a demonstration, has a step that a human executed or the
    word ``keep`` in its tag, and while a reader has it open. Logs stay too: seal first. Dropped episodes remain in the
    index, without rows, so that a later merge does not bring them back. A crash at any moment leaves an episode whole
    or dropped; files it leaves are removed by the next call, or by ``seal``.

    Args:
        root: directory of the buffer.
        max_bytes: drop until logs, segments and index have no more bytes than this; None for no budget.
        older_than_s: drop only segments all of whose episodes are older [s]; None for any age. At least one of the
            two must be given. With both, segments must be old enough, and go only while the budget is exceeded.
        select: a filter (see ``filters``); only segments all of whose steps pass are dropped.
        dry_run: only say what would be done.
        patience_s: how long to wait for another process that seals, prunes or repairs [s].
        unix_ns: wall-clock time [ns].

    Raises:
        StoreError: no limit is given, or the filter makes no sense, or another process does not let go, or the disk
            does not take it (the index needs a little space to drop something).
        CorruptDataError: the index is damaged.
    """
    if max_bytes is None and older_than_s is None:
        raise StoreError("prune: expected max_bytes or older_than_s, got neither")
    if (max_bytes is not None and max_bytes < 0) or (older_than_s is not None and not older_than_s >= 0):
        raise StoreError(f"prune: expected limits of at least 0, got {max_bytes} bytes and {older_than_s} s")
    paths, passes = StorePaths(Path(root)), Filter.parse(select)
    read_schema(paths.root)
    before_ns = math.inf if older_than_s is None else unix_ns() - older_than_s * 1e9
    try:
        paths.segments.mkdir(exist_ok=True)
        with alone(paths, patience_s):
            index = Index(paths.index, writable=True)
            try:
                return _Pruner(paths, index, passes, max_bytes, before_ns, dry_run).run()
            finally:
                index.close()
    except BlockingIOError as error:
        raise StoreError(f"buffer {root} is being sealed, pruned or repaired by another process") from error
    except OSError as error:
        raise storage_error(f"cannot prune buffer {root}", error) from error


def is_pinned(record: EpisodeRecord) -> bool:
    """Whether an episode is never pruned: people made it, or said so."""
    return record.state != "dropped" and (record.demo or record.interventions > 0 or KEEP in record.tag.split())


def by_age(index: Index) -> list[tuple[int, int, SegmentRecord]]:
    """When the newest episode of each live segment began [ns], its number, and the segment; oldest first."""
    newest = {s.name: (0, 0, s) for s in index.segments().values() if s.state == "live"}
    for began, record in _dated(index.changes()):
        if record.segment in newest and record.state != "dropped":
            before = newest[record.segment]
            newest[record.segment] = max((began, record.id, before[2]), before, key=lambda a: a[:2])
    return sorted(newest.values(), key=lambda a: (a[0], a[1], a[2].name))


def why_not(
    segment: SegmentRecord, index: Index, files: EpisodeFiles, passes: Filter, *, pinned_too: bool = False
) -> str:
    """Why a segment has to stay as it is; empty if it has not. ``files`` are closed: our own handle is no reader."""
    episodes = [r for r in index.of_segment(segment.name) if r.state != "dropped"]
    if not pinned_too and (pinned := sum(map(is_pinned, episodes))):
        return f"pinned by {pinned} of {len(episodes)} episodes"
    try:
        if not all(every_step(r, index, files, passes) for r in episodes):
            return f"not all steps pass '{passes.text}'"
    except CorruptDataError as error:
        return f"is damaged, repair the buffer: {error}"
    finally:
        files.close()
    return ""


def unfinished(paths: StorePaths, index: Index) -> list[str]:
    """Remove files of segments that are dropped already; names of those that are still being read."""
    remove_leftovers(paths, index)
    dropped = (name for name, known in index.segments().items() if known.state == "dropped")
    return [name for name in dropped if (paths.segments / name).is_dir()]


def disk_use(paths: StorePaths) -> DiskUse:
    """Sizes of a buffer's files, while others may be writing."""
    return DiskUse(_tree(paths.logs), _tree(paths.segments), _size(paths.index), _tree(paths.damaged))


@dataclass
class _Pruner:
    """Prunes a buffer whose ``seal_lock`` is held."""

    paths: StorePaths
    index: Index
    passes: Filter
    max_bytes: int | None
    before_ns: float
    dry_run: bool

    def run(self) -> Pruned:
        """Finish what a crash left, then drop what has to go."""
        waiting = [] if self.dry_run else unfinished(self.paths, self.index)
        before = disk_use(self.paths)
        done = Pruned(before, before.total, self.max_bytes, self.dry_run, waiting=waiting)
        size = before.total - sum(_tree(self.paths.segments / name) for name in waiting)
        if self.max_bytes is not None and size <= self.max_bytes:
            return done
        with EpisodeFiles(self.paths, self.index, handles=1) as files:
            for newest, _, segment in by_age(self.index):
                if (self.max_bytes is not None and size <= self.max_bytes) or newest >= self.before_ns:
                    break
                why = why_not(segment, self.index, files, self.passes) or self._drop(segment, done)
                if why:
                    done.kept[segment.name] = why
                else:
                    size -= segment.bytes
        done.after = size if self.dry_run else disk_use(self.paths).total
        return done

    def _drop(self, segment: SegmentRecord, done: Pruned) -> str:
        """Drop one segment; why it could not be done, or empty."""
        path = self.paths.segments / segment.name
        try:
            with opened(path) as folder:
                if not lock_alone(folder):
                    return "a reader has it open"
                fcntl.flock(folder, fcntl.LOCK_SH)  # until the index says so, readers may come in
                dropped = self._marked(segment)
                if dropped is None:
                    return "was edited meanwhile"
                done.dropped.append(dropped)
            if not self.dry_run and not remove_unused(path):
                done.waiting.append(segment.name)
        except FileNotFoundError:
            return "its files are missing: repair the buffer"
        return ""

    def _marked(self, segment: SegmentRecord) -> Dropped | None:
        """From here on the index says that it is dropped; None if it must stay after all."""
        if self.dry_run:
            return _dropped(segment, self.index.of_segment(segment.name))
        with self.index.transaction(durable=True) as revision:
            episodes = self.index.of_segment(segment.name)
            if any(map(is_pinned, episodes)):
                return None
            for record in episodes:
                gone = dataclasses.replace(record, state="dropped", segment="", first_row=0)
                self.index.move_episode(gone, revision)
            self.index.put_segment(dataclasses.replace(segment, state="dropped"))
        return _dropped(segment, episodes)


def _dropped(segment: SegmentRecord, episodes: Sequence[EpisodeRecord]) -> Dropped:
    live = [r for r in episodes if r.state != "dropped"]
    return Dropped(segment.name, segment.bytes, len(live), sum(r.transitions for r in live))


def _dated(records: Sequence[EpisodeRecord]) -> Iterator[tuple[int, EpisodeRecord]]:
    """When episodes began [ns], in order of arrival. A clock that was set back makes none older than those before it.

    Copies keep the time of their original, whenever they were made.
    """
    latest = 0
    for record in records:
        if record.writer != COPIED:
            latest = max(latest, record.unix_ns)
        yield (record.unix_ns if record.writer == COPIED else latest), record


@contextmanager
def alone(paths: StorePaths, patience_s: float) -> Iterator[None]:
    """Hold ``seal_lock``; sealing a segment takes a moment, so wait for it."""
    deadline = time.monotonic() + patience_s
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(paths.seal_lock))
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL_S)
        yield


def _tree(folder: Path) -> int:
    return sum(_size(Path(at, name)) for at, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed meanwhile
        return 0
