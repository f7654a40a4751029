"""Where an order leads: the goal pose of a policy action or of a journey, within the limits of the cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import SpecError
from robolearn.core.spec import Array
from robolearn.hal import geometry
from robolearn.hal.guard import ActionGuard, check_pose, parse_action, within_tilt
from robolearn.hal.host.config import HostConfig
from robolearn.hal.host.observing import Observer, action_spec
from robolearn.hal.limits import CartesianDelta

_BOX_M, _BISECTIONS = 1e-6, 20


@dataclass(frozen=True)
class Aimed:
    """What became of an action.

    Attributes:
        goal: (7,) pose of the tip.
        action: (7,) what is executed.
        altered: what it was altered by, see ``RobotHost.counts``.
    """

    goal: Array
    action: Array
    altered: list[str]


class Aim:
    """Turns orders into goals, from where the observer says the arm is."""

    def __init__(self, config: HostConfig, observer: Observer) -> None:
        self._config, self._observer = config, observer
        self._limits = config.limits()
        action = action_spec(config.max_translation, config.max_rotation)
        self._guard = ActionGuard(action, self._limits, CartesianDelta())
        self._shape = action.shape

    def delta(self, values: Array, reference: Array | None) -> Aimed:
        """Goal of a policy action.

        Args:
            values: (7,), see ``CartesianDelta``.
            reference: (4,) commanded orientation, which a turn goes on from; None: the measured one.

        Raises:
            SpecError: it is not 7 finite numbers.
        """
        wanted = parse_action(values, self._shape)
        if isinstance(wanted, str):
            raise SpecError(f"action: {wanted}")
        tip = self._observer.tip
        action, changes = self._guard.limit(wanted, self._observer.tcp)
        altered = [change.kind for change in changes]
        rotation = tip[3:] if reference is None else reference
        turn, position = action[3:6].copy(), tip[:3] + geometry.to_matrix(tip[3:]) @ action[:3]
        for kind, limit in (("tilt", self._upright), ("lead", self._near), ("workspace", self._inside)):
            allowed = limit(position, rotation, turn)
            if not np.array_equal(allowed, turn):
                altered.append(kind)
                turn = allowed
        action[3:6] = turn
        if self._config.gripper.held is not None:
            action[6] = min(action[6], self._config.gripper.held)
        return Aimed(np.concatenate([position, geometry.turn(rotation, turn)]), action, altered)

    def goto(self, values: Array) -> Array:
        """A pose (7,) of the tip within the workspace; raises SpecError for any other."""
        goal = check_pose("goto", values)
        tcp = self._observer.tcp_of(goal)
        if self._outside(tcp) > 0.0:
            raise SpecError(f"goto: {[float(f'{x:.4g}') for x in tcp[:3]]} is outside the workspace")
        tilt = self._limits.tilt
        if tilt is not None and geometry.tilt(goal[3:]) > tilt:
            raise SpecError(f"goto: tilted {geometry.tilt(goal[3:]):.3f} rad, at most {tilt:g} rad is allowed")
        return goal

    def _upright(self, position: Array, rotation: Array, turn: Array) -> Array:
        """The turn, as far as the tool may tilt."""
        return turn if self._limits.tilt is None else within_tilt(rotation, turn, self._limits.tilt)

    def _near(self, position: Array, rotation: Array, turn: Array) -> Array:
        """The turn, so that the commanded orientation runs at most ``lead`` ahead of the measured one."""
        measured, lead = self._observer.tip[3:], self._config.lead
        ahead = geometry.to_rotvec(_between(measured, geometry.turn(rotation, turn)))
        angle = math.sqrt(float(ahead @ ahead))
        if angle <= lead:
            return turn
        limit = self._config.max_rotation
        nearest = geometry.turn(measured, ahead * (lead / angle))
        return np.clip(geometry.to_rotvec(_between(rotation, nearest)), -limit, limit)

    def _inside(self, position: Array, rotation: Array, turn: Array) -> Array:
        """The turn about the tip, as far as the TCP stays in its box, or no further out than it is."""
        allowed = self._outside(self._observer.tcp) + _BOX_M

        def fits(share: float) -> bool:
            goal = np.concatenate([position, geometry.turn(rotation, share * turn)])
            return self._outside(self._observer.tcp_of(goal)) <= allowed

        if fits(1.0):
            return turn
        good, bad = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = 0.5 * (good + bad)
            good, bad = (middle, bad) if fits(middle) else (good, middle)
        return good * turn

    def _outside(self, tcp: Array) -> float:
        """How far a TCP pose is outside the workspace [m]; 0 within."""
        return float(np.maximum(np.maximum(self._limits.low - tcp[:3], tcp[:3] - self._limits.high), 0.0).max())


def _between(a: Array, b: Array) -> Array:
    """(4,) quaternion of the turn from orientation ``a`` to ``b``, in the axes of ``a``."""
    return geometry.multiply(geometry.conjugate(a), b)
