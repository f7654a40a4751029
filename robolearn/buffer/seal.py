"""Sealing: closed logs become segments, while others write and read."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from robolearn.buffer.check_segment import has_rows, listed_in
from robolearn.buffer.files import LogRows, fingerprint_of
from robolearn.buffer.index import EpisodeRecord, Index, LogRecord, SegmentRecord
from robolearn.buffer.log import storage_error
from robolearn.buffer.segment import remove_segment, remove_unused, write_segment
from robolearn.buffer.store import StorePaths, locked, read_versions
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.files import fsync_dir

MIN_BYTES = 64 << 20
"""Logs of one writer wait until they have so many bytes together."""
MAX_BYTES = 256 << 20
"""A segment takes no further log beyond this."""
_READ_BYTES = 8 << 20


def seal(root: Path, *, min_bytes: int = MIN_BYTES, everything: bool = False) -> list[str]:
    """Turn closed logs into segments; return the names of those made.

    Consecutive closed logs of a writer become one segment once they have ``min_bytes`` together. A crash at any moment
    leaves either the logs or the segment in charge; what it leaves lying about is removed by the next call. Rows of
    dropped episodes are left out. A log that was found damaged stays as it is until ``repair``.

    Args:
        root: directory of the buffer.
        min_bytes: smaller groups of logs wait for more.
        everything: do not wait.

    Raises:
        StoreError: another process seals this buffer, or the disk does not take it; nothing is lost.
        CorruptDataError: a log is damaged; it stays, all others are sealed.
    """
    paths, versions = StorePaths(Path(root)), read_versions(root)
    try:
        paths.segments.mkdir(exist_ok=True)
        with locked(paths.seal_lock):
            index = Index(paths.index, writable=True)
            try:
                remove_leftovers(paths, index)
                return Sealer(paths, versions, index).all(0 if everything else min_bytes)
            finally:
                index.close()
    except BlockingIOError as error:
        raise StoreError(f"buffer {root} is being sealed, pruned or repaired by another process") from error
    except OSError as error:
        raise storage_error(f"cannot seal buffer {root}", error) from error


def remove_leftovers(paths: StorePaths, index: Index) -> None:
    """Remove what a crash left: unfinished segments, dropped ones that nobody reads, and logs that were sealed.

    Hold ``seal_lock``.
    """
    known = index.segments()
    for folder in list(paths.segments.iterdir()):
        if folder.suffix == ".tmp":
            shutil.rmtree(folder)
        elif folder.name not in known:
            listed = [index.episode(uuid) for uuid in listed_in(folder)]
            if listed and all(r is not None and has_rows(paths, r) for r in listed):  # else it is no leftover: repair
                remove_segment(folder)
        elif known[folder.name].state == "dropped":
            remove_unused(folder)
    for log in index.logs().values():
        if log.closed and log.length == 0:
            _remove_log(paths, log)


def _remove_log(paths: StorePaths, log: LogRecord) -> None:
    """The newest log of a writer leaves an empty file behind, so that its number is not given out again."""
    path = paths.logs / log.name
    if path != max(paths.logs_of(log.writer), default=None):
        path.unlink(missing_ok=True)
    elif path.stat().st_size:
        stub = path.with_suffix(".sealed")  # a new file: somebody may have mapped the old one
        stub.write_bytes(b"")
        os.replace(stub, path)


@dataclass(frozen=True)
class Sealer:
    """Seals groups of logs of one buffer, whose ``seal_lock`` is held."""

    paths: StorePaths
    versions: Versions
    index: Index

    def all(self, min_bytes: int) -> list[str]:
        """Seal what there is."""
        made, damaged = [], []
        for group in self._groups():
            if sum(log.length for log in group) < min_bytes:
                continue
            try:
                made += self.seal(group)
            except CorruptDataError as error:
                damaged.append(error)
        if damaged:
            raise CorruptDataError(
                f"{damaged[0]}; this log is not sealed (repair keeps what is sound), {len(made)} segments were made"
            ) from damaged[0]
        return made

    def _groups(self) -> Iterator[list[LogRecord]]:
        """Consecutive closed logs of one writer and one schema, up to ``MAX_BYTES``."""
        logs = sorted(self.index.logs().values(), key=lambda r: (r.writer, r.name))
        for _, of_writer in groupby(logs, key=lambda r: r.writer):
            group: list[LogRecord] = []
            schema = ""
            for log in of_writer:
                if log.closed and not log.length:
                    continue
                own = self._schema_of(log) if log.closed and not log.problem else ""
                full = sum(one.length for one in group) + log.length > MAX_BYTES
                if group and (not own or own != schema or full):
                    yield group
                    group = []
                if own:
                    group.append(log)
                    schema = own
            if group:
                yield group

    def _schema_of(self, log: LogRecord) -> str:
        """Fingerprint; empty for a log whose beginning is damaged."""
        try:
            return fingerprint_of(self.paths.logs / log.name)
        except CorruptDataError:
            return ""

    def seal(self, logs: Sequence[LogRecord]) -> list[str]:
        """Make one segment of the complete episodes of ``logs``, and let the logs go; [] if there are none."""
        found = [record for log in logs for record in self.index.of_log(log.name)]
        if any(r.state == "open" for r in found):
            raise CorruptDataError(f"index: closed log {logs[0].name} or one after it has an open episode")
        kept, rows = [], 0
        for record in found:
            if record.state == "complete" and record.rows:
                kept.append(dataclasses.replace(record, first_row=rows))
                rows += record.rows
        name = Path(logs[0].name).stem
        segment = None
        if kept:
            segment = SegmentRecord(name, logs[0].writer, rows, self._write(name, logs, kept))
        try:
            self._hand_over(segment, logs, found, kept)
        except StoreError:
            if kept:
                with suppress(OSError):  # left to the next call
                    remove_segment(self.paths.segments / name)
            raise
        for log in logs:
            with suppress(OSError):  # left to the next call
                _remove_log(self.paths, log)
        return [name] if kept else []

    def _write(self, name: str, logs: Sequence[LogRecord], kept: Sequence[EpisodeRecord]) -> int:
        if (self.paths.segments / name).exists():
            raise StoreError(f"segment {name} is there already, but not in the index; repair the buffer")
        schema = self.versions.find(fingerprint_of(self.paths.logs / logs[0].name))
        tmp = self.paths.segments / f"{name}.tmp"
        size = write_segment(
            tmp, schema, writer=logs[0].writer, logs=[log.name for log in logs], episodes=kept, parts=self._parts(kept)
        )
        os.rename(tmp, self.paths.segments / name)
        fsync_dir(self.paths.segments)
        return size

    def _parts(self, records: Sequence[EpisodeRecord]) -> Iterator[NDArray[Any]]:
        """Rows of episodes as their logs have them, a few MB at a time."""
        for log, of_log in groupby(records, key=lambda r: r.log):
            reader = LogRows(self.paths.logs / log, self.versions)
            try:
                step = max(1, _READ_BYTES // reader.schema.row.itemsize)
                for record in of_log:
                    for first in range(0, record.rows, step):
                        yield reader.whole(record, first, min(step, record.rows - first))
            finally:
                reader.close()

    def _hand_over(
        self,
        segment: SegmentRecord | None,
        logs: Sequence[LogRecord],
        found: Sequence[EpisodeRecord],
        kept: Sequence[EpisodeRecord],
    ) -> None:
        """One transaction: the segment is in charge from here on."""
        places = {r.uuid: r.first_row for r in kept}
        with self.index.transaction(durable=True) as revision:
            if segment is not None:
                self.index.put_segment(segment)
            for old in found:
                now = self.index.episode(old.uuid)  # it may have been edited meanwhile
                wanted = now is not None and (now.state == "dropped" or now.uuid in places)
                if now is None or now.place != old.place or now.rows != old.rows or not wanted:
                    raise StoreError(f"episode {old.uuid} changed while it was sealed; seal again")
                sealed = segment.name if segment is not None and now.uuid in places else ""
                moved = dataclasses.replace(now, log="", offset=0, segment=sealed, first_row=places.get(now.uuid, 0))
                self.index.move_episode(moved, revision)
            for log in logs:
                self.index.put_log(LogRecord(log.name, log.writer, 0, 0, closed=True))
