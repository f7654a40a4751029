"""Leases: who may use which robot, GPU or CPU share of this host, in one SQLite file.

A resource is free, leased, suspect (its holder fell silent) or quarantined. Neither of the last two is handed on before
it is cleared. Of real hardware that is a person's act, after a look at it; of simulated robots and compute shares a
passed check does, or the certain death of the holder's process. Every grant, quarantine and clearing increases the
resource's epoch, so an older holder is refused here and, since commands carry the epoch, at the robot's driver.

Those who wait are served first come, first served; see ``placement`` and ``waiting``. Times are monotonic; leases of an
earlier boot have expired. Each operation is one transaction.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import LeaseError
from robolearn.hal import placement, waiting
from robolearn.hal.check import Finding, failures, passed
from robolearn.hal.heartbeat import Heartbeat
from robolearn.hal.lease_store import LeaseStore
from robolearn.hal.lease_types import BusyError, Hold, Lease, Request, Status, Ticket, duration
from robolearn.hal.liveness import ProcessId, is_dead
from robolearn.hal.resources import Resource
from robolearn.hal.waiting import Waiter

__all__ = ["BusyError", "Hold", "Lease", "LeaseTable", "Request", "Status", "Ticket", "Waiter", "default_path"]

_BUSY_S = 5.0
_POLL_NS = 100_000_000


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
        busy_s: float = _BUSY_S,
    ) -> None:
        """Open or create the table.

        Args:
            clock: monotonic over all processes of the host.
            me: the process that holds what is acquired here.
            dead: whether a process is certainly gone.
            busy_s: how long to wait for another writer [s].

        Raises:
            LeaseError: the file cannot be made or is not a lease table.
        """
        self.path, self.clock = path, clock or MonotonicClock()
        self.me, self._dead = me or ProcessId.current(), dead
        self._store = LeaseStore(path, self.clock, busy_s=busy_s)

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
        self._store.db.close()

    def wait_at_most(self, busy_s: float) -> None:
        """Change how long each operation waits for another writer [s]."""
        self._store.db.execute(f"PRAGMA busy_timeout = {int(busy_s * 1e3)}")

    def register(self, resource: Resource, *, transient: bool = False) -> None:
        """Make a resource known, or update its labels, capacity and health.

        Args:
            transient: it exists for this process only (a private simulated robot): its row goes when it is released,
                or when this process is gone and nobody holds it.

        Raises:
            LeaseError: it is known as another kind; or as real hardware instead of simulated, or the other way round,
                while it is not free.
        """
        with self._store.transaction():
            for known in self._store.rows(resource.id):
                old = known.resource
                same = old.simulated == resource.simulated or (known.quarantine is None and not known.holds)
                if old.kind != resource.kind or not same:
                    raise LeaseError(
                        f"{resource.id} is known as {_what(old)} ({known.state}), not as {_what(resource)}; "
                        + ("free it first" if old.kind == resource.kind else "choose another id for it")
                    )
            self._store.put(resource, self.me if transient else None)

    def status(self) -> list[Status]:
        """All resources as they are now, by id; expired holds become suspect."""
        with self._store.transaction():
            self._sweep()
            return self._store.rows()

    def queue(self) -> list[Ticket]:
        """Who waits, first come first."""
        with self._store.transaction():
            self._sweep()
            return waiting.tickets(self._store)

    def acquire(self, request: Request, *, holder: str, ttl_s: float, wait_s: float = 0.0) -> Lease:
        """Lease one resource; see ``acquire_all``."""
        return self.acquire_all([request], holder=holder, ttl_s=ttl_s, wait_s=wait_s)[0]

    def acquire_all(
        self, requests: Sequence[Request], *, holder: str, ttl_s: float, wait_s: float = 0.0
    ) -> list[Lease]:
        """Lease several resources, all or none, in the order of the requests; first come, first served.

        Args:
            holder: who asks, for people to read.
            ttl_s: time to live without heartbeat [s]; 2 suits robots that move in real time.
            wait_s: how long to wait for them [s].

        Raises:
            LeaseError: they cannot be had; the message says who holds what since when, and what to do.
        """
        if not wait_s >= 0:
            raise LeaseError(f"a lease needs wait >= 0 s, got {wait_s}")
        deadline = self.clock.now_ns() + int(wait_s * 1e9)
        with self._waiter(requests, holder, ttl_s, queues=wait_s > 0) as waiter:
            while True:
                granted = waiter.attempt()
                if not isinstance(granted, str):
                    return granted
                now = self.clock.now_ns()
                if now >= deadline:
                    waited = f" (waited {duration(wait_s)})" if wait_s else ""
                    raise LeaseError(granted + waited)
                self.clock.sleep_until_ns(min(deadline, now + _POLL_NS))

    def waiter(self, requests: Sequence[Request], *, holder: str, ttl_s: float) -> Waiter:
        """A request that can be tried again and again, without blocking, and keeps its place in the queue."""
        return self._waiter(requests, holder, ttl_s, queues=True)

    def beat(self, lease: Lease) -> None:
        """Extend a lease by its time to live.

        Raises:
            LeaseError: it has expired or was taken away; it does not come back.
        """
        with self._store.transaction():
            now = self.clock.now_ns()  # not before: the table may have kept us waiting
            changed = self._store.db.execute(
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
        with self._store.transaction():
            self._sweep()
            changed = self._store.db.execute(
                "DELETE FROM holds WHERE resource = ? AND epoch = ? AND suspect = ''", (lease.resource, lease.epoch)
            ).rowcount
            refusal = "" if changed else self._refusal(lease)
            if changed and self._store.owner(lease.resource) is not None:
                self._forget(lease.resource)
        if refusal:
            raise LeaseError(refusal)

    def quarantine(self, resource: str, why: str) -> None:
        """Take a resource out of use, from any state; whoever holds it loses it.

        Raises:
            LeaseError: no such resource.
        """
        with self._store.transaction():
            for hold in self._store.row(resource).holds:
                if not hold.suspect:
                    self._store.suspect(resource, hold.epoch, f"quarantined: {why}")
            self._store.db.execute(
                "UPDATE resources SET quarantine = ? WHERE id = ?", (why or "no reason given", resource)
            )
            self._store.next_epoch(resource)

    def clear(self, resource: str) -> None:
        """Make a suspect or quarantined resource free again: a person's act, after a look at it.

        Raises:
            LeaseError: no such resource, or somebody holds it.
        """
        with self._store.transaction():
            self._clear(resource)

    def clear_checked(self, resource: str, findings: Sequence[Finding]) -> None:
        """Make a suspect or quarantined simulated robot or compute share free again, because a check has passed.

        Raises:
            LeaseError: it is real hardware, which a person has to look at; the check failed or found out nothing; no
                such resource; somebody holds it.
        """
        with self._store.transaction():
            found = self._store.row(resource).resource
            if not _harmless(found):
                raise LeaseError(
                    f"{resource} is {_what(found)}: a person has to look at it, then: robolearn hal clear {resource}"
                )
            if not passed(findings):
                wrong = "; ".join(f"{f.name}: {f.value}" for f in failures(findings)) or "nothing was checked"
                raise LeaseError(f"{resource} is not cleared: {wrong}")
            self._clear(resource)

    def clear_if_dead(self, resource: str) -> bool:
        """Clear what dead processes held of a simulated robot or a compute share; True when it is not suspect now.

        Real hardware and quarantined resources are left as they are.
        """
        with self._store.transaction():
            self._sweep()
            status = self._store.row(resource)
            self._clear_dead(status)
            now = self._store.rows(resource)
            return not now or now[0].state not in ("suspect", "quarantined")

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

    def _waiter(self, requests: Sequence[Request], holder: str, ttl_s: float, *, queues: bool) -> Waiter:
        if not ttl_s > 0:
            raise LeaseError(f"a lease needs ttl > 0 s, got {ttl_s}")
        wish = tuple(requests)

        def attempt(ticket: int | None) -> tuple[list[Lease] | str, int | None]:
            with self._store.transaction():
                granted = self._try(wish, holder, ttl_s, ticket)
                if isinstance(granted, str) and queues:
                    return granted, waiting.keep(self._store, ticket, wish, holder, self.me)
                return granted, None

        return Waiter(attempt, self._leave)

    def _try(self, requests: tuple[Request, ...], holder: str, ttl_s: float, ticket: int | None) -> list[Lease] | str:
        """Leases for all requests, or why not now."""
        self._sweep()
        for status in self._store.rows():
            self._clear_dead(status)
        rows = self._store.rows()
        chosen = placement.choose(requests, rows, self._before(ticket, rows))
        if isinstance(chosen, str):
            hopeless = placement.never(requests, rows)
            if hopeless:
                raise LeaseError(hopeless)
            return chosen
        if ticket is not None:
            waiting.remove(self._store, ticket)
        pairs = zip(requests, chosen, strict=True)
        return [self._grant(status, request, holder, ttl_s) for request, status in pairs]

    def _before(self, ticket: int | None, rows: Sequence[Status]) -> list[Ticket]:
        """Who has waited longer. Those who wait for something this process holds do not count: it would wait for them
        while they wait for it."""
        mine = [row for row in rows if any(hold.process == self.me for hold in row.holds)]
        return [
            other
            for other in waiting.tickets(self._store)
            if (ticket is None or other.number < ticket) and not any(placement.wanted(other, row) for row in mine)
        ]

    def _leave(self, ticket: int) -> None:
        with self._store.transaction():
            waiting.remove(self._store, ticket)

    def _grant(self, status: Status, request: Request, holder: str, ttl_s: float) -> Lease:
        resource = status.resource
        amount = resource.capacity if resource.exclusive else request.amount
        lease = Lease(resource.id, self._store.next_epoch(resource.id), amount, ttl_s)
        self._store.hold(lease, holder, self.me)
        return lease

    def _sweep(self) -> None:
        """Holds that expired, or whose process is gone, become suspect; what belongs to nobody any more goes."""
        waiting.sweep(self._store, self.me, self._dead)
        for status in self._store.rows():
            name = status.resource.id
            for hold in status.holds:
                if not hold.suspect and (why := self._suspicion(hold)):
                    self._store.suspect(name, hold.epoch, why)
            owner = self._store.owner(name)
            if owner is not None and (owner.boot != self.me.boot or self._dead(owner)):
                self._forget(name)

    def _suspicion(self, hold: Hold) -> str:
        if hold.process.boot != self.me.boot:
            return "the host was restarted"
        if hold.expires_s <= 0:
            return "its holder stopped sending heartbeats"
        return "its holder's process is gone" if self._dead(hold.process) else ""

    def _clear(self, resource: str) -> None:
        self._sweep()
        status = self._store.row(resource)
        if status.resource.exclusive and status.state == "leased":
            raise LeaseError(f"cannot clear: {status.why}")
        self._store.db.execute("UPDATE resources SET quarantine = NULL WHERE id = ?", (resource,))
        self._store.db.execute("DELETE FROM holds WHERE resource = ? AND suspect <> ''", (resource,))
        self._store.next_epoch(resource)

    def _clear_dead(self, status: Status) -> None:
        resource = status.resource
        if status.quarantine is not None or not _harmless(resource):
            return
        for hold in status.holds:
            if hold.suspect and self._dead(hold.process):
                self._store.db.execute("DELETE FROM holds WHERE resource = ? AND epoch = ?", (resource.id, hold.epoch))
                self._store.next_epoch(resource.id)

    def _forget(self, resource: str) -> None:
        status = self._store.row(resource)
        if not status.holds and status.quarantine is None:
            self._store.forget(resource)

    def _refusal(self, lease: Lease) -> str:
        self._sweep()
        found = self._store.rows(lease.resource)
        if not found:
            why = "it was given back and forgotten"
        else:
            hold = next((hold for hold in found[0].holds if hold.epoch == lease.epoch), None)
            why = hold.suspect if hold else f"its epoch is {found[0].epoch} now"
        return f"the lease of {lease.resource} (epoch {lease.epoch}) is no longer held: {why}"


def _harmless(resource: Resource) -> bool:
    """Simulated robots and shares of compute: the death of a holder, or a check, says enough."""
    return resource.simulated or not resource.exclusive


def _what(resource: Resource) -> str:
    return f"a {'simulated' if resource.simulated else 'real'} {resource.kind}"
