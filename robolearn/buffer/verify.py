"""Verify: read every byte of a buffer and say what is wrong."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from robolearn.buffer.index import EpisodeRecord, Index, LogRecord
from robolearn.buffer.log import FrameType, LogReader, mapped, scan
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.core.errors import StoreError


@dataclass(frozen=True)
class Report:
    """What ``verify`` found.

    Attributes:
        problems: one line each; empty when all is well.
        episodes, rows: how many check out.
    """

    problems: list[str]
    episodes: int
    rows: int

    @property
    def ok(self) -> bool:
        """True when there is no problem."""
        return not self.problems


def verify(root: Path) -> Report:
    """Check the schema, the index, every checksum of every log, and that index and logs agree.

    Safe while others write: what they have not committed yet is left out. What a dead writer left is fine too: a torn
    tail is no damage.

    Raises:
        StoreError: there is no buffer.
    """
    paths = StorePaths(root)
    if not paths.schema.exists() and not paths.index.exists():
        raise StoreError(f"no buffer in {root}: {paths.schema.name} and {paths.index.name} are missing")
    check = _Check(paths)
    try:
        schema = read_schema(root)
        episodes, logs = _index(paths, check.problems)
    except StoreError as error:
        return Report([*check.problems, str(error)], 0, 0)
    for name in sorted(set(logs) | set(episodes)):
        check.log(name, schema, episodes.get(name, []), logs.get(name))
    return Report(check.problems, check.episodes, check.rows)


def _index(paths: StorePaths, problems: list[str]) -> tuple[dict[str, list[EpisodeRecord]], dict[str, LogRecord]]:
    """Log name -> its episodes by offset, and the logs."""
    index = Index(paths.index, writable=False)
    try:
        problems += [f"index {paths.index}: {line}" for line in index.problems()]
        by_log: dict[str, list[EpisodeRecord]] = defaultdict(list)
        with index.snapshot():
            logs = index.logs()
            for record in index.changes():
                by_log[record.log].append(record)
                if record.revision > index.revision():
                    problems.append(f"index {paths.index}: episode {record.uuid} is newer than the last change counted")
    finally:
        index.close()
    return {name: sorted(records, key=lambda r: r.offset) for name, records in by_log.items()}, logs


@dataclass
class _Check:
    paths: StorePaths
    problems: list[str] = field(default_factory=list)
    episodes: int = 0
    rows: int = 0

    def log(self, name: str, schema: Schema, episodes: list[EpisodeRecord], known: LogRecord | None) -> None:
        """Check one log against what the index says of it."""
        if known is None:
            self.problems.append(f"log {name}: has episodes in the index but is not listed there")
        elif known.problem:
            self.problems.append(f"log {name}: {known.problem}")
        if known is not None and not known.length and not episodes:
            return  # its writer died while making it
        try:
            reader = LogReader(self.paths.logs / name, schema)
        except StoreError as error:
            self.problems.append(str(error))
            return
        try:
            bad = {e.uuid for e in episodes if not self._extent(reader, e)}
        finally:
            reader.close()
        self._frames(name, episodes, bad, 0 if known is None else known.length)

    def _extent(self, reader: LogReader, record: EpisodeRecord) -> bool:
        if record.state == "dropped":
            return True
        try:
            rows = reader.rows(record.offset, 0, record.rows, record.uuid)
        except StoreError as error:
            self.problems.append(str(error))
            return False
        self.episodes += 1
        self.rows += len(rows)
        return True

    def _frames(self, name: str, episodes: list[EpisodeRecord], bad: set[str], length: int) -> None:
        """Every byte up to ``length`` must be in a sound frame, every ended episode in the index."""
        data = mapped(self.paths.logs / name)
        indexed = {e.uuid: e for e in episodes}
        position = 0
        while position < length:
            for frame in scan(data[: max(length, position)], position):
                position = frame.end
                if frame.type is FrameType.END:
                    record = indexed.get(frame.json()["episode"])
                    if record is None or record.state == "open":
                        self.problems.append(
                            f"log {name}: the episode that ends at byte {frame.start} is not in the index"
                        )
            if position >= length:
                return
            # unsound here: if an extent that was reported covers it, go on behind that
            after = next((e for e in episodes if e.offset > position), None)
            inside = next((e for e in episodes if e.uuid in bad and e.offset <= position), None)
            if inside is None:
                self.problems.append(f"log {name}: byte {position} and on fail their checksum")
            if after is None:
                return
            if inside is not None:
                bad.discard(inside.uuid)
            position = after.offset
