"""Explicit clocks: control code takes a Clock, never calls ``time`` itself."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time and sleeping."""

    def now_ns(self) -> int:
        """Monotonic time [ns]."""

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Return at or after ``deadline_ns``; at once if it has passed."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """Monotonic time [ns]."""
        return time.monotonic_ns()

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Sleep to an absolute deadline."""
        left = deadline_ns - time.monotonic_ns()
        if left > 0:
            time.sleep(left * 1e-9)


class FakeClock:
    """A clock for tests: time passes only when somebody sleeps or advances it."""

    def __init__(self, start_ns: int = 0) -> None:
        self.time_ns = start_ns

    def now_ns(self) -> int:
        """Current fake time [ns]."""
        return self.time_ns

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Jump to the deadline."""
        self.time_ns = max(self.time_ns, deadline_ns)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.time_ns += int(seconds * 1e9)
