"""Repair: keep what is sound of a damaged buffer, in a form that ``verify`` finds nothing wrong with."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from robolearn.buffer.check_segment import SegmentCheck, lacking
from robolearn.buffer.index import EpisodeRecord, Index, LogRecord, SegmentRecord
from robolearn.buffer.log import FrameType, json_frame, mapped, scan, storage_error
from robolearn.buffer.rebuild import rebuild_index
from robolearn.buffer.recover import recover_writer
from robolearn.buffer.schema import FORMAT
from robolearn.buffer.seal import Sealer, remove_leftovers
from robolearn.buffer.segment import SegmentReader, segment_attributes, write_segment
from robolearn.buffer.store import StorePaths, free_place, locked, read_versions
from robolearn.buffer.verify import LogCheck, Seen, look, unknown_segments
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.files import fsync_dir, write_atomic

_READ_BYTES = 8 << 20
_LACKS = "is not in the index"


def repair(root: Path) -> list[str]:
    """Make a damaged buffer sound again; return what was done, one line each; [] if there was nothing to do.

    Damaged episodes become ``dropped``, with the reason as their tag; what only cannot be read now (no permission, no
    file handle) is no damage. A damaged index is made again from segments and logs. The sound episodes of damaged logs
    and segments move into new segments. Nothing is deleted: files that were damaged are kept in the folder ``damaged``
    of the buffer.

    Raises:
        StoreError: somebody is writing, a file cannot be read, or the disk does not take it. Call again.
        CorruptDataError: the schema is damaged; take ``schema.json`` from a copy or another buffer of the same schema.
    """
    paths, versions = StorePaths(Path(root)), read_versions(root)
    with ExitStack() as stack:
        try:
            paths.segments.mkdir(exist_ok=True)
            stack.enter_context(locked(paths.seal_lock))
            for writer in sorted({p.stem.rpartition("-")[0] for p in paths.logs.glob("*.log")}):
                stack.enter_context(locked(paths.lock(writer)))
            return _Repair(paths, versions).run()
        except BlockingIOError as error:
            raise StoreError(f"buffer {root} is being written, sealed or repaired; stop that and call again") from error
        except OSError as error:
            raise storage_error(f"cannot repair buffer {root}", error) from error


@dataclass
class _Repair:
    paths: StorePaths
    versions: Versions
    told: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Index first, then logs and segments."""
        for path in sorted(self.paths.logs.glob("*.log")):
            self._header(path)
        if not self._index_is_sound():
            self.told += rebuild_index(self.paths, self.versions)
        index = Index(self.paths.index, writable=True)
        try:
            remove_leftovers(self.paths, index)
            for writer in sorted({p.stem.rpartition("-")[0] for p in self.paths.logs.glob("*.log")}):
                recover_writer(self.paths, self.versions.newest, index, writer)
            seen = look(self.paths, [])
            for name in sorted(seen.logs.keys() | seen.by_log.keys()):
                self._log(index, name, seen)
            for name, known in sorted(seen.segments.items()):
                if known.state == "live":
                    self._segment(index, known, seen.by_segment.get(name, []))
        finally:
            index.close()
        return self.told

    def _index_is_sound(self) -> bool:
        """Also says no when a log or segment has what the index lacks.

        Raises:
            StoreError: it cannot be read for another reason than damage.
        """
        if not self.paths.index.is_file():
            return False
        problems: list[str] = []
        try:
            seen = look(self.paths, problems)
        except CorruptDataError:
            return False
        problems += unknown_segments(self.paths, seen)
        for name in seen.logs.keys() | seen.by_log.keys():
            check = LogCheck(self.paths, self.versions, {})
            check.log(name, seen.by_log.get(name, []), seen.logs.get(name))
            problems += (p for p in check.problems if _LACKS in p or "not listed" in p)
        for name in seen.by_segment.keys() - seen.segments.keys():
            problems.append(f"segment {name} is not listed")
        for name, segment in seen.segments.items():
            if segment.state == "live":
                problems += lacking(self.paths.segments / name, seen.by_segment.get(name, []))
        return not problems

    def _header(self, path: Path) -> None:
        """A log whose first frame alone is damaged gets it again: it follows from schema and writer."""
        data = mapped(path)
        if not len(data) or next(scan(data), None) is not None:
            return
        writer = path.stem.rpartition("-")[0]
        for schema in reversed(self.versions.schemas):
            head = json_frame(
                FrameType.HEADER,
                {"format": FORMAT, "writer": writer, "schema": schema.fingerprint, "row_bytes": schema.row.itemsize},
            )
            rows = (f for f in scan(data, len(head)) if f.type is FrameType.ROW)
            first = next(rows, None)
            if first is not None and len(first.payload) == schema.row.itemsize:
                self._keep(path)
                write_atomic(path, bytes(head) + bytes(data[len(head) :]))
                self.told.append(f"log {path.name}: its damaged beginning was made again")
                return

    def _log(self, index: Index, name: str, seen: Seen) -> None:
        """Drop what is damaged in a log, and seal the rest."""
        sound: dict[str, int] = {}
        check = LogCheck(self.paths, self.versions, sound)
        known = seen.logs.get(name)
        check.log(name, seen.by_log.get(name, []), known)
        _raise_first(check.unreadable)
        if not check.problems or known is None:
            return
        self.told += check.problems
        path = self.paths.logs / name
        if path.exists():
            self._keep(path)
        reason = f"repair: damaged in log {name}"
        with index.transaction(durable=True) as revision:
            for record in index.of_log(name):
                if record.uuid not in sound and record.state != "dropped":
                    index.move_episode(dataclasses.replace(record, state="dropped", tag=reason), revision)
                    self.told.append(f"episode {record.uuid}: dropped, damaged in log {name}")
        if sound:
            Sealer(self.paths, self.versions, index).seal([known])
            return
        with index.transaction(durable=True) as revision:
            for record in index.of_log(name):
                index.move_episode(dataclasses.replace(record, log="", offset=0), revision)
            index.put_log(LogRecord(name, known.writer, 0, 0, closed=True))
        remove_leftovers(self.paths, index)

    def _segment(self, index: Index, known: SegmentRecord, episodes: list[EpisodeRecord]) -> None:
        """Move what is sound in a damaged segment to a new one."""
        path = self.paths.segments / known.name
        check = SegmentCheck(path, self.versions, (known, episodes))
        _raise_first(check.unreadable)
        if not check.problems:
            return
        self.told += check.problems
        new, kept = self._rewritten(path, known, episodes)
        places = {r.uuid: r for r in kept}
        reason = f"repair: damaged in segment {known.name}"
        if path.exists():  # before the index lets it go: what it has let go may be removed at any time
            shutil.copytree(path, self.paths.aside(path), copy_function=_link)
        with index.transaction(durable=True) as revision:
            if new is not None:
                index.put_segment(new)
            for record in episodes:
                if record.uuid in places:
                    moved = places[record.uuid]
                else:
                    dropped = record.state != "dropped"
                    moved = dataclasses.replace(
                        record, segment="", first_row=0, state="dropped", tag=reason if dropped else record.tag
                    )
                    if dropped:
                        self.told.append(f"episode {record.uuid}: dropped, damaged in segment {known.name}")
                index.move_episode(moved, revision)
            index.put_segment(dataclasses.replace(known, state="dropped"))
        remove_leftovers(self.paths, index)

    def _rewritten(
        self, path: Path, known: SegmentRecord, episodes: list[EpisodeRecord]
    ) -> tuple[SegmentRecord | None, list[EpisodeRecord]]:
        """A new segment with the sound episodes of a damaged one, and their new places."""
        for reader in self._readers(path, known, episodes):
            try:
                kept, rows = [], 0
                for record in episodes:
                    if record.state != "dropped" and _is_sound(reader, record):
                        kept.append(record)
                if not kept:
                    continue
                new = free_place(self.paths.segments / known.name).name
                placed = []
                for record in kept:
                    placed.append(dataclasses.replace(record, segment=new, first_row=rows))
                    rows += record.rows
                tmp = self.paths.segments / f"{new}.tmp"
                size = write_segment(
                    tmp, reader.schema, writer=known.writer, logs=reader.logs, episodes=placed,
                    parts=(part for record in kept for part in _parts(reader, record)),
                )  # fmt: skip
                os.rename(tmp, self.paths.segments / new)
                fsync_dir(self.paths.segments)
                return SegmentRecord(new, known.writer, rows, size), placed
            finally:
                reader.close()
        return None, []

    def _readers(self, path: Path, known: SegmentRecord, episodes: list[EpisodeRecord]) -> Iterator[SegmentReader]:
        """Ways to read a damaged segment: as it says itself, else as the index says, under each schema."""
        ways: Iterable[dict[str, Any] | None] = [
            None,
            *(segment_attributes(s, known.writer, known.rows, [], []) for s in reversed(self.versions.schemas)),
        ]
        for way in ways:
            try:
                yield SegmentReader(path, self.versions, attributes=way)
            except CorruptDataError:
                continue

    def _keep(self, path: Path) -> None:
        """A copy of a damaged file, for people."""
        shutil.copyfile(path, self.paths.aside(path))


def _link(source: str, target: str) -> None:
    """Another name for the same file, which takes no space; a copy where a file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _raise_first(errors: list[StoreError]) -> None:
    if errors:
        raise errors[0]


def _is_sound(reader: SegmentReader, record: EpisodeRecord) -> bool:
    try:
        for _ in _parts(reader, record):
            pass
    except CorruptDataError:
        return False
    return True


def _parts(reader: SegmentReader, record: EpisodeRecord) -> Iterator[NDArray[Any]]:
    step = max(1, _READ_BYTES // reader.schema.row.itemsize)
    for first in range(0, record.rows, step):
        yield reader.whole(record, first, min(step, record.rows - first))
