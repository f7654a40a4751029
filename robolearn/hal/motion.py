"""A position reference that keeps position, velocity, acceleration and jerk limits, whatever it is told to follow.

The limits hold for the finite differences of the published positions, for any sequence of goals and stops, at any
period; see ``stopping.py`` for how. A goal in range is reached without overshoot, in close to the least time.

Why not a rate limiter: one that only clips jerk, acceleration and velocity runs past its goal. libfranka's published
form, which bounds acceleration by (J/A)(v_max - v), is moreover made for 1 kHz: near v_max its gain is dt J/A a step,
and with the FR3's J/A = 500 / s that is 0.5 at 1 kHz but 2.5 at 200 Hz. Told to go faster than v_max there, it swings
by 0.07 rad/s about v_max, 1.2 % over it, with 1.5 A (at 100 Hz 0.4 rad/s, 3 % and 4 A); below 2 ms it behaves.

What it costs: a goal that moves is followed at the distance that stopping takes, v^2 / (2 A) and a little more, as the
reference must always be able to come to rest at the goal it knows.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import ConfigError, SpecError
from robolearn.core.spec import Array
from robolearn.hal.stopping import Axis

MAX_PERIOD_S = 0.1
_CELLS = 400


@dataclass(frozen=True)
class Envelope:
    """Velocity bounds that shrink towards the ends of the range, in the form Franka publishes them for the FR3.

    upper(q) = min(vmax, max(0, -c + sqrt(k max(0, qs - q)))), and lower(q) = -min(vmax, max(0, -c + sqrt(k max(0,
    q - qs_low)))). All arrays (n,): vmax, c [rad/s], k [rad/s^2], qs, qs_low [rad].
    """

    vmax: Array
    c: Array
    k: Array
    qs: Array
    qs_low: Array

    def upper(self, q: Array) -> Array:
        """Largest velocity (n,) [rad/s] at positions (n,) or (..., n)."""
        return self._bound(self.qs - q)

    def lower(self, q: Array) -> Array:
        """Smallest velocity (n,) [rad/s], at most zero, at positions (n,) or (..., n)."""
        return -self._bound(q - self.qs_low)

    def _bound(self, distance: Array) -> Array:
        speed = np.sqrt(self.k * np.maximum(0.0, distance)) - self.c
        return np.asarray(np.minimum(self.vmax, np.maximum(0.0, speed)))


@dataclass(frozen=True)
class AxisLimits:
    """Limits of n axes; arrays (n,) or what becomes one, in rad (or m), s.

    Attributes:
        lower, upper: positions; may be infinite.
        velocity, acceleration, jerk: largest absolute values.
        envelope: position-dependent velocity bounds kept as well, or None.

    Raises:
        ConfigError: shapes differ, lower >= upper, or a bound is not finite and above 0.
    """

    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array
    jerk: Array
    envelope: Envelope | None = None

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "velocity", "acceleration", "jerk"):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.ndim != 1 or value.shape != np.shape(self.lower):
                raise ConfigError(f"motion limits: {name} must have one number per axis as lower has, got {value}")
            object.__setattr__(self, name, value)
        if np.isnan(self.lower).any() or np.isnan(self.upper).any() or (self.lower >= self.upper).any():
            raise ConfigError(f"motion limits: lower {self.lower.tolist()} must be below upper {self.upper.tolist()}")
        for name in ("velocity", "acceleration", "jerk"):
            value = getattr(self, name)
            if not (np.isfinite(value).all() and (value > 0).all()):
                raise ConfigError(f"motion limits: {name} must be finite and above 0, got {value.tolist()}")

    def scaled(self, velocity: float = 1.0, acceleration: float = 1.0, jerk: float = 1.0) -> AxisLimits:
        """The same with a share of velocity, acceleration and jerk."""
        return AxisLimits(
            self.lower,
            self.upper,
            self.velocity * velocity,
            self.acceleration * acceleration,
            self.jerk * jerk,
            self.envelope,
        )


class Limiter:
    """Moves n positions towards goals within ``limits``, one step each ``dt`` [s]; each axis in its own least time.

    With an envelope the range is shortened by what braking under it takes: 0.007 to 0.05 rad at each end on an FR3.

    Raises:
        ConfigError: ``dt`` is not in (0, 0.1], or leaves no room to brake within the velocity envelope.
    """

    def __init__(self, limits: AxisLimits, dt: float) -> None:
        if not (math.isfinite(dt) and 0.0 < dt <= MAX_PERIOD_S):
            raise ConfigError(f"limiter: the period must be above 0 and at most {MAX_PERIOD_S} s, got {dt} s")
        self.limits = limits
        self.dt = dt
        self._axes = [_axis(limits, index, dt) for index in range(len(limits.lower))]
        self._x = [0.0] * len(self._axes)
        self._w = [0.0] * len(self._axes)
        self._a = [0.0] * len(self._axes)
        self._seeded = False

    def seed(self, position: Array, velocity: Array | None = None) -> None:
        """Start at ``position`` (n,) with ``velocity`` (n,) (default rest), without acceleration.

        The velocity is reduced to what the limits allow there: never outwards beyond a position limit.

        Raises:
            SpecError: wrong shape or not finite.
        """
        x = self._checked(position, "position")
        w = self._checked(velocity, "velocity") if velocity is not None else [0.0] * len(x)
        self._x = list(x)
        self._w = [axis.admit(p, v * self.dt) for axis, p, v in zip(self._axes, x, w, strict=True)]
        self._a = [0.0] * len(x)
        self._seeded = True

    def shift(self, position: Array) -> None:
        """Go on from ``position`` (n,) with the present velocity and acceleration: for references nobody publishes."""
        self._x = self._checked(position, "position")

    def fork(self) -> Limiter:
        """An independent limiter in the same state, to try a step with."""
        other = copy.copy(self)
        other._x, other._w, other._a = list(self._x), list(self._w), list(self._a)
        return other

    def step(self, goal: Array) -> Array:
        """(n,) next position on the way to rest at ``goal`` (n,), which is clipped to the limits.

        Raises:
            SpecError: wrong shape, not finite, or never seeded; nothing has moved then.
        """
        goals = self._checked(goal, "goal")
        self._check_seeded()
        x, w, a = self._x, self._w, self._a
        for i, axis in enumerate(self._axes):
            a[i] = axis.towards(x[i], w[i], a[i], goals[i])
            w[i] += a[i]
            x[i] += w[i]
        return np.array(x)

    def brake(self) -> Array:
        """(n,) next position on the quickest way to rest."""
        self._check_seeded()
        x, w, a = self._x, self._w, self._a
        for i, axis in enumerate(self._axes):
            a[i] = axis.brake(w[i], a[i], axis.acceleration)
            w[i] += a[i]
            x[i] += w[i]
        return np.array(x)

    @property
    def position(self) -> Array:
        """(n,) what was published last."""
        return np.array(self._x)

    @property
    def velocity(self) -> Array:
        """(n,) first difference of what was published, per second."""
        return np.array(self._w) / self.dt

    @property
    def acceleration(self) -> Array:
        """(n,) second difference, per second squared."""
        return np.array(self._a) / self.dt**2

    @property
    def lower(self) -> Array:
        """(n,) smallest position goals are clipped to: the limit, or further in for the sake of the envelope."""
        return np.array([axis.low for axis in self._axes])

    @property
    def upper(self) -> Array:
        """(n,) largest position goals are clipped to."""
        return np.array([axis.high for axis in self._axes])

    @property
    def rest(self) -> Array:
        """(n,) where braking from now on comes to rest."""
        state = zip(self._axes, self._x, self._w, self._a, strict=True)
        return np.array([x + axis.stop(w, a, axis.acceleration) for axis, x, w, a in state])

    @property
    def at_rest(self) -> bool:
        """Whether velocity and acceleration are zero (to 1e-6 of their limits)."""
        return all(
            abs(w) <= 1e-6 * axis.velocity and abs(a) <= 1e-6 * axis.acceleration
            for axis, w, a in zip(self._axes, self._w, self._a, strict=True)
        )

    def _checked(self, values: Array, name: str) -> list[float]:
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (len(self._axes),):
            raise SpecError(f"limiter: {name} must have shape ({len(self._axes)},), got {array.shape}")
        numbers: list[float] = array.tolist()
        if not all(map(math.isfinite, numbers)):
            raise SpecError(f"limiter: {name} must be finite, got {numbers}")
        return numbers

    def _check_seeded(self) -> None:
        if not self._seeded:
            raise SpecError("limiter: expected seed(position) before the first step")


def _axis(limits: AxisLimits, index: int, dt: float) -> Axis:
    """One axis in differences, with its range shortened so that braking stays under the velocity envelope."""
    lower, upper = float(limits.lower[index]), float(limits.upper[index])
    velocity = float(limits.velocity[index])
    acceleration, jerk = float(limits.acceleration[index]), float(limits.jerk[index])
    envelope = limits.envelope
    if envelope is None:
        return _differences(dt, velocity, acceleration, jerk, acceleration, lower, upper)
    vmax, c, k = (float(getattr(envelope, name)[index]) for name in ("vmax", "c", "k"))
    velocity = min(velocity, vmax)
    # On the bound v = -c + sqrt(k x) the deceleration is (k/2) v / (v + c) < k/2. Braking at 3/8 k keeps v^2 / (3/4 k)
    # below it beyond a distance of at most 3 c^2 / k, in continuous time; ``need`` is that distance for these steps.
    braking = min(acceleration, 0.375 * k)
    free = _differences(dt, velocity, acceleration, jerk, braking, -math.inf, math.inf)
    need = 0.0
    for cell in range(_CELLS):  # the bound at a cell's upper end against the shortest stop from its lower end
        v, faster = velocity * cell / _CELLS, velocity * (cell + 1) / _CELLS
        slowing = min(free.acceleration, free.ease(free.velocity + v * dt) + free.jerk)  # else it swings to -velocity
        stop = max(0.0, free.stop(v * dt, -slowing, free.braking))
        need = max(need, (faster + c) ** 2 / k - stop)
    lower = max(lower, float(envelope.qs_low[index]) + need)
    upper = min(upper, float(envelope.qs[index]) - need)
    if lower >= upper:
        raise ConfigError(
            f"limiter: axis {index}: braking at {braking:g} within the velocity envelope leaves no range; "
            f"expected a shorter period than {dt} s, a larger jerk or a smaller velocity"
        )
    return _differences(dt, velocity, acceleration, jerk, braking, lower, upper)


def _differences(dt: float, v: float, a: float, j: float, braking: float, lower: float, upper: float) -> Axis:
    inset = 1e-12 * (1.0 + max((abs(x) for x in (lower, upper) if math.isfinite(x)), default=0.0))  # for rounding
    return Axis(v * dt, a * dt**2, j * dt**3, braking * dt**2, lower + inset, upper - inset)
