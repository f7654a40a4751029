"""A loop on absolute deadlines that knows how late it was."""

from __future__ import annotations

from collections import deque

import numpy as np

from robolearn.core.clock import Clock

_KEPT = 4096


class Pace:
    """Waits for ``deadline += period`` and keeps the lateness of the last ticks.

    Attributes:
        ticks: deadlines kept or missed so far.
        missed: deadlines that passed whole while the loop was busy or the process was not run; they are skipped.
        priority: scheduling the process was granted, for people.
    """

    def __init__(self, clock: Clock, rate_hz: float) -> None:
        self.period_ns = int(1e9 / rate_hz)
        self.ticks = self.missed = 0
        self.priority = ""
        self._clock = clock
        self._deadline: int | None = None
        self._late: deque[int] = deque(maxlen=_KEPT)

    def wait(self) -> int:
        """Sleep to the next deadline; return the time then [ns]."""
        if self._deadline is None:
            self._deadline = self._clock.now_ns()
        self._deadline += self.period_ns
        self._clock.sleep_until_ns(self._deadline)
        now = self._clock.now_ns()
        self._late.append(now - self._deadline)
        self.ticks += 1
        if (behind := (now - self._deadline) // self.period_ns) > 0:
            self.missed += behind
            self._deadline += behind * self.period_ns
        return now

    def lateness_ms(self, percentile: float) -> float:
        """A percentile of the last few thousand ticks' lateness [ms]; 0 before the first."""
        return float(np.percentile(list(self._late), percentile)) * 1e-6 if self._late else 0.0
