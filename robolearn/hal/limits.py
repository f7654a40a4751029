"""What a robot may be asked to do, and how its numbers are laid out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.types import RobotSpec


@dataclass(frozen=True)
class SafetyLimits:
    """Limits of a cell. There is no default: somebody has to know the room the robot stands in.

    Attributes:
        low, high: workspace box of the TCP in the base frame [m].
        translation: longest displacement commanded in one step (Euclidean norm) [m].
        rotation: largest turn commanded in one step (angle of the rotation vector) [rad].
        tilt: largest angle between the tool's z axis and straight down [rad]; None for no limit.
        force: contact force at which the robot stops and latches [N]; None for no limit.

    Raises:
        ConfigError: a bound is not finite, not positive, or low is not below high.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    translation: float
    rotation: float
    tilt: float | None = None
    force: float | None = None

    def __post_init__(self) -> None:
        for name, corner in (("low", self.low), ("high", self.high)):
            if len(corner) != 3 or not all(math.isfinite(v) for v in corner):
                raise ConfigError(f"safety limits: {name} must be three finite numbers [m], got {corner}")
        for axis, low, high in zip("xyz", self.low, self.high, strict=True):
            if low >= high:
                raise ConfigError(f"safety limits: the box has low {low} >= high {high} along {axis}")
        for name in ("translation", "rotation", "tilt", "force"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"safety limits: {name} must be finite and above 0, got {value}")


@dataclass(frozen=True)
class BoundsOnly:
    """Limits of something that cannot hurt anybody, such as an environment that is no arm: an action has to be finite
    and within the robot's own bounds. SafeRobot refuses it for anything that does not say of itself that it is
    ``harmless``."""


@dataclass(frozen=True)
class CartesianDelta:
    """Where things are in the action and observation of an arm that takes Cartesian displacements in tool axes.

    Attributes:
        translation: first and last+1 index of the displacement [m].
        rotation: the same of the rotation vector [rad].
        gripper: index of the opening fraction, or None.
        pose: observation key of the guarded pose, (7,) position [m] and quaternion (w, x, y, z) in the base frame; its
            quaternion turns tool axes into base axes.
        wrench: observation key whose first three numbers are the contact force [N]; may be absent.
        peak_force: observation key of the largest force in the last control period [N]; may be absent.
    """

    translation: tuple[int, int] = (0, 3)
    rotation: tuple[int, int] = (3, 6)
    gripper: int | None = 6
    pose: str = "tcp_pose"
    wrench: str = "wrench"
    peak_force: str = "peak_force"

    def check(self, spec: RobotSpec) -> None:
        """Raise ConfigError when a robot does not fit this layout, or cannot be told to stand still."""
        shape = spec.action.shape
        needed = max(self.translation[1], self.rotation[1], 0 if self.gripper is None else self.gripper + 1)
        if shape != (needed,):
            raise ConfigError(f"{spec.name}: expected an action of shape ({needed},) for {self}, got {shape}")
        if self.pose not in spec.observation or spec.observation[self.pose].shape != (7,):
            raise ConfigError(f"{spec.name}: shows no '{self.pose}' of shape (7,); the workspace cannot be guarded")
        low = np.broadcast_to(spec.action.low, shape)
        high = np.broadcast_to(spec.action.high, shape)
        for start, end in (self.translation, self.rotation):
            if (low[start:end] > 0).any() or (high[start:end] < 0).any():
                raise ConfigError(f"{spec.name}: the action bounds leave out zero motion, so the robot cannot hold")
