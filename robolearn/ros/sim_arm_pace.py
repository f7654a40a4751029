"""A loop on absolute deadlines that owns up to being late."""

from __future__ import annotations

from robolearn.core.clock import Clock

CATCH_UP = 4
"""Periods made up for in one round; more would be a burst."""
GIVE_UP_S = 0.05
"""A loop that is later than this starts afresh: real time has gone on without it."""


class Pacer:
    """Wakes at multiples of a period.

    Attributes:
        overruns: rounds that began at least a period late.
        skipped: periods that were never done, because the loop was later than ``GIVE_UP_S``.
    """

    def __init__(self, period_s: float, clock: Clock) -> None:
        self._period_ns, self._clock = round(1e9 * period_s), clock
        self._deadline_ns = clock.now_ns()
        self.overruns = self.skipped = 0

    def wait(self) -> int:
        """Sleep to the next deadline; return how many periods to do now, 1 to 1 + ``CATCH_UP``."""
        self._deadline_ns += self._period_ns
        self._clock.sleep_until_ns(self._deadline_ns)
        behind = (self._clock.now_ns() - self._deadline_ns) // self._period_ns
        if behind <= 0:
            return 1
        self.overruns += 1
        if behind * self._period_ns > GIVE_UP_S * 1e9:
            self.skipped += behind
            self._deadline_ns += behind * self._period_ns
            return 1
        extra = int(min(behind, CATCH_UP))
        self._deadline_ns += extra * self._period_ns
        return 1 + extra
