"""Is what the arm tells still true? Freshness by local receive time; an arm's own stamps only ever add suspicion."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from robolearn.core.spec import Array

_FROZEN_S = 0.3
_DELAY_S = 0.15
_JUMP_S = 10.0
_DRIFT_S = 1e-6
_SECOND = 1e-9


@dataclass(frozen=True)
class Reading:
    """The newest state of an arm.

    Attributes:
        position, velocity: (n,) joints in the order of the chain [rad, rad/s].
        stamp_ns: the arm's own time of this state [ns]; 0 when it gives none.
        received_ns: when it arrived here (monotonic) [ns].
        wrench: (6,) environment on tool, about the tip, in tip axes [N, N m]; None when not measured.
        wrench_ns: when that arrived [ns].
        gripper: opening fraction, None when not read back.
        problem: why there is no usable state (names missing, nothing received); empty when there is.
    """

    position: Array
    velocity: Array
    stamp_ns: int
    received_ns: int
    wrench: Array | None = None
    wrench_ns: int = 0
    gripper: float | None = None
    problem: str = ""


class Feedback:
    """Judges readings one after the other.

    Attributes:
        counts: ``old``, ``frozen``, ``delayed``, ``backwards``, ``clock_jump``, ``bad`` readings seen.
    """

    def __init__(self, oldest_s: float, *, wrench: bool = False) -> None:
        """Prepare; with ``wrench``, a missing, old or senseless one is trouble too."""
        self.oldest_s, self._needs_wrench = oldest_s, wrench
        self.counts: Counter[str] = Counter()
        self._offset: float | None = None
        self._stamp = 0
        self._values: Array | None = None
        self._changed_ns = 0
        self._received_ns = -1

    def judge(self, reading: Reading, now_ns: int, *, moving: bool) -> str:
        """Why the reading must not be trusted; empty when it may be.

        Args:
            moving: the reference is away from the arm, so that a living arm's numbers must change.
        """
        if reading.problem:
            return reading.problem
        if not (np.isfinite(reading.position).all() and np.isfinite(reading.velocity).all()):
            self.counts["bad"] += 1
            return "the joint states are not finite"
        problem = self._frozen(reading, now_ns, moving) or self._delayed(reading) or self._wrench(reading, now_ns)
        self._received_ns = reading.received_ns
        age = (now_ns - reading.received_ns) * _SECOND
        if age > self.oldest_s:
            self.counts["old"] += 1
            return f"the last joint state is {age:.2f} s old, at most {self.oldest_s:g} s is allowed"
        return problem

    def forget(self) -> None:
        """A person looked: take the present distance between the arm's clock and ours as the right one."""
        self._offset = None

    def _wrench(self, reading: Reading, now_ns: int) -> str:
        """Without a wrench to be believed, no force limit is kept."""
        if not self._needs_wrench:
            return ""
        if reading.wrench is None or not np.isfinite(reading.wrench).all():
            self.counts["bad"] += 1
            return "no wrench arrives" if reading.wrench is None else "the wrench is not finite"
        age = (now_ns - reading.wrench_ns) * _SECOND
        if age <= self.oldest_s:
            return ""
        self.counts["old"] += 1
        return f"the last wrench is {age:.2f} s old, at most {self.oldest_s:g} s is allowed"

    def _frozen(self, reading: Reading, now_ns: int, moving: bool) -> str:
        values = np.concatenate([reading.position, reading.velocity])
        if self._values is None or not moving or not np.array_equal(values, self._values):
            self._values, self._changed_ns = values, now_ns
            return ""
        still = (now_ns - self._changed_ns) * _SECOND
        if still <= _FROZEN_S:
            return ""
        self.counts["frozen"] += 1
        return f"the joint states have not changed for {still:.1f} s though the arm should move"

    def _delayed(self, reading: Reading) -> str:
        """Stamps are of another clock: only a change of their distance to ours means something."""
        if reading.received_ns == self._received_ns or reading.stamp_ns == 0:
            return ""
        if reading.stamp_ns < self._stamp:
            self.counts["backwards"] += 1
        self._stamp = reading.stamp_ns
        offset = (reading.received_ns - reading.stamp_ns) * _SECOND
        if self._offset is None or abs(offset - self._offset) > _JUMP_S:
            self.counts["clock_jump"] += self._offset is not None
            self._offset = offset
        late = offset - self._offset
        self._offset = min(self._offset + _DRIFT_S, offset)  # follows a slow drift, and at once what is quicker
        if late <= _DELAY_S:
            return ""
        self.counts["delayed"] += 1
        return f"the joint states arrive {late:.2f} s later than they used to"
