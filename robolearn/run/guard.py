"""Whether a process may move the robot it was given: its lease is held, and who holds it is awake."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import LeaseError
from robolearn.hal.lease_types import BusyError
from robolearn.hal.leases import LeaseTable

_POLL_NS = 20_000_000
_PATIENCE = 0.5
"""Share of the time to live after which a silent holder is not trusted: its lease cannot have expired yet."""


@dataclass(frozen=True)
class Grant:
    """A leased robot on its way to the process that drives it.

    Attributes:
        robot: ``DRIVER`` or ``DRIVER:INSTANCE``.
        resource: id in the lease table.
        epoch: goes with every command.
        ttl_s: time to live of the lease without heartbeat [s].
        shared: it exists once; a private simulated copy needs no guard.
    """

    robot: str
    resource: str
    epoch: int
    ttl_s: float
    shared: bool

    def to_json(self) -> str:
        """For an environment variable or a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Grant | None:
        """Inverse of ``to_json``; None for an empty text."""
        return cls(**json.loads(text)) if text else None


class Guard:
    """Lets a process act while the holder of its robot's lease is awake, and makes it hold still while that is not.

    A holder that is stopped (SIGSTOP, Ctrl-Z) or starved sends no heartbeats: its lease runs out and somebody else may
    get the robot. When it is back, the lease table says whether the robot is still ours.
    """

    def __init__(
        self,
        grant: Grant | None,
        alive_ns: Callable[[], int] | None = None,
        *,
        on_event: Callable[..., None] = lambda *_, **__: None,
        open_table: Callable[[], LeaseTable] = LeaseTable.default,
        clock: Clock | None = None,
    ) -> None:
        """Prepare.

        Args:
            alive_ns: when the holder was last heard of [ns, monotonic]; None: this process is the holder.
            on_event: (event, level, values) when it has to hold, and when it goes on.
        """
        self._grant = grant if grant is not None and grant.shared else None
        self._clock = clock or MonotonicClock()
        self._alive_ns, self._on_event, self._open = alive_ns, on_event, open_table
        self._checked_ns = self._clock.now_ns()

    def hold(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Return when the robot may be moved, which is at once unless the holder is silent.

        Raises:
            LeaseError: the lease is no longer held, or the process is told to stop while its holder is silent.
        """
        if self._grant is None:
            return
        silent_ns, now = int(_PATIENCE * self._grant.ttl_s * 1e9), self._clock.now_ns()
        heard, self._checked_ns = (self._checked_ns if self._alive_ns is None else self._alive_ns()), now
        if now - heard <= silent_ns:
            return
        if self._alive_ns is None:
            self._require_lease(self._grant)
            return
        self._on_event("the supervisor is silent, holding still", "warn", robot=self._grant.robot)
        while True:
            self._await(self._alive_ns, silent_ns, stopping)
            try:
                self._require_lease(self._grant)
                break
            except BusyError:
                if stopping():  # nothing is known of the lease
                    raise
        self._on_event("the supervisor is back, going on", "warn", robot=self._grant.robot)

    def _await(self, alive_ns: Callable[[], int], silent_ns: int, stopping: Callable[[], bool]) -> None:
        while self._clock.now_ns() - alive_ns() > silent_ns:
            if stopping():
                raise LeaseError("told to stop while the supervisor is silent")
            self._clock.sleep_until_ns(self._clock.now_ns() + _POLL_NS)

    def _require_lease(self, grant: Grant) -> None:
        if problem := self._refusal(grant):
            raise LeaseError(problem)

    def _refusal(self, grant: Grant) -> str:
        """Why the lease is not held now; empty while it is."""
        with self._open() as table:
            row = next((row for row in table.status() if row.resource.id == grant.resource), None)
        hold = next((hold for hold in row.holds if hold.epoch == grant.epoch), None) if row else None
        if row is None or hold is None:
            return f"the lease of {grant.resource} (epoch {grant.epoch}) is gone"
        if hold.suspect or row.quarantine is not None:
            return f"the lease of {grant.resource} (epoch {grant.epoch}) is lost: {row.quarantine or hold.suspect}"
        return ""
