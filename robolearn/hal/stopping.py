"""One axis in discrete time: how it brakes, where it then stops, and how it heads for a goal without passing it.

All quantities are differences of published positions, in position units (rad or m): ``w`` is the first difference
(velocity * dt), ``a`` the second (acceleration * dt^2), the third is bounded by ``h`` (jerk * dt^3). A step is

    a' = a + j,  |j| <= h;    w' = w + a';    x' = x + w'

so bounds on a and w are bounds on the finite differences of what is published, with no discretisation error.

Braking is one fixed rule, the quickest stop without swinging through zero velocity. Its rest point ``x + stop(w, a)``
is known in closed form and does not change while braking. The rest point grows with ``a'``. Every other step is chosen
so that the rest point ends up between where it was and the goal: hence the goal is not passed, and what bounds the rest
points bounds the positions. (Were the brake to start from a state with larger w and a, every velocity on the way to
rest would be larger or equal, so a step away from a limit never brings a position closer to it than braking would.)
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt

_MAX_ITERATIONS = 40


class Axis:
    """Bounds of one axis, in differences.

    Args:
        velocity, acceleration, jerk: largest first, second and third difference (V dt, A dt^2, J dt^3); above 0.
        braking: deceleration that is planned on in front of ``low`` and ``high``, at most ``acceleration``.
        low, high: the rest point stays between; may be infinite.
    """

    __slots__ = ("acceleration", "braking", "high", "jerk", "low", "tolerance", "velocity")

    def __init__(
        self, velocity: float, acceleration: float, jerk: float, braking: float, low: float, high: float
    ) -> None:
        self.velocity, self.acceleration, self.jerk = velocity, acceleration, jerk
        self.braking = min(braking, acceleration)
        self.low, self.high = low, high
        self.tolerance = 1e-4 * min(acceleration, jerk, velocity) + 1e-13

    def ease(self, w: float) -> float:
        """Largest deceleration at velocity ``w`` from which jerk still brings both to zero together."""
        if w <= 0.0:
            return 0.0
        h = self.jerk
        n = int((sqrt(1.0 + 8.0 * w / h) - 1.0) / 2.0)
        return w / (n + 1) + h * n / 2.0

    def brake(self, w: float, a: float, limit: float) -> float:
        """Next ``a`` of the quickest stop with a deceleration of ``limit``."""
        h = self.jerk
        n = int(abs(a) / h)
        rest = n * (abs(a) - h * (n + 1) / 2.0)  # what w gains while a eases to zero
        sign = 1.0 if w + (rest if a > 0.0 else -rest) >= 0.0 else -1.0
        w, a = sign * w, sign * a
        ramp = max(a - h, -limit) if a > -limit else min(a + h, -limit)
        return sign * min(max(ramp, -self.ease(w)), a + h)

    def stop(self, w: float, a: float, limit: float) -> float:
        """Signed distance to rest when ``brake`` is applied from here on with a deceleration of ``limit``."""
        h = self.jerk
        n = int(abs(a) / h)
        rest = n * (abs(a) - h * (n + 1) / 2.0)
        sign = 1.0
        if w + (rest if a > 0.0 else -rest) < 0.0:
            sign, w, a = -1.0, -w, -a
        x = 0.0
        if a > -limit:  # ramp down by h a step, until the limit or the last moment to ease off
            k = int((a + limit) / h)
            up = ceil(a / h)
            spare = a * a + h * (w + up * (up * h - a) - h * up * (up + 1) / 2.0)
            k = max(0, min(k, int((a + sqrt(max(0.0, spare))) / h)))
            half = k * (k + 1) / 2.0
            x = k * w + a * half - h * half * (k + 2) / 3.0
            w += k * a - h * half
        else:  # ease to the limit
            k = int((-limit - a) / h)
            half = k * (k + 1) / 2.0
            x = k * w + a * half + h * half * (k + 2) / 3.0
            w += k * a + h * half
        n = int(limit / h)
        spare = w - n * (limit - h * (n + 1) / 2.0)  # velocity above the one at which easing off from the limit begins
        if spare > limit:
            m = int(spare / limit)
            x += m * (w - limit * (m + 1) / 2.0)
            w -= m * limit
        if w > 0.0:
            n = int((sqrt(1.0 + 8.0 * w / h) - 1.0) / 2.0)
            half = n * (n + 1) / 2.0
            x += half * (w / (n + 1) + h * n / 2.0 - h * (2 * n + 1) / 3.0)
        return sign * x

    def towards(self, x: float, w: float, a: float, goal: float) -> float:
        """Next ``a`` on the way to rest at ``goal``, which is first clipped to the limits."""
        goal = min(max(goal, self.low), self.high)
        full = self.acceleration
        gap = goal - x - self.stop(w, a, full)
        if abs(gap) <= self.tolerance:
            new = self.brake(w, a, full)
        elif gap > 0.0:
            new = self._upwards(w, a, goal - x)
        else:
            new = -self._upwards(-w, -a, x - goal)
        if self.braking < full:
            new = self._guard(x, w, a, new)
        return new

    def admit(self, x: float, w: float) -> float:
        """The velocity ``w``, or as much of it as keeps all bounds from a start at ``x`` without acceleration."""
        w = min(max(w, -self.velocity), self.velocity)
        limit = self.braking
        rest = x + self.stop(w, 0.0, limit)
        if (self.low <= rest or w >= 0.0) and (rest <= self.high or w <= 0.0):
            return w
        room = self.high - x if w > 0.0 else x - self.low  # negative outside; then nothing is kept
        sign = 1.0 if w > 0.0 else -1.0
        excess = sign * (rest - x) - room
        return sign * _below(lambda b: self.stop(b, 0.0, limit) - room, 0.0, abs(w), excess, self.tolerance)

    def _upwards(self, w: float, a: float, goal: float) -> float:
        """The largest next ``a`` with the rest point not beyond ``goal`` (relative to here)."""
        full = self.acceleration
        top = min(a + self.jerk, full, self.ease(self.velocity - w))
        excess = w + top + self.stop(w + top, top, full) - goal
        if excess <= 0.0:
            return top
        low = self.brake(w, a, full)
        return _below(lambda b: w + b + self.stop(w + b, b, full) - goal, low, top, excess, self.tolerance)

    def _guard(self, x: float, w: float, a: float, new: float) -> float:
        """``new``, or what of it leaves room to stop inside the limits with the braking planned on there."""
        limit = self.braking
        rest = x + w + new + self.stop(w + new, new, limit)
        if self.low <= rest <= self.high:
            return new
        now = x + self.stop(w, a, limit)  # beyond a limit only if seeded there; then it may only come back
        sign = 1.0 if rest > self.high else -1.0
        bound = max(self.high, now) if sign > 0.0 else -min(self.low, now)
        excess = sign * rest - bound
        if excess <= 0.0:
            return new
        u, base = sign * w, sign * x - bound

        def beyond(b: float) -> float:
            return base + u + b + self.stop(u + b, b, limit)

        return sign * _below(beyond, sign * self.brake(w, a, limit), sign * new, excess, self.tolerance)


def _below(function: Callable[[float], float], low: float, high: float, f_high: float, tolerance: float) -> float:
    """A point of [low, high] where a growing function is at most zero, and above -tolerance (false position, Illinois).

    ``low`` when the function is not clearly negative there.
    """
    f_low = function(low)
    if f_low >= -tolerance:
        return low
    aim = 0.5 * tolerance
    g_low, g_high, last = f_low + aim, f_high + aim, 0
    for _ in range(_MAX_ITERATIONS):
        middle = (low * g_high - high * g_low) / (g_high - g_low)
        value = function(middle)
        if value <= 0.0:
            low, g_low = middle, value + aim
            if value >= -tolerance:
                break
            g_high *= 0.5 if last < 0 else 1.0
            last = -1
        else:
            high, g_high = middle, value + aim
            g_low *= 0.5 if last > 0 else 1.0
            last = 1
    return low
