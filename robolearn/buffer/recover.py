"""What to do with the log of a writer that died: keep every whole row, and say what became of the episode."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.buffer.index import EpisodeRecord, Index, LogRecord
from robolearn.buffer.log import Frame, FrameType, mapped, scan, sound_frame_after
from robolearn.buffer.rows import Tally
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import StorePaths, locked, read_schema, read_versions
from robolearn.core.types import Kind, Source


def recover(root: Path) -> list[str]:
    """Complete what dead writers of a buffer left open; return the names of those that needed it.

    Writers that live are left alone. A writer does this for its own name when it is opened.

    Raises:
        StoreError: there is no buffer, or it cannot be written.
    """
    paths, schema = StorePaths(root), read_schema(root)
    index = Index(paths.index, writable=True)
    done = []
    try:
        closed = {name for name, log in index.logs().items() if log.closed}
        left = {p.stem.rpartition("-")[0] for p in paths.logs.glob("*.log") if p.name not in closed}
        for writer in sorted(left):
            try:
                with locked(paths.lock(writer)):
                    recover_writer(paths, schema, index, writer)
                    done.append(writer)
            except BlockingIOError:
                continue  # it lives
    finally:
        index.close()
    return done


def recover_writer(paths: StorePaths, schema: Schema, index: Index, writer: str) -> None:
    """Complete what an earlier writer of this name left open. The caller holds the name's lock."""
    logs = index.logs()
    growing = {r.log: r for r in index.of_writer(writer) if r.state == "open"}
    for path in paths.logs_of(writer):
        known = logs.get(path.name)
        if known is None or not known.closed:
            _recover_log(
                path, schema, index, known or LogRecord(path.name, writer, 0, 0, closed=False), growing.get(path.name)
            )


def _recover_log(path: Path, schema: Schema, index: Index, known: LogRecord, growing: EpisodeRecord | None) -> None:
    start = known.length if growing is None else growing.offset
    data = mapped(path)
    state = Recovery(known, schema_of_log(data, path, schema), growing, end=start)
    for frame in scan(data, start):
        if not state.take(frame):
            break
    problem = _damage(data, state.end, known)
    state.finish()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)  # rows that only the page cache had
    finally:
        os.close(fd)
    with index.transaction(durable=True) as revision:
        for record in state.found:
            index.put_episode(record, revision)
        index.put_log(LogRecord(known.name, known.writer, state.end, state.end, closed=True, problem=problem))


def schema_of_log(data: memoryview, path: Path, newest: Schema) -> Schema:
    """The log may be older than the newest key."""
    header = next(scan(data), None)
    if header is None or header.type is not FrameType.HEADER:
        return newest  # nothing in it is used
    return read_versions(path.parent.parent).find(str(header.json().get("schema")))


def _damage(data: memoryview, end: int, known: LogRecord) -> str:
    """A torn tail is what a crash leaves; anything else after the last sound row is damage."""
    if end < known.synced:
        return f"damaged at byte {end}: {known.synced - end} bytes that were on disk are lost"
    after = sound_frame_after(data, end) if end < len(data) else -1
    return f"damaged at byte {end}: rows from byte {after} on are sound but not used" if after >= 0 else ""


@dataclass
class Recovery:
    """Goes through the frames after the last complete episode."""

    known: LogRecord
    schema: Schema
    growing: EpisodeRecord | None
    end: int
    found: list[EpisodeRecord] = field(default_factory=list)
    tally: Tally | None = None
    begin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.growing is not None:
            g = self.growing
            self.tally = Tally(g.uuid, g.offset, g.unix_ns)
            self.begin = {"robot": g.robot, "task": g.task, "partial": True}

    def take(self, frame: Frame) -> bool:
        """False when the frame does not belong here."""
        if frame.type is FrameType.BEGIN:
            self.finish()
            self.begin = frame.json()
            self.tally = Tally(self.begin["episode"], frame.end, self.begin["unix_ns"])
        elif frame.type is FrameType.ROW:
            if not self._row(frame):
                return False
        elif frame.type is FrameType.END and self.tally is not None:
            end = frame.json()
            self._put(success=end["success"], demo=end["demo"], recovered=False)
        self.end = frame.end
        return True

    def finish(self) -> None:
        """What has no end is cut short here."""
        if self.tally is None:
            return
        if self.tally.rows and self.begin["partial"]:
            self._put(success=False, demo=False, recovered=True)
        elif self.growing is not None and self.tally.uuid == self.growing.uuid:
            self._put(success=False, demo=False, recovered=True, state_dropped=True)
        self.tally = None

    def _row(self, frame: Frame) -> bool:
        if self.tally is None or len(frame.payload) != self.schema.row.itemsize:
            return False
        row = np.frombuffer(bytes(frame.payload), dtype=self.schema.row)[0]
        if bytes(row["episode"]).hex() != self.tally.uuid or row["index"] != self.tally.rows:
            return False
        self.tally.add(
            Kind(int(row["kind"])),
            Source(int(row["source"])),
            float(row["reward"]),
            int(row["policy_version"]),
            int(row["stamp_ns"]),
        )
        return True

    def _put(self, *, success: bool, demo: bool, recovered: bool, state_dropped: bool = False) -> None:
        if self.tally is not None:
            self.found.append(
                self.tally.record(
                    "dropped" if state_dropped else "complete",
                    writer=self.known.writer,
                    log=self.known.name,
                    robot=self.begin["robot"],
                    task=self.begin["task"],
                    demo=demo,
                    success=success,
                    recovered=recovered,
                )
            )
        self.tally = None
