"""The index: one SQLite row per episode, saying where its rows lie and what is known of it."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.buffer.bulk import collection_paused
from robolearn.buffer.log import storage_error
from robolearn.buffer.records import EpisodeRecord, LogRecord, Relabel, SegmentRecord, State
from robolearn.core.errors import CorruptDataError, StoreError

__all__ = ["EpisodeRecord", "Index", "LogRecord", "Relabel", "SegmentRecord", "State"]

_TABLES = """
CREATE TABLE IF NOT EXISTS episodes (
  id INTEGER PRIMARY KEY AUTOINCREMENT, revision INTEGER NOT NULL, checksum INTEGER NOT NULL, entry TEXT NOT NULL,
  {columns});
CREATE UNIQUE INDEX IF NOT EXISTS episodes_by_uuid ON episodes (uuid);
CREATE INDEX IF NOT EXISTS episodes_by_revision ON episodes (revision);
CREATE INDEX IF NOT EXISTS episodes_by_writer ON episodes (writer);
CREATE INDEX IF NOT EXISTS episodes_by_segment ON episodes (segment);
CREATE INDEX IF NOT EXISTS episodes_by_log ON episodes (log);
CREATE TABLE IF NOT EXISTS logs (
  name TEXT PRIMARY KEY, writer TEXT NOT NULL, length INTEGER NOT NULL, synced INTEGER NOT NULL,
  closed INTEGER NOT NULL, problem TEXT NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS segments (
  name TEXT PRIMARY KEY, writer TEXT NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL, state TEXT NOT NULL,
  checksum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS relabels (
  id INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL, field TEXT NOT NULL, first INTEGER NOT NULL,
  "values" BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS relabels_by_uuid ON relabels (uuid);
CREATE TABLE IF NOT EXISTS counter (only INTEGER PRIMARY KEY CHECK (only = 0), revision INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (0, 0);
"""
_RELABEL_DTYPES = {"reward": "<f8", "source": "u1"}

_COLUMNS = tuple(f.name for f in dataclasses.fields(EpisodeRecord) if f.name not in ("id", "revision"))
_FIELDS = (*_COLUMNS, "id", "revision")
_REWARD_AT = _COLUMNS.index("total_reward")
_NO_SPACE = 1 << 20  # where less is free, SQLite's files may not fit
_HANDLES = 4  # of SQLite at once: database, journal, shared memory, directory
_BUSY_MS = 200  # a checkpoint keeps writers waiting while it waits for readers
_AT_ONCE = 256  # entries that are read before they are parsed, while a processor's cache still holds them
_SELECT = "SELECT id, revision, checksum, entry FROM episodes"
_INSERT = (
    "INSERT INTO episodes (revision, checksum, entry) VALUES (?, ?, ?) ON CONFLICT (uuid) DO UPDATE SET "
    "revision = excluded.revision, checksum = excluded.checksum, entry = excluded.entry"
)
# an entry is one JSON array, which is read much faster than as many columns; SQLite shows them as columns all the same
_TABLES = _TABLES.replace(
    "{columns}", ", ".join(f"{c} AS (json_extract(entry, '$[{i}]')) VIRTUAL" for i, c in enumerate(_COLUMNS))
)


class Index:
    """A connection to the index. Use from one thread, and not after a fork: locks do not come along.

    Args:
        path: the database.
        writable: False for a reader.

    Raises:
        StoreError: it cannot be opened.
        CorruptDataError: it is damaged.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path = path
        self._pid, self._edited = os.getpid(), False
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
            raise _refused(f"cannot make index {path}", path, error) from error

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
                if self._db.in_transaction:  # some errors end it
                    self._db.execute("ROLLBACK")

    def put_episode(self, record: EpisodeRecord, revision: int) -> None:
        """Insert or replace (by uuid); within a transaction. An episode that is sealed stays where it is."""
        if not record.segment:
            query = "SELECT segment, first_row FROM episodes WHERE uuid = ? AND segment != ''"
            for segment, first_row in self._db.execute(query, (record.uuid,)):
                record = dataclasses.replace(record, log="", offset=0, segment=segment, first_row=first_row)
        self.move_episode(record, revision)

    def move_episode(self, record: EpisodeRecord, revision: int) -> None:
        """As ``put_episode``, and where its rows lie may change."""
        values = [getattr(record, c) for c in _COLUMNS]
        if not math.isfinite(values[_REWARD_AT]):
            values[_REWARD_AT] = str(values[_REWARD_AT])  # JSON has no such numbers
        entry = json.dumps(values, separators=(",", ":"), default=_plain)
        self._db.execute(_INSERT, (revision, _checksum_of(entry, revision), entry))

    def put_log(self, record: LogRecord) -> None:
        """Insert or replace (by name); within a transaction."""
        values = (record.name, record.writer, record.length, record.synced, record.closed, record.problem)
        self._db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, _checksum(values)))

    def put_segment(self, record: SegmentRecord) -> None:
        """Insert or replace (by name); within a transaction."""
        values = (record.name, record.writer, record.rows, record.bytes, record.state)
        self._db.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?)", (*values, _checksum(values)))

    def put_relabel(self, relabel: Relabel) -> None:
        """Add a correction; within a transaction that also counts it in the episode's record (see ``relabel.py``)."""
        values = np.asarray(relabel.values, _RELABEL_DTYPES[relabel.field]).tobytes()
        row = (relabel.uuid, relabel.field, int(relabel.first), values)
        query = 'INSERT INTO relabels (uuid, field, first, "values", checksum) VALUES (?, ?, ?, ?, ?)'
        self._db.execute(query, (*row, _checksum(row)))
        self._edited = True

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

    def of_log(self, log: str) -> list[EpisodeRecord]:
        """Episodes of one log, as they lie there."""
        return self._episodes(f"{_SELECT} WHERE log = ? ORDER BY offset", log)

    def of_segment(self, segment: str) -> list[EpisodeRecord]:
        """Episodes of one segment, as they lie there."""
        return self._episodes(f"{_SELECT} WHERE segment = ? ORDER BY first_row", segment)

    def episode(self, uuid: str) -> EpisodeRecord | None:
        """One episode, or None."""
        return next(iter(self._episodes(f"{_SELECT} WHERE uuid = ?", uuid)), None)

    def logs(self) -> dict[str, LogRecord]:
        """Log name -> what is known of it."""
        types = (str, str, int, int, int, str)
        rows = self._checked("logs", "name, writer, length, synced, closed, problem", types)
        return {r[0]: LogRecord(r[0], r[1], r[2], r[3], bool(r[4]), r[5]) for r in rows}

    def segments(self) -> dict[str, SegmentRecord]:
        """Segment name -> what is known of it."""
        rows = self._checked("segments", "name, writer, rows, bytes, state", (str, str, int, int, str))
        return {r[0]: SegmentRecord(*r) for r in rows}

    def relabels(self, uuid: str | None = None) -> list[Relabel]:
        """Corrections of one episode, or of all, in the order they were made."""
        types = (str, str, int, bytes)
        where, given = ("", ()) if uuid is None else ("WHERE uuid = ?", (uuid,))
        rows = self._checked("relabels", 'uuid, field, first, "values"', types, f"{where} ORDER BY id", given)
        return [Relabel(r[0], r[1], r[2], np.frombuffer(r[3], _RELABEL_DTYPES[r[1]])) for r in rows]

    def salvage(self) -> tuple[list[EpisodeRecord], list[Relabel]]:
        """What can still be read of a damaged index, entry by entry: episodes and corrections that are sound.

        Raises:
            StoreError: it cannot be read for another reason than damage.
        """
        episodes: list[EpisodeRecord] = []
        relabels: list[Relabel] = []
        for uuid in self._names("SELECT uuid FROM episodes"):
            with suppress(CorruptDataError):
                episodes += self._episodes(f"{_SELECT} WHERE uuid = ?", uuid)
        for uuid in self._names("SELECT DISTINCT uuid FROM relabels"):
            with suppress(CorruptDataError):
                relabels += self.relabels(uuid)
        return episodes, relabels

    def edit(
        self,
        uuid: str | Sequence[str],
        *,
        demo: bool | None = None,
        success: bool | None = None,
        tag: str | None = None,
        dropped: bool | None = None,
    ) -> None:
        """Change what may change after the fact of complete episodes, of all or none; durable on return.

        Raises:
            StoreError: there is no such episode, it is still growing, or its rows are gone and it shall come back.
        """
        with self.transaction(durable=True) as revision:
            for one in [uuid] if isinstance(uuid, str) else uuid:
                old = self.editable(one)
                if dropped is False and not old.log and not old.segment:
                    raise StoreError(f"episode {one}: its rows were removed after it was dropped; it cannot come back")
                state: State = old.state if dropped is None else ("dropped" if dropped else "complete")
                new = dataclasses.replace(
                    old,
                    demo=old.demo if demo is None else bool(demo),
                    success=old.success if success is None else bool(success),
                    tag=old.tag if tag is None else tag,
                    state=state,
                )
                self.put_episode(new, revision)
        self._edited = True

    def editable(self, uuid: str) -> EpisodeRecord:
        """An episode that has ended.

        Raises:
            StoreError: there is no such episode, or it is still growing.
        """
        record = self.episode(uuid)
        if record is None or record.state == "open":
            raise StoreError(
                f"episode {uuid}: " + ("no such episode" if record is None else "still open; edit it later")
            )
        return record

    def problems(self) -> list[str]:
        """What SQLite's own integrity check finds."""
        with self._explained("check"):
            lines = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check")]
        return [] if lines == ["ok"] else lines

    def close(self) -> None:
        """Close the connection; idempotent. In a process that was forked from the one that opened it nothing happens.

        Edits go into the database first, where damage to them is noticed: SQLite takes a damaged journal for a torn
        one, and nothing but the index knows of them.
        """
        if os.getpid() != self._pid:
            return
        if self._edited:
            self._edited = False
            with suppress(sqlite3.DatabaseError):  # they are as durable in the journal
                self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    def _episodes(self, query: str, value: Any) -> list[EpisodeRecord]:
        records: list[EpisodeRecord] = []
        with collection_paused(), self._explained("read"), closing(self._db.execute(query, (value,))) as cursor:
            while rows := cursor.fetchmany(_AT_ONCE):
                records += self._parsed(rows)
        return records

    def _parsed(self, rows: list[Any]) -> Iterator[EpisodeRecord]:
        for id_, revision, checksum, entry in rows:
            if type(entry) is not str or type(revision) is not int or _checksum_of(entry, revision) != checksum:
                raise CorruptDataError(f"index {self.path}: episode number {id_} fails its checksum")
        entries = json.loads(f"[{','.join([row[3] for row in rows])}]")
        return map(_record, rows, entries)

    def _names(self, query: str) -> list[str]:
        """First column, as far as it can be read."""
        names: list[str] = []
        with suppress(CorruptDataError), self._explained("read"):
            for row in self._db.execute(query):
                names.append(row[0])
        return names

    def _checked(
        self, table: str, columns: str, types: tuple[type, ...], where: str = "", given: tuple[Any, ...] = ()
    ) -> list[tuple[Any, ...]]:
        """Rows of a table whose last column is the checksum of the others."""
        with self._explained("read"):
            rows = self._db.execute(f"SELECT {columns}, checksum FROM {table} {where}", given).fetchall()
        for row in rows:
            if tuple(type(v) for v in row[:-1]) != types or _checksum(row[:-1]) != row[-1]:
                raise CorruptDataError(f"index {self.path}: an entry of {table} fails its checksum: {row[0]!s:.80}")
        return [row[:-1] for row in rows]

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """SQLite's errors as ours."""
        if os.getpid() != self._pid:
            raise StoreError(
                f"index {self.path} was opened by process {self._pid} and came here (process {os.getpid()}) by a fork; "
                "open the buffer here"
            )
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if _is_damage(error):
                raise CorruptDataError(f"index {self.path} is damaged: {error}") from error
            raise _refused(f"cannot {doing} index {self.path}", self.path, error) from error


def _is_damage(error: Exception) -> bool:
    """Whether the data is to blame. What the system refuses, or who is busy, says nothing of it."""
    if not isinstance(error, sqlite3.OperationalError):
        return True
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # no code: no UTF-8
    return bool(code == sqlite3.SQLITE_ERROR)  # tables or columns are not what they were


def _refused(what: str, path: Path, error: Exception) -> StoreError:
    """A StoreError with SQLite's words, and the system's reason, which SQLite keeps to itself."""
    reason = _reason(path, error)
    return storage_error(f"{what}: {error}", reason) if reason else StoreError(f"{what}: {error}")


def _reason(path: Path, error: Exception) -> OSError | None:
    """Why the system did not let SQLite do something, as far as can be found out.

    The index is not opened for that: closing it would let go of the locks that SQLite holds on it in this process.
    """
    folder, code, number = path.parent, getattr(error, "sqlite_errorcode", 0) & 0xFF, 0
    try:
        if code == sqlite3.SQLITE_FULL:
            number = errno.ENOSPC
        elif code == sqlite3.SQLITE_IOERR:
            disk = os.statvfs(folder)
            number = errno.ENOSPC if disk.f_bavail * disk.f_frsize < _NO_SPACE else 0
        elif code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            with ExitStack() as stack:
                for _ in range(_HANDLES):
                    stack.callback(os.close, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                number = errno.EROFS
            elif not (os.access(folder, os.W_OK | os.X_OK) and (os.access(path, os.W_OK) or not path.exists())):
                number = errno.EACCES
    except OSError as found:
        return found
    return OSError(number, os.strerror(number)) if number else None


def _record(row: tuple[Any, ...], values: list[Any]) -> EpisodeRecord:
    """Made without the slow constructor of a frozen dataclass: there may be a hundred thousand of them."""
    record = EpisodeRecord.__new__(EpisodeRecord)
    values[_REWARD_AT] = float(values[_REWARD_AT])
    values += row[:2]
    record.__dict__.update(zip(_FIELDS, values, strict=True))
    return record


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's."""
    return value.item()


def _checksum_of(entry: str, revision: int) -> int:
    """CRC-32 over an entry: SQLite itself would not notice a flipped bit in a value."""
    return zlib.crc32(entry.encode(), revision & 0xFFFFFFFF)


def _checksum(values: tuple[Any, ...]) -> int:
    """CRC-32 over the columns of an entry: SQLite itself would not notice a flipped bit in a value."""
    plain = tuple(int(v) if isinstance(v, bool) else v for v in values)  # as SQLite gives them back
    return zlib.crc32(repr(plain).encode())


def _connect(path: Path, writable: bool) -> sqlite3.Connection:
    if not path.is_file():
        raise StoreError(f"cannot open index {path}: no such file")
    db = sqlite3.connect(path, isolation_level=None, timeout=30.0)
    try:
        if not writable:
            db.execute("PRAGMA query_only = 1")
        db.execute("SELECT revision FROM counter").fetchone()
    except sqlite3.OperationalError as error:
        db.close()
        wal, reason = path.with_name(f"{path.name}-wal"), None if writable else _reason(path, error)
        if reason is None or reason.errno not in (errno.EROFS, errno.EACCES):
            raise
        if wal.exists() and wal.stat().st_size:
            raise StoreError(
                f"cannot open index {path}: {wal.name} has changes to take in, which needs a writable directory"
            ) from error
        # a read-only directory: SQLite cannot make its shared-memory file, and nobody can be writing either
        db = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True, isolation_level=None)
    except BaseException:
        db.close()
        raise
    return db
