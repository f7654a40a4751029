"""The SQLite file behind the lease table: its schema, its versions, its transactions and its rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from robolearn.core.clock import Clock
from robolearn.core.errors import LeaseError, suggest
from robolearn.hal.lease_types import BusyError, Hold, Lease, Status
from robolearn.hal.liveness import ProcessId, who_locks
from robolearn.hal.resources import Resource

VERSION = 2
_RESERVED = 0x40000001
"""The byte of the file that SQLite's writer has locked."""
_FIRST = """
CREATE TABLE resources (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, labels TEXT NOT NULL, capacity REAL NOT NULL, simulated INTEGER NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0, quarantine TEXT
) STRICT;
CREATE TABLE holds (
    resource TEXT NOT NULL REFERENCES resources (id), epoch INTEGER NOT NULL, amount REAL NOT NULL,
    holder TEXT NOT NULL, boot TEXT NOT NULL, space TEXT NOT NULL, pid INTEGER NOT NULL, started INTEGER NOT NULL,
    since_ns INTEGER NOT NULL, expires_ns INTEGER NOT NULL, suspect TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (resource, epoch)
) STRICT;
"""
# Private robots of version 1 lay in the table for ever; their ids end in the path of a run directory.
_SECOND = """
ALTER TABLE resources ADD COLUMN health TEXT NOT NULL DEFAULT 'ok';
ALTER TABLE resources ADD COLUMN unusable TEXT NOT NULL DEFAULT '';
ALTER TABLE resources ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE TABLE floor (epoch INTEGER NOT NULL) STRICT;
INSERT INTO floor SELECT COALESCE(MAX(epoch), 0) FROM resources;
CREATE TABLE waiting (
    ticket INTEGER PRIMARY KEY AUTOINCREMENT, requests TEXT NOT NULL,
    holder TEXT NOT NULL, boot TEXT NOT NULL, space TEXT NOT NULL, pid INTEGER NOT NULL, started INTEGER NOT NULL,
    since_ns INTEGER NOT NULL, expires_ns INTEGER NOT NULL
) STRICT;
DELETE FROM resources WHERE simulated = 1 AND kind = 'robot' AND id LIKE '%:/%' AND quarantine IS NULL
    AND NOT EXISTS (SELECT 1 FROM holds WHERE holds.resource = resources.id);
"""
_STEPS = (_FIRST, _SECOND)
"""What turns each version of the file into the next."""


class LeaseStore:
    """The file; one object per thread. Methods that change something are called inside a ``transaction``."""

    def __init__(self, path: Path, clock: Clock, *, busy_s: float) -> None:
        """Open or create the file.

        Args:
            busy_s: how long to wait for another writer [s].

        Raises:
            LeaseError: the file cannot be made, is no lease table or one of a later version.
        """
        self.path, self.clock = path, clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise LeaseError(
                f"cannot open the lease table {path}: {error}; set ROBOLEARN_STATE to a writable directory"
            ) from error
        try:
            self._upgrade()
        except BaseException:
            self.db.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One writer at a time; everything or nothing.

        Raises:
            BusyError: another writer did not finish in time.
        """
        try:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise self._busy(error) from error

    def rows(self, resource: str = "") -> list[Status]:
        """All resources, or one, by id."""
        where, values = (" WHERE id = ?", (resource,)) if resource else ("", ())
        found: dict[str, Status] = {}
        for name, kind, labels, capacity, simulated, health, unusable, epoch, quarantine in self.db.execute(
            "SELECT id, kind, labels, capacity, simulated, health, unusable, epoch, quarantine"
            f" FROM resources{where} ORDER BY id",
            values,
        ):
            item = Resource(name, kind, json.loads(labels), capacity, bool(simulated), health, unusable)
            found[name] = Status(item, epoch, quarantine, ())
        now = self.clock.now_ns()
        for row in self.db.execute(
            "SELECT resource, epoch, amount, holder, boot, space, pid, started, since_ns, expires_ns, suspect"
            " FROM holds ORDER BY resource, epoch"
        ):
            if row[0] in found:
                hold = Hold(
                    epoch=row[1],
                    amount=row[2],
                    holder=row[3],
                    process=ProcessId(*row[4:8]),
                    held_s=(now - row[8]) * 1e-9,
                    expires_s=(row[9] - now) * 1e-9,
                    suspect=row[10],
                )
                found[row[0]] = replace(found[row[0]], holds=(*found[row[0]].holds, hold))
        return list(found.values())

    def row(self, resource: str) -> Status:
        """One resource.

        Raises:
            LeaseError: it is not known; the message names the nearest.
        """
        found = self.rows(resource)
        if not found:
            have = (row[0] for row in self.db.execute("SELECT id FROM resources"))
            raise LeaseError(f"unknown resource '{resource}'{suggest(resource, have)}")
        return found[0]

    def put(self, resource: Resource, owner: ProcessId | None) -> None:
        """Insert or update a resource; with an ``owner`` it is forgotten once nobody has it."""
        text = "" if owner is None else json.dumps((owner.boot, owner.space, owner.pid, owner.started))
        values = (
            resource.id,
            resource.kind,
            json.dumps(dict(resource.labels), sort_keys=True),
            resource.capacity,
            int(resource.simulated),
            resource.health,
            resource.unusable,
            text,
            resource.seen_epoch,
        )
        self.db.execute(
            "INSERT INTO resources (id, kind, labels, capacity, simulated, health, unusable, owner, epoch)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, max(?, (SELECT epoch FROM floor)))"
            " ON CONFLICT (id) DO UPDATE SET labels = excluded.labels, capacity = excluded.capacity,"
            " simulated = excluded.simulated, health = excluded.health, unusable = excluded.unusable,"
            " owner = excluded.owner, epoch = max(epoch, excluded.epoch)",
            values,
        )

    def owner(self, resource: str) -> ProcessId | None:
        """Who registered a transient resource; None for a lasting or an unknown one."""
        row = self.db.execute("SELECT owner FROM resources WHERE id = ?", (resource,)).fetchone()
        return ProcessId(*json.loads(row[0])) if row and row[0] else None

    def next_epoch(self, resource: str) -> int:
        """Increase the epoch of a resource; returns the new one."""
        self.db.execute("UPDATE resources SET epoch = epoch + 1 WHERE id = ?", (resource,))
        (epoch,) = self.db.execute("SELECT epoch FROM resources WHERE id = ?", (resource,)).fetchone()
        return int(epoch)

    def hold(self, lease: Lease, holder: str, me: ProcessId) -> None:
        """Write down who has a lease from now on."""
        now = self.clock.now_ns()
        process = (me.boot, me.space, me.pid, me.started)
        self.db.execute(
            "INSERT INTO holds (resource, epoch, amount, holder, boot, space, pid, started, since_ns, expires_ns)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (lease.resource, lease.epoch, lease.amount, holder, *process, now, now + int(lease.ttl_s * 1e9)),
        )

    def suspect(self, resource: str, epoch: int, why: str) -> None:
        """Write down that a holder cannot be trusted any more."""
        self.db.execute("UPDATE holds SET suspect = ? WHERE resource = ? AND epoch = ?", (why, resource, epoch))

    def forget(self, resource: str) -> None:
        """Remove a resource that nobody holds. Should it come back, its epochs go on where they were, or higher."""
        self.db.execute("UPDATE floor SET epoch = MAX(epoch, (SELECT epoch FROM resources WHERE id = ?))", (resource,))
        self.db.execute("DELETE FROM resources WHERE id = ?", (resource,))

    def _upgrade(self) -> None:
        try:
            version = self._version()
            if version < VERSION:
                with self.transaction():
                    version = self._version()  # again: another process may have been faster
                    for script in _STEPS[version:]:
                        for statement in filter(str.strip, script.split(";")):
                            self.db.execute(statement)
                    version = max(version, VERSION)
                    self.db.execute(f"PRAGMA user_version = {version}")
        except sqlite3.OperationalError as error:
            raise self._busy(error) from error
        except sqlite3.DatabaseError as error:
            raise LeaseError(f"{self.path} is not a lease table ({error}); move it away") from error
        if version != VERSION:
            raise LeaseError(
                f"{self.path} has lease table version {version}, this robolearn knows {VERSION}; "
                "use one version of robolearn on a host, or another ROBOLEARN_STATE"
            )

    def _busy(self, error: sqlite3.OperationalError) -> BusyError:
        who = who_locks(self.path, _RESERVED)
        return BusyError(f"the lease table {self.path} cannot be used now: {error}" + (f"; {who}" if who else ""))

    def _version(self) -> int:
        (version,) = self.db.execute("PRAGMA user_version").fetchone()
        return int(version)
