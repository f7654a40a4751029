"""The queue: who waits for what since when.

A place belongs to a living waiter that is heard of: it is given up when its process is gone or has been silent for
``TICKET_S``, so that a stopped waiter holds nobody up; when it wakes, it is back where it was.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import TracebackType

from robolearn.hal.lease_store import LeaseStore
from robolearn.hal.lease_types import BusyError, Lease, Request, Ticket
from robolearn.hal.liveness import ProcessId

TICKET_S = 2.0
"""For how long a waiter may be silent [s]."""

Attempt = Callable[["int | None"], tuple["list[Lease] | str", "int | None"]]
"""Takes the ticket one has (None: none yet); gives the leases or why not, and the ticket one has then."""


class Waiter:
    """A request in the queue. Call ``attempt`` at least every ``TICKET_S`` to keep the place; a context manager."""

    def __init__(self, attempt: Attempt, leave: Callable[[int], None]) -> None:
        """Prepare; the first ``attempt`` takes a place if it does not succeed."""
        self._attempt, self._leave = attempt, leave
        self.ticket: int | None = None

    def attempt(self) -> list[Lease] | str:
        """The leases, all of them, or why they cannot be had now.

        Raises:
            LeaseError: they can never be had.
        """
        granted, self.ticket = self._attempt(self.ticket)
        return granted

    def leave(self) -> None:
        """Give up the place; nothing happens without one."""
        if self.ticket is not None:
            with contextlib.suppress(BusyError):  # it expires by itself
                self._leave(self.ticket)
            self.ticket = None

    def __enter__(self) -> Waiter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


def tickets(store: LeaseStore) -> list[Ticket]:
    """The queue, first come first."""
    now = store.clock.now_ns()
    return [
        Ticket(
            number=row[0],
            requests=tuple(Request(**request) for request in json.loads(row[1])),
            holder=row[2],
            process=ProcessId(*row[3:7]),
            waited_s=(now - row[7]) * 1e-9,
            expires_s=(row[8] - now) * 1e-9,
        )
        for row in store.db.execute(
            "SELECT ticket, requests, holder, boot, space, pid, started, since_ns, expires_ns"
            " FROM waiting ORDER BY ticket"
        )
    ]


def sweep(store: LeaseStore, me: ProcessId, dead: Callable[[ProcessId], bool]) -> None:
    """Drop the places of those who are gone or silent."""
    for ticket in tickets(store):
        if ticket.process.boot != me.boot or ticket.expires_s <= 0 or dead(ticket.process):
            remove(store, ticket.number)


def keep(store: LeaseStore, number: int | None, requests: Sequence[Request], holder: str, me: ProcessId) -> int:
    """Take a place, or say that one is still there; also one that was given up meanwhile. Returns its number."""
    now = store.clock.now_ns()
    expires = now + int(TICKET_S * 1e9)
    if number is not None:
        row = store.db.execute("SELECT expires_ns FROM waiting WHERE ticket = ?", (number,)).fetchone()
        if row is not None:
            # Written when half of it is over, not at every attempt: each write is a sync of the disk.
            if row[0] - now < TICKET_S * 0.5e9:
                store.db.execute("UPDATE waiting SET expires_ns = ? WHERE ticket = ?", (expires, number))
            return number
    text = json.dumps([asdict(request) for request in requests])
    cursor = store.db.execute(
        "INSERT INTO waiting (ticket, requests, holder, boot, space, pid, started, since_ns, expires_ns)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (number, text, holder, me.boot, me.space, me.pid, me.started, now, expires),
    )
    return int(cursor.lastrowid or 0)


def remove(store: LeaseStore, number: int) -> None:
    """Give up a place."""
    store.db.execute("DELETE FROM waiting WHERE ticket = ?", (number,))
