"""A thread that keeps leases alive and says when one is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from robolearn.core.errors import LeaseError
from robolearn.hal.lease_types import BusyError, Lease

if TYPE_CHECKING:
    from robolearn.hal.leases import LeaseTable

_BEATS_PER_TTL = 4


class Heartbeat:
    """Beats four times per time to live; a context manager, its thread ends with the block.

    A lease that is refused gets ``lost`` set, is reported to ``on_lost`` once (from the thread) and is not tried again.
    While the table cannot be reached, leases count as lost once their time to live has passed.
    """

    def __init__(
        self,
        open_table: Callable[[], LeaseTable],
        leases: Sequence[Lease],
        *,
        on_lost: Callable[[Lease], None] | None = None,
    ) -> None:
        """Prepare; ``open_table`` is called in the thread, which needs a connection of its own."""
        self._open, self._leases, self._on_lost = open_table, list(leases), on_lost
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        period = min((lease.ttl_s for lease in self._leases), default=1.0) / _BEATS_PER_TTL
        try:
            with self._open() as table:
                table.wait_at_most(period)  # so that a blocked table is noticed before the leases are over
                last = dict.fromkeys((id(lease) for lease in self._leases), table.clock.now_ns())
                while not self._over.wait(period):
                    self.beat(table, last)
        except LeaseError as error:
            for lease in self._leases:
                self._lose(lease, str(error))

    def beat(self, table: LeaseTable, last: dict[int, int]) -> None:
        """One heartbeat of all leases that are still held; ``last`` is the time of each one's latest success [ns]."""
        for lease in self._leases:
            if lease.lost:
                continue
            before = table.clock.now_ns()
            try:
                table.beat(lease)
                last[id(lease)] = before
            except BusyError as error:
                if table.clock.now_ns() - last[id(lease)] > lease.ttl_s * 1e9:
                    self._lose(lease, str(error))
            except LeaseError as error:
                self._lose(lease, str(error))

    def _lose(self, lease: Lease, why: str) -> None:
        if not lease.lost:
            lease.lost = why
            if self._on_lost is not None:
                self._on_lost(lease)
