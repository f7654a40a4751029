"""The index: one SQLite row per episode, saying where its rows lie and what is known of it."""

from __future__ import annotations

import dataclasses
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robolearn.core.errors import CorruptDataError, StoreError

State = Literal["open", "complete", "dropped"]

_TABLES = """
CREATE TABLE IF NOT EXISTS episodes (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  uuid TEXT NOT NULL UNIQUE, writer TEXT NOT NULL, log TEXT NOT NULL, offset INTEGER NOT NULL, rows INTEGER NOT NULL,
  state TEXT NOT NULL, robot TEXT NOT NULL, task TEXT NOT NULL, source TEXT NOT NULL, demo INTEGER NOT NULL,
  success INTEGER NOT NULL, interventions INTEGER NOT NULL, total_reward REAL NOT NULL, policy_min INTEGER NOT NULL,
  policy_max INTEGER NOT NULL, truncated INTEGER NOT NULL, recovered INTEGER NOT NULL, first_stamp_ns INTEGER NOT NULL,
  last_stamp_ns INTEGER NOT NULL, unix_ns INTEGER NOT NULL, tag TEXT NOT NULL,
  checksum INTEGER NOT NULL, revision INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS episodes_by_revision ON episodes (revision);
CREATE INDEX IF NOT EXISTS episodes_by_writer ON episodes (writer);
CREATE TABLE IF NOT EXISTS logs (
  name TEXT PRIMARY KEY, writer TEXT NOT NULL, length INTEGER NOT NULL, synced INTEGER NOT NULL,
  closed INTEGER NOT NULL, problem TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counter (only INTEGER PRIMARY KEY CHECK (only = 0), revision INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (0, 0);
"""


@dataclass(frozen=True)
class EpisodeRecord:
    """What the index knows of an episode.

    Attributes:
        uuid: unique id (hex).
        writer, log, offset, rows: where its rows lie: ``rows`` frames from byte ``offset`` of ``logs/<log>``.
        state: ``open`` while it grows, ``complete``, or ``dropped`` (kept on disk, never read again).
        robot, task: what it was recorded with.
        source: who executed most of its steps (``policy``, ``human``, ``script``, ``safety``).
        demo: a demonstration; editable later.
        success: the task was solved; editable later.
        interventions: steps executed by a human.
        total_reward: sum of rewards.
        policy_min, policy_max: versions of the weights that acted.
        truncated: did not end in a terminal state; also set when a crash cut it short.
        recovered: its writer died before it ended.
        first_stamp_ns, last_stamp_ns: monotonic stamps of its first and last row [ns].
        unix_ns: wall-clock time at its start [ns].
        tag: free text; editable later.
        id, revision: given by the index: order of arrival, and number of the last change to it.
    """

    uuid: str
    writer: str
    log: str
    offset: int
    rows: int
    state: State
    robot: str
    task: str
    source: str
    demo: bool
    success: bool
    interventions: int
    total_reward: float
    policy_min: int
    policy_max: int
    truncated: bool
    recovered: bool
    first_stamp_ns: int
    last_stamp_ns: int
    unix_ns: int
    tag: str = ""
    id: int = 0
    revision: int = 0

    @property
    def transitions(self) -> int:
        """Steps: one less than rows."""
        return max(self.rows - 1, 0)


@dataclass(frozen=True)
class LogRecord:
    """What the index knows of a log.

    Attributes:
        length: bytes that are accounted for; what follows is a torn tail, or still being written.
        synced: bytes known to be on disk.
        closed: nothing will be appended any more.
        problem: damage found when it was closed after a crash; empty if none.
    """

    name: str
    writer: str
    length: int
    synced: int
    closed: bool
    problem: str = ""


_COLUMNS = tuple(f.name for f in dataclasses.fields(EpisodeRecord) if f.name not in ("id", "revision"))
_BOOLS = frozenset(("demo", "success", "truncated", "recovered"))
_BOOL_AT = tuple(i for i, name in enumerate(_COLUMNS) if name in _BOOLS)
_SELECT = f"SELECT {', '.join(_COLUMNS)}, id, revision, checksum FROM episodes"
_INSERT = (
    f"INSERT INTO episodes ({', '.join(_COLUMNS)}, checksum, revision) VALUES ({', '.join('?' * (len(_COLUMNS) + 2))}) "
    "ON CONFLICT (uuid) DO UPDATE SET "
    + ", ".join(f"{c} = excluded.{c}" for c in (*_COLUMNS[1:], "checksum", "revision"))
)


class Index:
    """A connection to the index. Use from one thread; open after a fork, never before.

    Args:
        path: the database.
        writable: False for a reader.

    Raises:
        StoreError: it cannot be opened.
        CorruptDataError: it is damaged.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path = path
        with self._explained("open"):
            self._db = _connect(path, writable)

    @classmethod
    def create(cls, path: Path) -> None:
        """Make an empty index."""
        try:
            db = sqlite3.connect(path, isolation_level=None)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.executescript("BEGIN; " + _TABLES + "COMMIT;")
            finally:
                db.close()
        except sqlite3.Error as error:
            raise StoreError(f"cannot make index {path}: {error}") from error

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[int]:
        """All or nothing; yields the revision of the changes made within.

        With ``durable`` they survive a power cut on return, else only a kill of the process.
        """
        with self._explained("write"):
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute("UPDATE counter SET revision = revision + 1")
                yield self.revision()
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read within belongs together, whatever others write meanwhile."""
        with self._explained("read"):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    def put_episode(self, record: EpisodeRecord, revision: int) -> None:
        """Insert or replace (by uuid); within a transaction."""
        values = tuple(getattr(record, c) for c in _COLUMNS)
        self._db.execute(_INSERT, (*values, _checksum(values), revision))

    def put_log(self, record: LogRecord) -> None:
        """Insert or replace (by name); within a transaction."""
        values = (record.name, record.writer, record.length, record.synced, record.closed, record.problem)
        self._db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?, ?, ?)", values)

    def revision(self) -> int:
        """Number of the last change; a reader that has seen it is up to date."""
        with self._explained("read"):
            row = self._db.execute("SELECT revision FROM counter").fetchone()
        if row is None or not isinstance(row[0], int):
            raise CorruptDataError(f"index {self.path}: the count of changes is damaged")
        return row[0]

    def changes(self, since: int = -1) -> list[EpisodeRecord]:
        """Episodes changed after revision ``since``, in order of arrival."""
        return self._episodes(f"{_SELECT} WHERE revision > ? ORDER BY id", since)

    def of_writer(self, writer: str) -> list[EpisodeRecord]:
        """Episodes of one writer, in order of arrival."""
        return self._episodes(f"{_SELECT} WHERE writer = ? ORDER BY id", writer)

    def episode(self, uuid: str) -> EpisodeRecord | None:
        """One episode, or None."""
        return next(iter(self._episodes(f"{_SELECT} WHERE uuid = ?", uuid)), None)

    def logs(self) -> dict[str, LogRecord]:
        """Name -> log."""
        with self._explained("read"):
            rows = self._db.execute("SELECT name, writer, length, synced, closed, problem FROM logs").fetchall()
        for row in rows:
            if [type(v) for v in row] != [str, str, int, int, int, str]:
                raise CorruptDataError(f"index {self.path}: the entry of log {row[0]} is damaged")
        return {row[0]: LogRecord(row[0], row[1], row[2], row[3], bool(row[4]), row[5]) for row in rows}

    def edit(
        self,
        uuid: str,
        *,
        demo: bool | None = None,
        success: bool | None = None,
        tag: str | None = None,
        dropped: bool | None = None,
    ) -> None:
        """Change what may change after the fact of a complete episode; durable on return.

        Raises:
            StoreError: there is no such episode, or it is still growing.
        """
        with self.transaction(durable=True) as revision:
            old = self.episode(uuid)
            if old is None or old.state == "open":
                raise StoreError(
                    f"episode {uuid}: " + ("no such episode" if old is None else "still open; edit it later")
                )
            state: State = old.state if dropped is None else ("dropped" if dropped else "complete")
            new = dataclasses.replace(
                old,
                demo=old.demo if demo is None else demo,
                success=old.success if success is None else success,
                tag=old.tag if tag is None else tag,
                state=state,
            )
            self.put_episode(new, revision)

    def problems(self) -> list[str]:
        """What SQLite's own integrity check finds."""
        with self._explained("check"):
            lines = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check")]
        return [] if lines == ["ok"] else lines

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._db.close()

    def _episodes(self, query: str, value: Any) -> list[EpisodeRecord]:
        with self._explained("read"):
            rows = self._db.execute(query, (value,)).fetchall()
        return [self._record(row) for row in rows]

    def _record(self, row: tuple[Any, ...]) -> EpisodeRecord:
        values, (id_, revision, checksum) = list(row[:-3]), row[-3:]
        for i in _BOOL_AT:
            values[i] = bool(values[i])
        if _checksum(tuple(values)) != checksum or not (isinstance(id_, int) and isinstance(revision, int)):
            raise CorruptDataError(f"index {self.path}: episode number {id_} fails its checksum")
        return EpisodeRecord(**dict(zip(_COLUMNS, values, strict=True)), id=id_, revision=revision)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreError(f"cannot {doing} index {self.path}: {error}") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise CorruptDataError(f"index {self.path} is damaged: {error}") from error


def _checksum(values: tuple[Any, ...]) -> int:
    """CRC-32 over an episode's columns: SQLite itself would not notice a flipped bit in a value."""
    return zlib.crc32(repr(values).encode())


def _connect(path: Path, writable: bool) -> sqlite3.Connection:
    if not path.is_file():
        raise sqlite3.OperationalError("no such file")
    db = sqlite3.connect(path, isolation_level=None, timeout=30.0)
    try:
        if not writable:
            db.execute("PRAGMA query_only = 1")
        db.execute("SELECT revision FROM counter").fetchone()
    except sqlite3.OperationalError as error:
        db.close()
        wal = path.with_name(f"{path.name}-wal")
        if writable or ("readonly" not in str(error) and "unable to open" not in str(error)):
            raise
        if wal.exists() and wal.stat().st_size:
            raise sqlite3.OperationalError(
                f"{wal.name} has changes to take in, which needs a writable directory"
            ) from error
        # a read-only directory: SQLite cannot make its shared-memory file, and nobody can be writing either
        db = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True, isolation_level=None)
    except BaseException:
        db.close()
        raise
    return db
