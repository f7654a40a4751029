"""Joint references over time, and the torques that follow them.

    tau = k (q_ref - q) + d (qd_ref - qd) + gravity and Coriolis torques

A trajectory is followed as ros2_control's joint_trajectory_controller does: it replaces the one before, starts from
the present reference, interpolates linearly between positions or, where velocities are given, with cubic Hermite
polynomials, and stops at its last point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array


@dataclass(frozen=True)
class JointGains:
    """Stiffness [N m/rad] and damping [N m s/rad] of the seven joints."""

    stiffness: tuple[float, ...] = (600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0)
    damping: tuple[float, ...] = (50.0, 50.0, 50.0, 50.0, 20.0, 20.0, 10.0)


@dataclass(frozen=True)
class Trajectory:
    """Points to pass.

    Attributes:
        positions: (n, 7) [rad].
        times: (n,) rising, from the start of the trajectory [s]; one point may have 0: at once.
        velocities: (n, 7) [rad/s] or None.
    """

    positions: Array
    times: Array
    velocities: Array | None = None

    def __post_init__(self) -> None:
        n = len(self.times)
        if n == 0 or self.positions.shape != (n, 7):
            raise ConfigError(
                f"trajectory: expected positions (n, 7) and n >= 1 times, got {self.positions.shape}, {n}"
            )
        if self.velocities is not None and self.velocities.shape != (n, 7):
            raise ConfigError(f"trajectory: expected velocities ({n}, 7), got {self.velocities.shape}")
        known = [self.positions, self.times, *([] if self.velocities is None else [self.velocities])]
        if not all(np.isfinite(values).all() for values in known):
            raise ConfigError("trajectory: a number is not finite")
        if self.times[0] < 0.0 or (np.diff(self.times) <= 0.0).any():
            raise ConfigError(f"trajectory: times must rise from 0 or more, got {self.times.tolist()}")


class JointReference:
    """The reference of the joints; time is what ``advance`` is told.

    Attributes:
        position, velocity: (7,) present reference [rad, rad/s].
    """

    def __init__(self, position: Array) -> None:
        self.position, self.velocity = position.copy(), np.zeros(7)
        self._path: Trajectory | None = None
        self._elapsed = 0.0

    def hold(self, position: Array) -> None:
        """Stand at ``position`` (7,) from now on."""
        self.position[:], self.velocity[:], self._path = position, 0.0, None

    def follow(self, path: Trajectory) -> None:
        """Leave the present reference along ``path``."""
        rates = None
        if path.velocities is not None:
            rates = np.vstack([self.velocity, path.velocities])
        if path.times[0] > 0.0:
            start = (np.vstack([self.position, path.positions]), np.concatenate([[0.0], path.times]), rates)
            path = Trajectory(*start)
        self._path, self._elapsed = path, 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        path = self._path
        if path is None:
            return
        self._elapsed += seconds
        if self._elapsed >= path.times[-1]:
            self.hold(path.positions[-1])
            return
        index = int(np.searchsorted(path.times, self._elapsed, side="right"))
        if index == 0:
            return
        self._between(path, index - 1)

    def _between(self, path: Trajectory, first: int) -> None:
        """Interpolate on the interval that starts at point ``first``."""
        span = path.times[first + 1] - path.times[first]
        s = (self._elapsed - path.times[first]) / span
        p0, p1 = path.positions[first], path.positions[first + 1]
        if path.velocities is None:
            self.position[:] = p0 + s * (p1 - p0)
            self.velocity[:] = (p1 - p0) / span
            return
        m0, m1 = span * path.velocities[first], span * path.velocities[first + 1]
        s2, s3 = s * s, s * s * s
        self.position[:] = (2 * s3 - 3 * s2 + 1) * p0 + (s3 - 2 * s2 + s) * m0 + (3 * s2 - 2 * s3) * p1 + (s3 - s2) * m1
        slope = (6 * s2 - 6 * s) * (p0 - p1) + (3 * s2 - 4 * s + 1) * m0 + (3 * s2 - 2 * s) * m1
        self.velocity[:] = slope / span
