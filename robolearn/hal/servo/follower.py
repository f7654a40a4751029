"""The joint reference: goals at the policy's rate become positions at the loop's, within limits."""

from __future__ import annotations

import numpy as np

from robolearn.core.spec import Array
from robolearn.hal.motion import AxisLimits, Limiter


class Follower:
    """Interpolates to a goal, brakes when told to, and never leaves the limits on the way.

    Args:
        limits: of the n positions.
        dt: period of the loop [s].
        slack: (n,) a reference at rest that is farther than this from the measured position is drawn back to it [rad]:
            something is in the way. Infinite for a gripper, which has to hold on to what it grips.
    """

    def __init__(self, limits: AxisLimits, dt: float, slack: Array) -> None:
        self.limits, self.dt = limits, dt
        self._slack = slack
        self._limiter = Limiter(limits, dt)
        self._goal = np.zeros(len(limits.lower))
        self._aim = self._goal
        self._left = 0
        self._braking = self._yielding = False

    @property
    def position(self) -> Array:
        """(n,) the reference now."""
        return self._limiter.position

    @property
    def aim(self) -> Array:
        """(n,) where the reference is going to be."""
        return self._aim.copy()

    @property
    def at_rest(self) -> bool:
        """The reference does not move and has nowhere to go."""
        return self._limiter.at_rest and (self._braking or self._left == 0)

    def seed(self, position: Array) -> None:
        """Start at rest at ``position`` (n,)."""
        self._limiter.seed(position)
        self._goal, self._aim, self._left = position.copy(), position.copy(), 0
        self._braking = self._yielding = False

    def go(self, aim: Array, duration_s: float) -> None:
        """Go to ``aim`` (n,), evenly within ``duration_s``."""
        if self._braking:
            self._goal = self._limiter.rest
        self._aim = np.clip(aim, self.limits.lower, self.limits.upper)
        self._braking = self._yielding = False
        self._left = max(1, round(duration_s / self.dt))

    def brake(self) -> None:
        """Come to rest as fast as the limits allow."""
        if not self._braking:
            self._braking, self._aim, self._left = True, self._limiter.rest, 0

    def step(self, measured: Array) -> Array:
        """(n,) reference of the next period, given the measured positions (n,)."""
        if self._braking:
            return self._rest(measured)
        if self._left > 0:
            self._goal = self._goal + (self._aim - self._goal) / self._left
            self._left -= 1
        return self._limiter.step(self._goal)

    def _rest(self, measured: Array) -> Array:
        if not self._limiter.at_rest and not self._yielding:
            return self._limiter.brake()
        blocked = np.abs(self._aim - measured) > self._slack
        if blocked.any():
            self._yielding = True
            self._aim = np.where(blocked, np.clip(measured, self.limits.lower, self.limits.upper), self._aim)
        return self._limiter.step(self._aim) if self._yielding else self._limiter.position
