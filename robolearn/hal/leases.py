"""Leases: who may use which robot, GPU or CPU share of this host, in one SQLite file.

A resource is free, leased, suspect (its holder fell silent) or quarantined. Neither of the last two is handed on before
it is cleared, which is a person's act; only for simulated robots and compute shares does the certain death of the
holder's process suffice. Every grant, quarantine and clearing increases the resource's epoch, so an older holder is
refused here and, since commands carry the epoch, at the robot's driver. Times are monotonic; leases of an earlier boot
have expired. Each operation is one transaction.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import LeaseError, suggest
from robolearn.hal import placement
from robolearn.hal.heartbeat import Heartbeat
from robolearn.hal.lease_types import BusyError, Hold, Lease, Request, Status, duration
from robolearn.hal.liveness import ProcessId, is_dead
from robolearn.hal.resources import Resource

__all__ = ["BusyError", "Hold", "Lease", "LeaseTable", "Request", "Status", "default_path"]

_VERSION = 1
_BUSY_S = 5.0
_POLL_NS = 100_000_000
_SCHEMA = """
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


def default_path() -> Path:
    """``$ROBOLEARN_STATE/leases.db``, else ``$XDG_STATE_HOME/robolearn/HOST/leases.db``, else below ``~/.local/state``.

    Home directories are often shared by many hosts, and of another host's processes nothing can be known here.
    """
    state = os.environ.get("ROBOLEARN_STATE")
    if state:
        return Path(state) / "leases.db"
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "robolearn" / socket.gethostname() / "leases.db"


class LeaseTable:
    """The table; one object per thread. Use as a context manager or ``close`` it."""

    def __init__(
        self,
        path: Path,
        clock: Clock | None = None,
        *,
        me: ProcessId | None = None,
        dead: Callable[[ProcessId], bool] = is_dead,
    ) -> None:
        """Open or create the table.

        Args:
            clock: monotonic over all processes of the host.
            me: the process that holds what is acquired here.
            dead: whether a process is certainly gone.

        Raises:
            LeaseError: the file cannot be made or is not a lease table.
        """
        self.path, self.clock = path, clock or MonotonicClock()
        self.me, self._dead = me or ProcessId.current(), dead
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise LeaseError(
                f"cannot open the lease table {path}: {error}; set ROBOLEARN_STATE to a writable directory"
            ) from error
        try:
            self._create()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def default(cls) -> LeaseTable:
        """The table of this user on this host; see ``default_path``."""
        return cls(default_path())

    def __enter__(self) -> LeaseTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what is held stays held."""
        self._db.close()

    def register(self, resource: Resource) -> None:
        """Make a resource known, or update its labels and capacity.

        Raises:
            LeaseError: it is known as another kind, or as real hardware instead of simulated.
        """
        with self._transaction():
            known = self._rows(resource.id)
            if known and (known[0].resource.kind, known[0].resource.simulated) != (resource.kind, resource.simulated):
                old = known[0].resource
                raise LeaseError(
                    f"{resource.id} is known as {_what(old)}, not as {_what(resource)}; choose another id for it"
                )
            self._db.execute(
                "INSERT INTO resources (id, kind, labels, capacity, simulated) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET labels = excluded.labels, capacity = excluded.capacity",
                (
                    resource.id,
                    resource.kind,
                    json.dumps(dict(resource.labels), sort_keys=True),
                    resource.capacity,
                    int(resource.simulated),
                ),
            )

    def status(self) -> list[Status]:
        """All resources as they are now, by id; expired holds become suspect."""
        with self._transaction():
            self._sweep()
            return self._rows()

    def acquire(self, request: Request, *, holder: str, ttl_s: float, wait_s: float = 0.0) -> Lease:
        """Lease one resource; see ``acquire_all``."""
        return self.acquire_all([request], holder=holder, ttl_s=ttl_s, wait_s=wait_s)[0]

    def acquire_all(
        self, requests: Sequence[Request], *, holder: str, ttl_s: float, wait_s: float = 0.0
    ) -> list[Lease]:
        """Lease several resources, all or none, in the order of the requests.

        Args:
            holder: who asks, for people to read.
            ttl_s: time to live without heartbeat [s].
            wait_s: how long to wait for them [s].

        Raises:
            LeaseError: they cannot be had; the message says who holds what since when, and what to do.
        """
        if not ttl_s > 0 or not wait_s >= 0:
            raise LeaseError(f"a lease needs ttl > 0 s and wait >= 0 s, got {ttl_s} and {wait_s}")
        deadline = self.clock.now_ns() + int(wait_s * 1e9)
        while True:
            granted = self._try(requests, holder, ttl_s)
            if not isinstance(granted, str):
                return granted
            now = self.clock.now_ns()
            if now >= deadline:
                waited = f" (waited {duration(wait_s)})" if wait_s else ""
                raise LeaseError(granted + waited)
            self.clock.sleep_until_ns(min(deadline, now + _POLL_NS))

    def beat(self, lease: Lease) -> None:
        """Extend a lease by its time to live.

        Raises:
            LeaseError: it has expired or was taken away; it does not come back.
        """
        now = self.clock.now_ns()
        with self._transaction():
            changed = self._db.execute(
                "UPDATE holds SET expires_ns = ?"
                " WHERE resource = ? AND epoch = ? AND suspect = '' AND boot = ? AND expires_ns > ?",
                (now + int(lease.ttl_s * 1e9), lease.resource, lease.epoch, self.me.boot, now),
            ).rowcount
            refusal = "" if changed else self._refusal(lease)
        if refusal:
            raise LeaseError(refusal)

    def release(self, lease: Lease) -> None:
        """Give a lease back.

        Raises:
            LeaseError: it is no longer held.
        """
        with self._transaction():
            self._sweep()
            changed = self._db.execute(
                "DELETE FROM holds WHERE resource = ? AND epoch = ? AND suspect = ''", (lease.resource, lease.epoch)
            ).rowcount
            refusal = "" if changed else self._refusal(lease)
        if refusal:
            raise LeaseError(refusal)

    def quarantine(self, resource: str, why: str) -> None:
        """Take a resource out of use, from any state; whoever holds it loses it.

        Raises:
            LeaseError: no such resource.
        """
        with self._transaction():
            self._require(resource)
            self._db.execute("UPDATE resources SET quarantine = ? WHERE id = ?", (why or "no reason given", resource))
            self._db.execute(
                "UPDATE holds SET suspect = ? WHERE resource = ? AND suspect = ''", (f"quarantined: {why}", resource)
            )
            self._next_epoch(resource)

    def clear(self, resource: str) -> None:
        """Make a suspect or quarantined resource free again: a person's act, after a look at it.

        Raises:
            LeaseError: no such resource, or somebody holds it.
        """
        with self._transaction():
            self._sweep()
            status = self._require(resource)
            if status.resource.exclusive and status.state == "leased":
                raise LeaseError(f"cannot clear: {status.why}")
            self._db.execute("UPDATE resources SET quarantine = NULL WHERE id = ?", (resource,))
            self._db.execute("DELETE FROM holds WHERE resource = ? AND suspect <> ''", (resource,))
            self._next_epoch(resource)

    def clear_if_dead(self, resource: str) -> bool:
        """Clear what dead processes held of a simulated robot or a compute share; True when it is not suspect now.

        Real hardware and quarantined resources are left as they are.
        """
        with self._transaction():
            self._sweep()
            self._clear_dead(self._require(resource))
            return self._require(resource).state in ("free", "leased")

    @contextmanager
    def lease(
        self,
        requests: Sequence[Request],
        *,
        holder: str,
        ttl_s: float = 10.0,
        wait_s: float = 0.0,
        on_lost: Callable[[Lease], None] | None = None,
    ) -> Iterator[list[Lease]]:
        """Hold resources for a block of code, with a heartbeat thread; see ``acquire_all``.

        A lease that is lost has ``lost`` set and, if given, ``on_lost`` is called from the heartbeat thread.
        """
        leases = self.acquire_all(requests, holder=holder, ttl_s=ttl_s, wait_s=wait_s)

        def again() -> LeaseTable:
            return LeaseTable(self.path, self.clock, me=self.me, dead=self._dead)

        try:
            with Heartbeat(again, leases, on_lost=on_lost):
                yield leases
        finally:
            for lease in leases:
                if not lease.lost:
                    try:
                        self.release(lease)
                    except LeaseError as error:
                        lease.lost = str(error)

    def _create(self) -> None:
        try:
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                with self._transaction():
                    (version,) = self._db.execute("PRAGMA user_version").fetchone()
                    if version == 0:
                        for statement in filter(str.strip, _SCHEMA.split(";")):
                            self._db.execute(statement)
                        self._db.execute(f"PRAGMA user_version = {_VERSION}")
                        version = _VERSION
        except sqlite3.OperationalError as error:
            raise BusyError(f"the lease table {self.path} cannot be used now: {error}") from error
        except sqlite3.DatabaseError as error:
            raise LeaseError(f"{self.path} is not a lease table ({error}); move it away") from error
        if version != _VERSION:
            raise LeaseError(
                f"{self.path} has lease table version {version}, this robolearn knows {_VERSION}; "
                "use one version of robolearn on a host, or another ROBOLEARN_STATE"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One writer at a time; everything or nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise BusyError(f"the lease table {self.path} cannot be used now: {error}") from error

    def _try(self, requests: Sequence[Request], holder: str, ttl_s: float) -> list[Lease] | str:
        """Leases for all requests, or why not."""
        with self._transaction():
            self._sweep()
            for status in self._rows():
                self._clear_dead(status)
            rows = self._rows()
            chosen = placement.choose(requests, rows)
            if isinstance(chosen, str):
                return chosen
            return [
                self._grant(status, request, holder, ttl_s) for request, status in zip(requests, chosen, strict=True)
            ]

    def _grant(self, status: Status, request: Request, holder: str, ttl_s: float) -> Lease:
        resource, now, me = status.resource, self.clock.now_ns(), self.me
        epoch = self._next_epoch(resource.id)
        amount = resource.capacity if resource.exclusive else request.amount
        self._db.execute(
            "INSERT INTO holds (resource, epoch, amount, holder, boot, space, pid, started, since_ns, expires_ns)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (resource.id, epoch, amount, holder, me.boot, me.space, me.pid, me.started, now, now + int(ttl_s * 1e9)),
        )
        return Lease(resource.id, epoch, amount, ttl_s)

    def _sweep(self) -> None:
        """Holds that expired, or whose process is gone, become suspect."""
        for status in self._rows():
            for hold in status.holds:
                if hold.suspect:
                    continue
                if hold.process.boot != self.me.boot:
                    why = "the host was restarted"
                elif hold.expires_s <= 0:
                    why = "its holder stopped sending heartbeats"
                elif self._dead(hold.process):
                    why = "its holder's process is gone"
                else:
                    continue
                self._db.execute(
                    "UPDATE holds SET suspect = ? WHERE resource = ? AND epoch = ?",
                    (why, status.resource.id, hold.epoch),
                )

    def _clear_dead(self, status: Status) -> None:
        resource = status.resource
        if status.quarantine is not None or not (resource.simulated or not resource.exclusive):
            return
        for hold in status.holds:
            if hold.suspect and self._dead(hold.process):
                self._db.execute("DELETE FROM holds WHERE resource = ? AND epoch = ?", (resource.id, hold.epoch))
                self._next_epoch(resource.id)

    def _next_epoch(self, resource: str) -> int:
        self._db.execute("UPDATE resources SET epoch = epoch + 1 WHERE id = ?", (resource,))
        (epoch,) = self._db.execute("SELECT epoch FROM resources WHERE id = ?", (resource,)).fetchone()
        return int(epoch)

    def _refusal(self, lease: Lease) -> str:
        self._sweep()
        status = self._require(lease.resource)
        hold = next((hold for hold in status.holds if hold.epoch == lease.epoch), None)
        why = hold.suspect if hold else f"its epoch is {status.epoch} now"
        return f"the lease of {lease.resource} (epoch {lease.epoch}) is no longer held: {why}"

    def _require(self, resource: str) -> Status:
        found = self._rows(resource)
        if not found:
            have = (row[0] for row in self._db.execute("SELECT id FROM resources"))
            raise LeaseError(f"unknown resource '{resource}'{suggest(resource, have)}")
        return found[0]

    def _rows(self, resource: str = "") -> list[Status]:
        where, values = (" WHERE id = ?", (resource,)) if resource else ("", ())
        found: dict[str, Status] = {}
        for name, kind, labels, capacity, simulated, epoch, quarantine in self._db.execute(
            f"SELECT id, kind, labels, capacity, simulated, epoch, quarantine FROM resources{where} ORDER BY id", values
        ):
            item = Resource(name, kind, json.loads(labels), capacity, bool(simulated))
            found[name] = Status(item, epoch, quarantine, ())
        now = self.clock.now_ns()
        for row in self._db.execute(
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


def _what(resource: Resource) -> str:
    return f"a {'simulated' if resource.simulated else 'real'} {resource.kind}"
