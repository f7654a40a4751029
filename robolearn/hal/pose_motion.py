"""A pose reference for the tool tip that keeps a workspace box and bounds on velocity, acceleration and jerk.

Translation: three independent axes of ``motion.py``, each with 1/sqrt(3) of the bounds, so that the Euclidean norms
hold. Each axis moves in its own least time, so the path is straight only when the displacement is; it never leaves the
box spanned by where the reference is, where it would come to rest, and the goal.

Rotation: the reference R turns by R <- R exp(w dt), w the angular velocity in its own axes. Each component of w follows
the law of one axis, with the matching component of log(R' R_goal) for the way to go, again with 1/sqrt(3) of the
bounds. So the norms of w and of its first and second differences hold exactly. In base axes the first derivative has
the same norm (d(R w)/dt = R dw/dt, as w x w = 0); the second is larger by at most |w| |dw/dt|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from robolearn.core.errors import ConfigError, SpecError
from robolearn.core.spec import Array
from robolearn.hal import geometry
from robolearn.hal.motion import AxisLimits, Limiter

_SHARE = 1.0 / math.sqrt(3.0)


@dataclass(frozen=True)
class CartesianLimits:
    """Largest norms of the tip's motion: translation [m, s] and rotation [rad, s].

    Raises:
        ConfigError: one is not finite and above 0.
    """

    velocity: float
    acceleration: float
    jerk: float
    turn_velocity: float
    turn_acceleration: float
    turn_jerk: float

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"Cartesian limits: {item.name} must be finite and above 0, got {value}")


class PoseLimiter:
    """Moves a pose (7,), position [m] and quaternion (w, x, y, z), towards goals, one step each ``dt`` [s].

    Args:
        limits: largest norms.
        low, high: (3,) corners of the box that the position stays in [m].
        dt: period [s].

    Raises:
        ConfigError: low is not below high, or ``dt`` is not in (0, 0.1].
    """

    def __init__(self, limits: CartesianLimits, low: Array, high: Array, dt: float) -> None:
        share, free = np.full(3, _SHARE), np.full(3, math.inf)
        bounds = (share * limits.velocity, share * limits.acceleration, share * limits.jerk)
        self._translation = Limiter(AxisLimits(np.asarray(low), np.asarray(high), *bounds), dt)
        bounds = (share * limits.turn_velocity, share * limits.turn_acceleration, share * limits.turn_jerk)
        self._turn = Limiter(AxisLimits(-free, free, *bounds), dt)
        self._q = np.array([1.0, 0.0, 0.0, 0.0])
        self.dt = dt

    def seed(self, pose: Array, twist: Array | None = None) -> None:
        """Start at ``pose`` (7,), at rest or with ``twist`` (6,) in base axes [m/s, rad/s], reduced to the limits.

        Raises:
            SpecError: wrong shape, not finite, or not a unit quaternion.
        """
        position, q = _pose(pose, "pose")
        moving = np.zeros(6) if twist is None else np.asarray(twist, dtype=np.float64)
        if moving.shape != (6,) or not np.isfinite(moving).all():
            raise SpecError(f"pose limiter: twist must be 6 finite numbers, got {moving}")
        self._translation.seed(position, moving[:3])
        self._turn.seed(np.zeros(3), geometry.matrix(q).T @ moving[3:])
        self._q = q

    def shift(self, pose: Array) -> None:
        """Go on from ``pose`` (7,) with the body velocities and accelerations there are; see ``Limiter.shift``."""
        position, self._q = _pose(pose, "pose")
        self._translation.shift(position)

    def step(self, goal: Array) -> Array:
        """(7,) next pose on the way to rest at ``goal`` (7,), whose position is clipped to the box.

        Raises:
            SpecError: wrong shape, not finite, not a unit quaternion, or never seeded; nothing has moved then.
        """
        position, q = _pose(goal, "goal")
        ahead = geometry.to_rotvec(geometry.multiply(geometry.conjugate(self._q), q))
        moved = self._translation.step(position)
        start = self._turn.position
        return self._turned(moved, self._turn.step(start + ahead) - start)

    def brake(self) -> Array:
        """(7,) next pose on the quickest way to rest."""
        moved = self._translation.brake()
        start = self._turn.position
        return self._turned(moved, self._turn.brake() - start)

    @property
    def pose(self) -> Array:
        """(7,) what was published last."""
        return np.concatenate([self._translation.position, self._q])

    @property
    def twist(self) -> Array:
        """(6,) linear [m/s] and angular velocity [rad/s] in base axes that led to ``pose``."""
        return np.concatenate([self._translation.velocity, geometry.matrix(self._q) @ self._turn.velocity])

    @property
    def at_rest(self) -> bool:
        """Whether both velocities and accelerations are zero (to 1e-6 of their limits)."""
        return self._translation.at_rest and self._turn.at_rest

    def _turned(self, position: Array, rotvec: Array) -> Array:
        self._q = geometry.turn(self._q, rotvec)
        return np.concatenate([position, self._q])


def _pose(values: Array, name: str) -> tuple[Array, Array]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (7,) or not np.isfinite(array).all():
        raise SpecError(f"pose limiter: {name} must be 7 finite numbers (x, y, z, qw, qx, qy, qz), got {array}")
    q = array[3:]
    norm = math.sqrt(float(q @ q))
    if abs(norm - 1.0) > 1e-2:
        raise SpecError(f"pose limiter: {name} must end with a unit quaternion (w, x, y, z), got one of norm {norm:g}")
    return array[:3], q / norm
