"""The episodes of one writer as they go into its logs, one log at a time. Nothing here waits for the disk."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from robolearn.buffer.index import EpisodeRecord, Index, State
from robolearn.buffer.log import FrameType, LogReader, LogWriter, json_frame
from robolearn.buffer.rows import RowPacker, Tally, first_row, unpack
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import StorePaths
from robolearn.core.errors import StoreError
from robolearn.core.types import Transition

OpenLog = Callable[[Path, Schema, str], LogWriter]


@dataclass
class OpenEpisode:
    """The episode being written, as the caller knows it, and the part of it that is open.

    Attributes:
        id: the caller's id.
        tally, log: of the present part.
        begun: row of the caller's episode that is row 0 of the present part.
        parts: ids of the parts split off before.
        head: row 0 of the next part, when the present one has ended but the next has not begun.
    """

    id: str
    tally: Tally
    log: LogWriter
    begun: int = 0
    parts: list[str] = field(default_factory=list)
    head: Transition | None = None

    @property
    def rows(self) -> int:
        """Rows the caller has appended."""
        return self.begun + self.tally.rows


@dataclass(frozen=True)
class Origin:
    """What a writer writes into every episode.

    Attributes:
        writer, robot, task: names.
        partial: an episode that a crash cuts short is kept.
    """

    writer: str
    robot: str
    task: str
    partial: bool


class EpisodeLog:
    """Appends episodes to the newest log of a writer.

    Args:
        paths, schema: of the buffer.
        origin: what goes into every episode.
        newest: number of the writer's newest log.
        unix_ns: wall-clock time [ns].
        open_log: makes log files.

    Attributes:
        log: the open log; None before the first episode and after ``close``.
        episode: the one being written, or None.
        ended_at: where the last episode of the log that has ended ends [bytes].
        rows, bytes: appended so far.
    """

    def __init__(
        self,
        paths: StorePaths,
        schema: Schema,
        origin: Origin,
        newest: int,
        unix_ns: Callable[[], int],
        open_log: OpenLog,
    ) -> None:
        self._paths, self._schema, self._origin = paths, schema, origin
        self._unix_ns, self._open_log = unix_ns, open_log
        self._packer = RowPacker(schema)
        self._number = newest
        self.log: LogWriter | None = None
        self.episode: OpenEpisode | None = None
        self.ended_at = self.rows = self.bytes = 0

    @property
    def unsynced(self) -> int:
        """Bytes appended that a power cut could take."""
        return 0 if self.log is None else self.log.offset - self.log.synced

    def begin(self, first: Transition, check: Callable[[str], None]) -> None:
        """Write row 0 of a new episode; ``check`` may refuse its id.

        Raises:
            StoreError, SpecError: as ``Writer.append``.
        """
        check_episode_id(first.episode)
        frame = self._packer.pack(first)
        check(first.episode)
        episode = self.episode = OpenEpisode(first.episode, *self._announce(first.episode))
        self._put(frame, first, episode)

    def append(self, t: Transition, episode: OpenEpisode) -> None:
        """Write the next row of the open episode.

        Raises:
            StoreError, SpecError: as ``Writer.append``.
        """
        if episode.begun:
            frame = self._packer.pack(t, episode=episode.tally.uuid, index=t.index - episode.begun)
        else:
            frame = self._packer.pack(t)
        self._put(frame, t, episode)

    def check(self, t: Transition) -> None:
        """Raises SpecError if the row does not fit the schema."""
        self._packer.pack(t)

    def end(self, episode: OpenEpisode, *, success: bool, demo: bool) -> EpisodeRecord:
        """Write the end of the present part; its final entry of the index."""
        tally = episode.tally
        episode.log.append(json_frame(FrameType.END, {"episode": tally.uuid, "success": success, "demo": demo}))
        self.ended_at = episode.log.offset
        return self.record("complete", episode, success=success, demo=demo)

    def end_part(self, episode: OpenEpisode) -> EpisodeRecord:
        """End the present part as truncated, and prepare the next one."""
        tally = episode.tally
        reader = LogReader(episode.log.path, self._schema)
        try:
            last = unpack(reader.rows(tally.offset, tally.rows - 1, 1, tally.uuid)[0], self._schema)
        finally:
            reader.close()
        record = self.end(episode, success=False, demo=False)
        episode.parts.append(tally.uuid)
        episode.head = first_row(last, uuid.uuid5(uuid.UUID(episode.id), str(len(episode.parts))).hex)
        return record

    def begin_part(self, episode: OpenEpisode) -> None:
        """Begin the next part, in a new log."""
        head = episode.head
        if head is None:
            raise StoreError(f"episode {episode.id}: a part has to end before the next one begins")
        tally, log = self._announce(head.episode, continues=episode.parts[-1])
        part = OpenEpisode(episode.id, tally, log)
        self._put(self._packer.pack(head), head, part)
        episode.begun, episode.tally, episode.log, episode.head = episode.rows - 1, tally, log, None

    def record(self, state: State, episode: OpenEpisode, *, success: bool, demo: bool) -> EpisodeRecord:
        """Index entry of the present part."""
        o = self._origin
        return episode.tally.record(
            state, writer=o.writer, log=episode.log.path.name, robot=o.robot, task=o.task, demo=demo, success=success
        )

    def close(self) -> None:
        """Close the log, without syncing it."""
        if self.log is not None:
            self.log.close()
            self.log = None

    def _announce(self, name: str, **more: str) -> tuple[Tally, LogWriter]:
        """Write the beginning of an episode into the log; into a new one if there is none."""
        if self.log is None:
            path = self._paths.log(self._origin.writer, self._number + 1)
            self.log = self._open_log(path, self._schema, self._origin.writer)
            self._number += 1
            self.ended_at = self.log.offset
        o, tally = self._origin, Tally(name, 0, self._unix_ns())
        begin = {"episode": name, "robot": o.robot, "task": o.task, "unix_ns": tally.unix_ns, "partial": o.partial}
        self.log.append(json_frame(FrameType.BEGIN, {**begin, **more}))
        return tally, self.log

    def _put(self, frame: bytearray, t: Transition, episode: OpenEpisode) -> None:
        start, tally = episode.log.append(frame), episode.tally
        if tally.rows == 0:
            tally.offset = start
        tally.add(t.kind, t.source, t.reward, t.policy_version, t.stamp_ns)
        self.rows += 1
        self.bytes += len(frame)


def check_episode_id(episode: str) -> None:
    """An id is 16 bytes in hex.

    Raises:
        StoreError: it is not.
    """
    try:
        good = len(bytes.fromhex(episode)) == 16 and episode == episode.lower()
    except ValueError:
        good = False
    if not good or len(episode) != 32:
        raise StoreError(f"episode id '{episode}': expected 32 lower-case hex digits (uuid.uuid4().hex)")


def last_number(paths: StorePaths, index: Index, writer: str) -> int:
    """Number of a writer's newest log, on disk or (it may have been sealed) only in the index; 0 for none."""
    names = [p.stem for p in paths.logs_of(writer)]
    names += [Path(log.name).stem for log in index.logs().values() if log.writer == writer]
    return max((int(name.rpartition("-")[2]) for name in names), default=0)
