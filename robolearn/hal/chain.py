"""Kinematics of a serial arm from its published numbers: forward, Jacobian and inverse, without a simulator.

Poses are (7,): position [m] and unit quaternion (w, x, y, z), of the tool's tip in the base frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from robolearn.core.errors import ConfigError, SpecError, suggest
from robolearn.core.spec import Array
from robolearn.hal import geometry
from robolearn.hal.motion import AxisLimits, Envelope
from robolearn.hal.pose_motion import CartesianLimits

_Frame = tuple[tuple[float, ...], tuple[float, float, float]]  # 3x3 rotation by rows, origin


@cache
def numbers(name: str) -> Any:
    """The published numbers of an arm, ``arms/<name>.yaml``.

    Raises:
        ConfigError: there is no such arm.
    """
    folder = files("robolearn.hal").joinpath("arms")
    known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    if name not in known:
        raise ConfigError(f"unknown arm '{name}'{suggest(name, known)}")
    return yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Solution:
    """What the inverse found.

    Attributes:
        q: (n,) joint angles [rad], within the limits; the best found when not converged.
        converged: whether both errors are within tolerance.
        position_error, rotation_error: what is left [m], [rad].
        iterations: steps taken.
    """

    q: Array
    converged: bool
    position_error: float
    rotation_error: float
    iterations: int


@dataclass(frozen=True)
class Chain:
    """A serial arm of n revolute joints, each turning about the z axis of its frame.

    Attributes:
        name: of the arm.
        joints: names of the joints.
        limits: positions, velocities, accelerations and jerks of the joints, with the envelope if one is published.
        torque: (n,) largest joint torques [N m].
        home: (n,) posture [rad].
        cartesian: largest norms of the tip's motion.
        origins: frame of each joint in its parent link at angle zero.
        tcp: frame of the tool centre point in the last link.
        tip: (3,) position of the tip in TCP axes [m].
    """

    name: str
    joints: tuple[str, ...]
    limits: AxisLimits
    torque: Array
    home: Array
    cartesian: CartesianLimits
    origins: tuple[_Frame, ...] = field(repr=False)
    tcp: _Frame = field(repr=False)
    tip: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def load(cls, name: str, tip: Sequence[float] = (0.0, 0.0, 0.0)) -> Chain:
        """The arm ``arms/<name>.yaml``, with a tool whose tip lies at ``tip`` in TCP axes [m].

        Raises:
            ConfigError: there is no such arm, or the tip is not three finite numbers.
        """
        data = numbers(name)
        joints = data["joints"]
        column = {k: np.array([float(j[k]) for j in joints]) for k in ("lower", "upper", "velocity", "torque")}
        acceleration, jerk = (np.array([float(j[k]) for j in joints]) for k in ("acceleration", "jerk"))
        published = data.get("envelope")
        envelope = Envelope(**{k: np.array(v, dtype=float) for k, v in published.items()}) if published else None
        hand = data["hand"]
        return cls(
            name=name,
            joints=tuple(data["names"]),
            limits=AxisLimits(column["lower"], column["upper"], column["velocity"], acceleration, jerk, envelope),
            torque=column["torque"],
            home=np.array(data["home"], dtype=float),
            cartesian=CartesianLimits(**data["cartesian"]),
            origins=tuple((_rotation(*j["rpy"]), _vector(j["xyz"])) for j in joints),
            tcp=(_rotation(0.0, 0.0, hand["yaw"]), (0.0, 0.0, data["flange"]["z"] + hand["tcp_z"])),
        ).with_tip(tip)

    def with_tip(self, tip: Sequence[float]) -> Chain:
        """The same arm with another tip, given in TCP axes [m]."""
        values = tuple(float(v) for v in tip)
        if len(values) != 3 or not all(map(math.isfinite, values)):
            raise ConfigError(f"arm {self.name}: tip must be three finite numbers [m], got {tip}")
        return replace(self, tip=values)

    def pose(self, q: Array) -> Array:
        """(7,) pose of the tip at joint angles (n,) [rad]."""
        rotation, position, _ = self._forward(q)
        return np.array([*position, *geometry.quaternion(rotation)])

    def jacobian(self, q: Array) -> Array:
        """(6, n) linear and angular velocity of the tip in base axes per joint velocity."""
        return self.pose_and_jacobian(q)[1]

    def pose_and_jacobian(self, q: Array) -> tuple[Array, Array]:
        """``pose`` and ``jacobian`` in one go."""
        rotation, position, axes = self._forward(q)
        px, py, pz = position
        columns = []
        for ax, ay, az, ox, oy, oz in axes:
            dx, dy, dz = px - ox, py - oy, pz - oz
            columns.append((ay * dz - az * dy, az * dx - ax * dz, ax * dy - ay * dx, ax, ay, az))
        return np.array([*position, *geometry.quaternion(rotation)]), np.array(columns).T

    def step_towards(
        self, q: Array, goal: Array, *, damping: float = 0.02, posture: Array | None = None, pull: float = 0.05
    ) -> tuple[Array, float, float]:
        """One damped least squares step from joint angles ``q`` (n,) towards the pose ``goal`` (7,).

        dq = J' (J J' + damping^2 I)^-1 e + N pull (posture - q): Wampler 1986 with Liegeois' null space motion, where N
        projects on what does not move the tip. The step stays finite at singularities: |dq| <= |e| / (2 damping).

        Args:
            posture: (n,) angles to stay close to where the pose leaves freedom; ``home`` by default.

        Returns:
            Angles (n,) within the limits, and the position [m] and rotation error [rad] at ``q``, before the step.
        """
        q = np.asarray(q, dtype=np.float64)
        pose, jacobian = self.pose_and_jacobian(q)
        error = geometry.pose_error(pose, goal)
        rest = pull * ((self.home if posture is None else posture) - q) if len(self.joints) > 6 else None
        step = _damped(jacobian, error, damping, rest)
        lower, upper = self.limits.lower, self.limits.upper
        stuck = ((q >= upper) & (step > 0)) | ((q <= lower) & (step < 0))
        if stuck.any():  # the other joints do what these cannot
            step = _damped(np.where(stuck, 0.0, jacobian), error, damping, None if rest is None else rest * ~stuck)
        moved = np.clip(q + step, lower, upper)
        return moved, math.sqrt(float(error[:3] @ error[:3])), math.sqrt(float(error[3:] @ error[3:]))

    def solve(
        self,
        goal: Array,
        start: Array,
        *,
        iterations: int = 100,
        position_tolerance: float = 1e-6,
        rotation_tolerance: float = 1e-6,
        posture: Array | None = None,
    ) -> Solution:
        """Joint angles that bring the tip to ``goal`` (7,), by steps from ``start`` (n,).

        Damping follows the error (Levenberg-Marquardt as Sugihara 2011 has it), so the last steps are Newton's.
        A pose out of reach gives ``converged`` False and the closest angles found.

        Raises:
            SpecError: goal or start have the wrong shape or are not finite.
        """
        goal = _finite(goal, 7, "goal pose")
        q = np.clip(_finite(start, len(self.joints), "start"), self.limits.lower, self.limits.upper)
        best, best_error, size = Solution(q, False, math.inf, math.inf, 0), math.inf, 1.0
        for iteration in range(iterations):
            damping = min(0.1, max(1e-5, 0.3 * size))
            moved, position, rotation = self.step_towards(q, goal, damping=damping, posture=posture, pull=0.1 * size)
            size = min(1.0, position + 0.3 * rotation)
            if position + 0.3 * rotation < best_error:
                best_error = position + 0.3 * rotation
                converged = position <= position_tolerance and rotation <= rotation_tolerance
                best = Solution(q, converged, position, rotation, iteration)
            if best.converged:
                break
            q = moved
        return best

    def _forward(
        self, q: Array
    ) -> tuple[tuple[float, ...], tuple[float, float, float], list[tuple[float, float, float, float, float, float]]]:
        """Rotation by rows and position of the tip, and of each joint its axis and origin, in base axes."""
        angles = np.asarray(q, dtype=np.float64)
        if angles.shape != (len(self.origins),):
            raise SpecError(f"arm {self.name}: joint angles must have shape ({len(self.origins)},), got {angles.shape}")
        rotation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
        position = (0.0, 0.0, 0.0)
        axes = []
        for origin, angle in zip(self.origins, angles.tolist(), strict=True):
            (a, b, c, d, e, f, g, h, i), position = _compose(rotation, position, origin)
            cos, sin = math.cos(angle), math.sin(angle)
            axes.append((c, f, i, *position))
            rotation = (
                a * cos + b * sin, b * cos - a * sin, c,
                d * cos + e * sin, e * cos - d * sin, f,
                g * cos + h * sin, h * cos - g * sin, i,
            )  # fmt: skip
        rotation, position = _compose(rotation, position, self.tcp)
        if any(self.tip):
            position = _place(rotation, position, self.tip)
        return rotation, position, axes


def _vector(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = map(float, values)
    return x, y, z


def _damped(jacobian: Array, error: Array, damping: float, rest: Array | None) -> Array:
    """Damped least squares step (n,) for an error (6,), with ``rest`` (n,) projected on the null space."""
    gram = jacobian @ jacobian.T
    gram.flat[::7] += damping * damping
    if rest is None:
        return np.asarray(jacobian.T @ np.linalg.solve(gram, error))
    return np.asarray(rest + jacobian.T @ np.linalg.solve(gram, error - jacobian @ rest))


def _rotation(roll: float, pitch: float, yaw: float) -> tuple[float, ...]:
    """Rz(yaw) Ry(pitch) Rx(roll) by rows, as in URDF."""
    cr, sr, cp, sp, cy, sy = (f(x) for x in (roll, pitch, yaw) for f in (math.cos, math.sin))
    return (
        cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr,
        sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr,
        -sp, cp * sr, cp * cr,
    )  # fmt: skip


def _place(r: tuple[float, ...], p: tuple[float, float, float], x: Sequence[float]) -> tuple[float, float, float]:
    a, b, c = x
    return (
        p[0] + r[0] * a + r[1] * b + r[2] * c,
        p[1] + r[3] * a + r[4] * b + r[5] * c,
        p[2] + r[6] * a + r[7] * b + r[8] * c,
    )


def _compose(
    rotation: tuple[float, ...], position: tuple[float, float, float], frame: _Frame
) -> tuple[tuple[float, ...], tuple[float, float, float]]:
    a, b, c, d, e, f, g, h, i = rotation
    (j, k, m, n, o, p, q, r, s), origin = frame
    return (
        a * j + b * n + c * q, a * k + b * o + c * r, a * m + b * p + c * s,
        d * j + e * n + f * q, d * k + e * o + f * r, d * m + e * p + f * s,
        g * j + h * n + i * q, g * k + h * o + i * r, g * m + h * p + i * s,
    ), _place(rotation, position, origin)  # fmt: skip


def _finite(values: Array, size: int, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise SpecError(f"inverse kinematics: {name} must be {size} finite numbers, got {array}")
    return array
