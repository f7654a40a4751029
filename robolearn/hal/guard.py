"""Which action is allowed: bounds, step length, tilt, workspace. Shared by SafeRobot and robot hosts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import ConfigError, SpecError
from robolearn.core.spec import Array, ArraySpec
from robolearn.hal import geometry
from robolearn.hal.limits import CartesianDelta, SafetyLimits

SAME = 1e-6
"""Changes below this fraction of a bound are rounding (float32 actions), not interventions."""
_BISECTIONS = 20


@dataclass(frozen=True)
class Change:
    """One alteration: ``clipped``, ``step``, ``tilt`` or ``workspace``; the action before and after, (A,) each."""

    kind: str
    asked: Array
    allowed: Array


class BoundsGuard:
    """Limits actions to the robot's own bounds."""

    def __init__(self, action: ArraySpec) -> None:
        """Prepare for a robot's action spec."""
        self.low = np.broadcast_to(np.asarray(action.low, dtype=np.float64), action.shape)
        self.high = np.broadcast_to(np.asarray(action.high, dtype=np.float64), action.shape)
        room = np.maximum(np.abs(self.low), np.abs(self.high))
        self._rounding = SAME * np.where(np.isfinite(room), room, 1.0)

    def limit(self, wanted: Array, pose: Array) -> tuple[Array, list[Change]]:
        """The nearest allowed action (A,), and what was altered; the pose does not matter."""
        action = np.minimum(np.maximum(wanted, self.low), self.high)
        if (np.abs(action - wanted) > self._rounding).any():
            return action, [Change("clipped", wanted, action)]
        return action, []


class ActionGuard:
    """Limits actions laid out as ``CartesianDelta`` to what a cell allows."""

    def __init__(self, action: ArraySpec, limits: SafetyLimits, layout: CartesianDelta) -> None:
        """Prepare for a robot's action spec and the limits of its cell."""
        self.limits = limits
        self.low = np.broadcast_to(np.asarray(action.low, dtype=np.float64), action.shape)
        self.high = np.broadcast_to(np.asarray(action.high, dtype=np.float64), action.shape)
        self._box_low, self._box_high = np.array(limits.low), np.array(limits.high)
        room = np.maximum(np.abs(self.low), np.abs(self.high))
        self._rounding = SAME * np.where(np.isfinite(room), room, 1.0)
        self._translation, self._rotation = slice(*layout.translation), slice(*layout.rotation)

    def limit(self, wanted: Array, pose: Array) -> tuple[Array, list[Change]]:
        """The nearest allowed action (A,) for a guarded pose (7,), and what was altered."""
        changes: list[Change] = []
        action = np.minimum(np.maximum(wanted, self.low), self.high)
        self._note(changes, "clipped", wanted, action)
        stepped = action.copy()
        stepped[self._translation] = shorten(action[self._translation], self.limits.translation)
        stepped[self._rotation] = shorten(action[self._rotation], self.limits.rotation)
        self._note(changes, "step", action, stepped)
        if self.limits.tilt is not None:
            turned = stepped.copy()
            turned[self._rotation] = within_tilt(pose[3:], stepped[self._rotation], self.limits.tilt)
            self._note(changes, "tilt", stepped, turned)
            stepped = turned
        boxed = stepped.copy()
        boxed[self._translation] = self._within_box(pose, stepped[self._translation])
        self._note(changes, "workspace", stepped, boxed)
        return boxed, changes

    def _note(self, changes: list[Change], kind: str, asked: Array, allowed: Array) -> None:
        """Note an alteration that is more than rounding."""
        if (np.abs(allowed - asked) > self._rounding).any():
            changes.append(Change(kind, asked, allowed))

    def _within_box(self, pose: Array, delta: Array) -> Array:
        """Displacement in tool axes with its target in the box; outside, each axis may only move back in.

        With the target clipped per base axis the arm slides along a wall. The clipped displacement, turned back into
        tool axes, may exceed a tool-axis bound; it is then scaled, which keeps it in the (convex) box.
        """
        turn, position = geometry.to_matrix(pose[3:]), pose[:3]
        wanted = turn @ delta
        nearest = np.minimum(self._box_low - position, 0.0), np.maximum(self._box_high - position, 0.0)
        clipped = np.clip(wanted, *nearest)
        if np.array_equal(clipped, wanted):
            return delta
        back = turn.T @ clipped
        bound = np.where(back > 0, self.high[self._translation], -self.low[self._translation])
        size = np.abs(back)
        ratio = np.divide(bound, size, out=np.ones(3), where=size > bound)
        return np.asarray(back * ratio.min())


def parse_action(action: object, shape: tuple[int, ...]) -> Array | str:
    """The action as float64 of ``shape``, or what is wrong with it."""
    try:
        wanted = np.array(action, dtype=np.float64)
    except (TypeError, ValueError):
        return f"expected numbers, got {type(action).__name__}"
    if wanted.shape != shape:
        return f"expected shape {shape}, got {wanted.shape}"
    if not np.isfinite(wanted).all():
        return "expected finite numbers"
    return wanted


def shorten(vector: Array, longest: float) -> Array:
    """The vector, scaled down to a Euclidean norm of at most ``longest``."""
    length = math.sqrt(float(vector @ vector))
    return vector if length <= longest else np.asarray(vector * (longest / length))


def within_tilt(q: Array, rotvec: Array, limit: float) -> Array:
    """The rotation, shortened so that the tilt stays within ``limit``; beyond it, only a turn that reduces the tilt."""
    now, then = geometry.tilt(q), geometry.tilt(geometry.turn(q, rotvec))
    if then <= limit or then < now:
        return rotvec
    if now > limit:
        return np.zeros(3)
    good, bad = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (good + bad)
        if geometry.tilt(geometry.turn(q, middle * rotvec)) <= limit:
            good = middle
        else:
            bad = middle
    return np.asarray(good * rotvec)


def check_pose(name: str, pose: object) -> Array:
    """(7,) float64 with a unit quaternion, or SpecError."""
    value = ArraySpec(name, (7,), "float64", "m, quaternion wxyz").validate(pose)
    check_unit(name, value)
    return value


def check_start(tcp_pose: object, limits: SafetyLimits) -> Array:
    """A start of an episode, (7,) float64 in the workspace and upright enough; SpecError or ConfigError otherwise."""
    pose = check_pose("tcp_pose", tcp_pose)
    if (pose[:3] < limits.low).any() or (pose[:3] > limits.high).any():
        box = f"{list(limits.low)} to {list(limits.high)}"
        raise ConfigError(f"reset: the start {pose[:3].tolist()} is outside the workspace {box} [m]")
    if limits.tilt is not None and geometry.tilt(pose[3:]) > limits.tilt:
        raise ConfigError(f"reset: the start is tilted {geometry.tilt(pose[3:]):.3f} rad > {limits.tilt} rad")
    return pose


def check_placement(name: str, value: object) -> Array:
    """(7,) pose of a body or (1,) angle of a screw [rad], float64, or SpecError."""
    if getattr(value, "shape", None) == (1,):
        return ArraySpec(name, (1,), "float64", "rad").validate(value)
    return check_pose(name, value)


def check_unit(name: str, pose: Array) -> None:
    """Raise SpecError unless the quaternion of a pose (7,) has unit length."""
    norm = math.hypot(*pose[3:])  # of any finite numbers: their squares may be too large
    if abs(norm - 1.0) > 1e-3:
        raise SpecError(f"{name}: expected a unit quaternion (w, x, y, z), got norm {norm:.4g}")
