"""The words of leasing: what is asked for, what is held, and how it is told to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from robolearn.core.errors import LeaseError
from robolearn.hal.liveness import ProcessId
from robolearn.hal.resources import Resource


class BusyError(LeaseError):
    """The table could not be reached just now; trying again may help."""


@dataclass(frozen=True)
class Request:
    """What somebody wants.

    Attributes:
        kind: kind of resource.
        id: one particular resource; empty for any that matches.
        labels: labels it must have.
        amount: how much of a shared resource; an exclusive one is always taken whole.
    """

    kind: str
    id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    amount: float = 1.0


@dataclass
class Lease:
    """The right to use a resource until it expires; ``epoch`` goes with every command.

    Attributes:
        resource: id of the resource.
        epoch: strictly increasing per resource.
        amount: share that is held.
        ttl_s: time to live after each heartbeat [s].
        lost: why the lease is no longer held; empty while it is.
    """

    resource: str
    epoch: int
    amount: float
    ttl_s: float
    lost: str = ""


@dataclass(frozen=True)
class Hold:
    """Somebody's hold on a resource; times in seconds from now (``expires_s`` may be negative)."""

    epoch: int
    amount: float
    holder: str
    process: ProcessId
    held_s: float
    expires_s: float
    suspect: str


@dataclass(frozen=True)
class Ticket:
    """A place in the queue.

    Attributes:
        number: order of arrival; never given twice.
        requests: what is waited for, all or nothing.
        holder: who waits, for people to read.
        process: the process that waits.
        waited_s: for how long [s].
        expires_s: when the place is given up unless the waiter is heard of [s] from now.
    """

    number: int
    requests: tuple[Request, ...]
    holder: str
    process: ProcessId
    waited_s: float
    expires_s: float


@dataclass(frozen=True)
class Status:
    """A row for people: state ``free``, ``leased``, ``suspect``, ``quarantined`` or ``unusable``, and why."""

    resource: Resource
    epoch: int
    quarantine: str | None
    holds: tuple[Hold, ...]

    @property
    def free(self) -> float:
        """What is left to lease."""
        if self.quarantine is not None or self.resource.unusable or (self.resource.exclusive and self.holds):
            return 0.0
        return max(0.0, self.resource.capacity - sum(hold.amount for hold in self.holds))

    @property
    def state(self) -> str:
        """One word."""
        if self.quarantine is not None:
            return "quarantined"
        if any(hold.suspect for hold in self.holds):
            return "suspect"
        if self.holds:
            return "leased"
        return "unusable" if self.resource.unusable else "free"

    @property
    def why(self) -> str:
        """Why it cannot be had (whole) now, and what to do; empty when it is free."""
        name = self.resource.id
        mend = f"check it, then: robolearn hal clear {name}"
        if self.quarantine is not None:
            return f"{name} is quarantined ({self.quarantine}); {mend}"
        told = [f"{name} cannot be used: {self.resource.unusable}"] if self.resource.unusable else []
        for hold in self.holds:
            who = f"{hold.holder} (pid {hold.process.pid}) since {duration(hold.held_s)}"
            if hold.suspect:
                told.append(f"{name} is suspect, held by {who}: {hold.suspect}; {mend}")
            else:
                share = "" if self.resource.exclusive else f"{hold.amount:g} of {self.resource.capacity:g} "
                told.append(f"{share}{name} is held by {who}; wait for it with --wait SECONDS")
        return "; ".join(told)


def duration(seconds: float) -> str:
    """A time span for people; a negative one belongs to another boot's clock."""
    if seconds < 0:
        return "an earlier boot"
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
