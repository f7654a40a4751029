"""Verify: read every byte of a buffer and say what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from robolearn.buffer.check_segment import SegmentCheck, has_rows, listed_in
from robolearn.buffer.files import fingerprint_of
from robolearn.buffer.index import EpisodeRecord, Index, LogRecord, SegmentRecord
from robolearn.buffer.log import FrameType, LogReader, mapped, scan
from robolearn.buffer.store import StorePaths, read_versions
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError

_READ_BYTES = 32 << 20


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
    """Check the schema, the index, every byte of every log and segment, and that they agree.

    Safe while others write and seal: what they have not committed yet is left out, what moves is checked where it
    arrives. What a dead writer or sealer left is fine too: a torn tail is no damage.

    Raises:
        StoreError: there is no buffer.
    """
    paths = StorePaths(Path(root))
    if not paths.schema.exists() and not paths.index.exists():
        raise StoreError(f"no buffer in {root}: {paths.schema.name} and {paths.index.name} are missing")
    problems: list[str] = []
    try:
        check = _Check(paths, read_versions(root), problems)
        seen = look(paths, problems)
        check.all(seen)
        if unknown := unknown_segments(paths, look(paths, [])):
            later = unknown_segments(paths, look(paths, []))  # not what was sealed between looking at index and files
            problems += (p for p in unknown if p in later)
    except StoreError as error:
        return Report([*problems, str(error)], 0, 0)
    return Report(problems, len(check.sound), sum(check.sound.values()))


@dataclass
class Seen:
    """The index at one moment. Episodes of a log or segment are in the order in which they lie."""

    logs: dict[str, LogRecord]
    segments: dict[str, SegmentRecord]
    by_log: dict[str, list[EpisodeRecord]] = field(default_factory=lambda: defaultdict(list))
    by_segment: dict[str, list[EpisodeRecord]] = field(default_factory=lambda: defaultdict(list))
    gone: list[EpisodeRecord] = field(default_factory=list)  # dropped, rows removed


def look(paths: StorePaths, problems: list[str]) -> Seen:
    """Read and check the index."""
    index = Index(paths.index, writable=False)
    try:
        problems += [f"index {paths.index}: {line}" for line in index.problems()]
        with index.snapshot():
            seen = Seen(index.logs(), index.segments())
            relabels = Counter(r.uuid for r in index.relabels())
            revision = index.revision()
            records = index.changes()
    finally:
        index.close()
    for record in records:
        if record.segment:
            seen.by_segment[record.segment].append(record)
        elif record.log:
            seen.by_log[record.log].append(record)
        elif record.state == "dropped":
            seen.gone.append(record)
        else:
            problems.append(f"index {paths.index}: episode {record.uuid} lies nowhere")
        if record.revision > revision:
            problems.append(f"index {paths.index}: episode {record.uuid} is newer than the last change counted")
        if relabels.pop(record.uuid, 0) != record.relabels:
            problems.append(f"index {paths.index}: corrections of episode {record.uuid} are missing")
    problems += [f"index {paths.index}: corrections of episode {uuid}, which is not there" for uuid in relabels]
    for by in (seen.by_log, seen.by_segment):
        for of_one in by.values():
            of_one.sort(key=lambda r: (r.offset, r.first_row))
    return seen


def unknown_segments(paths: StorePaths, seen: Seen) -> list[str]:
    """Segments the index does not know, with rows that are nowhere else. What a crash leaves has none of those."""
    known = {r.uuid: r for by in (seen.by_log, seen.by_segment) for records in by.values() for r in records}
    known |= {r.uuid: r for r in seen.gone}
    problems = []
    for folder in paths.segments.iterdir() if paths.segments.is_dir() else ():
        if folder.suffix == ".tmp" or folder.name in seen.segments:
            continue
        listed = set(listed_in(folder))
        if not listed <= known.keys():
            problems.append(f"segment {folder.name} is not in the index, and has episodes that are not either")
        elif not all(has_rows(paths, known[uuid]) for uuid in listed):
            problems.append(f"segment {folder.name} is not in the index, which has its episodes where they are no more")
    return problems


@dataclass
class _Check:
    paths: StorePaths
    versions: Versions
    problems: list[str]
    sound: dict[str, int] = field(default_factory=dict)  # uuid -> rows

    def all(self, seen: Seen) -> None:
        """Check everything; what moved meanwhile is looked for again."""
        done: set[str] = set()
        while True:
            moved = False
            for name in sorted(seen.logs.keys() | seen.by_log.keys()):
                if f"log {name}" not in done:
                    done.add(f"log {name}")
                    moved |= self._unless_moved(name, self._log_problems(name, seen))
            for name in sorted(seen.segments.keys() | seen.by_segment.keys()):
                if f"segment {name}" not in done:
                    done.add(f"segment {name}")
                    moved |= self._unless_moved(name, self._segment_problems(name, seen))
            if not moved:
                return
            seen = look(self.paths, [])

    def _unless_moved(self, name: str, problems: list[str]) -> bool:
        """Keep problems of a log or segment, except those of one that was sealed or pruned meanwhile."""
        if not problems:
            return False
        index = Index(self.paths.index, writable=False)
        try:
            log, segment = index.logs().get(name), index.segments().get(name)
        finally:
            index.close()
        if (log is not None and _is_sealed(log)) or (segment is not None and segment.state == "dropped"):
            return True
        self.problems += problems
        return False

    def _segment_problems(self, name: str, seen: Seen) -> list[str]:
        known = seen.segments.get(name)
        if known is None:
            return [f"segment {name}: has episodes in the index but is not listed there"]
        episodes = seen.by_segment.get(name, [])
        if known.state == "dropped":
            return [
                f"segment {name}: was pruned, but episode {e.uuid} was not" for e in episodes if e.state != "dropped"
            ]
        check = SegmentCheck(self.paths.segments / name, self.versions, (known, episodes))
        self.sound |= check.sound
        return check.problems

    def _log_problems(self, name: str, seen: Seen) -> list[str]:
        check = LogCheck(self.paths, self.versions, self.sound)
        check.log(name, seen.by_log.get(name, []), seen.logs.get(name))
        return check.problems


def _is_sealed(log: LogRecord) -> bool:
    return log.closed and log.length == 0


@dataclass
class LogCheck:
    """Checks one log."""

    paths: StorePaths
    versions: Versions
    sound: dict[str, int]
    problems: list[str] = field(default_factory=list)
    unreadable: list[StoreError] = field(default_factory=list)  # errors that say nothing of the data

    def log(self, name: str, episodes: list[EpisodeRecord], known: LogRecord | None) -> None:
        """Check one log against what the index says of it."""
        if known is None:
            self.problems.append(f"log {name}: has episodes in the index but is not listed there")
        elif known.problem:
            self.problems.append(f"log {name}: {known.problem}")
        if known is not None and not known.length and not episodes:
            return  # it was sealed, or its writer died while making it
        try:
            path = self.paths.logs / name
            reader = LogReader(path, self.versions.find(fingerprint_of(path)))
            try:
                bad = {e.uuid for e in episodes if not self._extent(reader, e)}
            finally:
                reader.close()
            self._frames(name, episodes, bad, 0 if known is None else known.length)
        except StoreError as error:
            self._note(error)

    def _extent(self, reader: LogReader, record: EpisodeRecord) -> bool:
        if record.state == "dropped":
            return True
        step = max(1, _READ_BYTES // reader.stride)
        try:
            for first in range(0, record.rows, step):
                reader.rows(record.offset, first, min(step, record.rows - first), record.uuid)
        except StoreError as error:
            self._note(error)
            return False
        self.sound[record.uuid] = record.rows
        return True

    def _note(self, error: StoreError) -> None:
        self.problems.append(str(error))
        if not isinstance(error, CorruptDataError):
            self.unreadable.append(error)

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
