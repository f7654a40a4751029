"""What can go wrong with joint states on a real arm, on purpose."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from robolearn.core.errors import ConfigError, suggest
from robolearn.core.spec import Array

JOINT_FAULTS = ("none", "frozen", "delayed", "drop30", "backwards", "clock_jump", "reordered", "missing_joint")
CAMERA_FAULTS = ("none", "frozen", "black", "wrong_size")
GRIPPER_FAULTS = ("none", "stalled")
DELAY_S, JUMP_S, DROPPED = 0.3, 3600.0, 0.3
STALLED = 0.6
"""Opening fraction at which a stalled gripper stays, whatever it is told."""


@dataclass(frozen=True)
class Joints:
    """A joint state: names, (n,) positions [rad], velocities [rad/s], efforts [N m], and a stamp in wall time [ns]."""

    names: tuple[str, ...]
    position: Array
    velocity: Array
    effort: Array
    stamp_ns: int

    def pick(self, order: list[int]) -> Joints:
        """The joints at these indices, in this order."""
        names = tuple(self.names[i] for i in order)
        return Joints(names, self.position[order], self.velocity[order], self.effort[order], self.stamp_ns)


class JointFault:
    """Passes joint states on, as the fault has it.

    ``frozen``: the same state with the same stamp again and again. ``delayed``: 0.3 s late. ``drop30``: 30 % are lost.
    ``backwards``: stamps run back from now. ``clock_jump``: stamps are an hour ahead for a second, then an hour behind,
    and so on. ``reordered``: names and numbers in reverse order. ``missing_joint``: the fourth is absent.
    """

    def __init__(self, kind: str = "none", seed: int = 0) -> None:
        if kind not in JOINT_FAULTS:
            raise ConfigError(f"unknown fault of joint states '{kind}'{suggest(kind, JOINT_FAULTS)}")
        self.kind = kind
        self._rng = np.random.default_rng(seed)
        self._queue: deque[Joints] = deque()
        self._first: Joints | None = None

    def apply(self, joints: Joints) -> Joints | None:
        """What is published instead; None: nothing."""
        if self.kind == "none":
            return joints
        first = self._first = self._first or joints
        elapsed_ns = joints.stamp_ns - first.stamp_ns
        match self.kind:
            case "frozen":
                return first
            case "delayed":
                return self._delayed(joints)
            case "drop30":
                return None if self._rng.random() < DROPPED else joints
            case "backwards":
                return replace(joints, stamp_ns=first.stamp_ns - elapsed_ns)
            case "clock_jump":
                sign = 1 if elapsed_ns // 1_000_000_000 % 2 == 0 else -1
                return replace(joints, stamp_ns=joints.stamp_ns + sign * int(JUMP_S * 1e9))
            case "reordered":
                return joints.pick(list(range(len(joints.names)))[::-1])
        return joints.pick([i for i in range(len(joints.names)) if i != 3])

    def _delayed(self, joints: Joints) -> Joints | None:
        self._queue.append(joints)
        if joints.stamp_ns - self._queue[0].stamp_ns < DELAY_S * 1e9:
            return None
        return self._queue.popleft()
