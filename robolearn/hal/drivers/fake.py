"""A kinematic robot for tests: it goes where it is told, at once, and fails when asked to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import ConfigError, RobolearnError, RobotStoppedError, StaleEpochError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Command, RobotSpec
from robolearn.hal import geometry


class FakeFaultError(RobolearnError):
    """The failure a test asked for."""


SIMULATED = True
"""Nothing and nobody can be hurt; a driver of real hardware leaves this out."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Attributes:
        raise_on_apply: ``apply`` raises FakeFaultError before it moves.
        raise_on_stop: ``stop`` raises FakeFaultError after it latched.
        nan_observation: key whose values are NaN; empty for none.
        frozen: observations no longer change (the robot still moves).
        force_n: contact force along z [N].
        lag: fraction of each motion that is not executed, 0 to 1.
    """

    raise_on_apply: bool = False
    raise_on_stop: bool = False
    nan_observation: str = ""
    frozen: bool = False
    force_n: float = 0.0
    lag: float = 0.0


@dataclass(frozen=True)
class Config:
    """The fake's shape.

    Attributes:
        max_translation: bound of a step's displacement, per axis [m].
        max_rotation: bound of a step's turn, per axis [rad].
        control_hz: control rate [Hz].
        faults: what goes wrong from the start; a test may replace ``robot.faults`` at any time.
    """

    max_translation: float = 0.05
    max_rotation: float = 0.2
    control_hz: float = 10.0
    faults: Faults = field(default_factory=Faults)


def build(
    config: Config,
    *,
    scene: object = None,
    cameras: tuple[str, ...] = (),
    realtime: bool = False,
    clock: Clock | None = None,
) -> FakeRobot:
    """A fake robot. It knows no scene and has no cameras."""
    if cameras:
        raise ConfigError(f"the fake robot has no cameras, got {cameras}")
    return FakeRobot(config, clock or MonotonicClock(), realtime=realtime)


def _spec(config: Config) -> RobotSpec:
    sizes = {
        "joint_position": (7, "made up: position and quaternion"),
        "joint_velocity": (7, "made up: zeros"),
        "tcp_pose": (7, "m, quaternion wxyz; base frame"),
        "tcp_twist": (6, "m/s, rad/s; base frame, mean of the last period"),
        "tool_pose": (7, "m, quaternion wxyz; base frame"),
        "wrench": (6, "N, N m; environment on tool, in tool axes"),
        "peak_force": (1, "N; largest in the last control period"),
    }
    observation = {name: ArraySpec(name, (size,), "float64", unit) for name, (size, unit) in sizes.items()}
    observation["gripper"] = ArraySpec("gripper", (1,), "float64", "opening fraction", 0.0, 1.0)
    t, r = config.max_translation, config.max_rotation
    unit = "displacement m, m, m, rad, rad, rad in tool axes; gripper opening fraction"
    action = ArraySpec("action", (7,), "float64", unit, (-t, -t, -t, -r, -r, -r, 0.0), (t, t, t, r, r, r, 1.0))
    return RobotSpec("fake", observation, action, config.control_hz)


class FakeRobot:
    """See the module. ``commands`` keeps what was applied."""

    def __init__(self, config: Config, clock: Clock, *, realtime: bool) -> None:
        self.spec = _spec(config)
        self.faults = config.faults
        self.commands: list[Command] = []
        self.closed = False
        self._clock, self._realtime = clock, realtime
        self._period_ns = int(1e9 / config.control_hz)
        self._deadline_ns: int | None = None
        self._pose = np.array([0.4, 0.0, 0.3, 0.0, 1.0, 0.0, 0.0])
        self._twist = np.zeros(6)
        self._gripper = 0.0
        self._epoch, self._stopped = -1, ""
        self._seen: dict[str, Array] | None = None

    def observe(self) -> dict[str, Array]:
        """The current observation; see ``spec``."""
        if self._seen is None or not self.faults.frozen:
            self._seen = {
                "joint_position": self._pose.copy(),
                "joint_velocity": np.zeros(7),
                "tcp_pose": self._pose.copy(),
                "tcp_twist": self._twist.copy(),
                "tool_pose": self._pose.copy(),
                "wrench": np.array([0.0, 0.0, self.faults.force_n, 0.0, 0.0, 0.0]),
                "peak_force": np.array([abs(self.faults.force_n)]),
                "gripper": np.array([self._gripper]),
            }
        raw = {name: value.copy() for name, value in self._seen.items()}
        if self.faults.nan_observation:
            raw[self.faults.nan_observation][:] = np.nan
        return raw

    def apply(self, command: Command) -> Array:
        """Move; return (7,) what was really sent.

        Raises:
            SpecError: the action is not finite or out of bounds.
            StaleEpochError: the command's epoch is older than one already seen.
            RobotStoppedError: a stop is latched.
            FakeFaultError: a test asked for it.
        """
        self.take(command.epoch)
        self._refuse_if_stopped()
        action = np.array(self.spec.action.validate(command.action), dtype=np.float64)
        if self.faults.raise_on_apply:
            raise FakeFaultError("the fake was asked to fail")
        action[:6] *= 1.0 - self.faults.lag
        step = geometry.to_matrix(self._pose[3:]) @ action[:3]
        turn = geometry.to_matrix(self._pose[3:]) @ action[3:6]
        self._twist = np.concatenate([step, turn]) * self.spec.control_hz
        self._pose = np.concatenate([self._pose[:3] + step, geometry.turn(self._pose[3:], action[3:6])])
        self._gripper = float(action[6])
        self.commands.append(command)
        self._pace()
        return action

    def take(self, epoch: int) -> None:
        """Be driven under the lease of this epoch; raises StaleEpochError for an older one."""
        if epoch < self._epoch:
            raise StaleEpochError(f"epoch {epoch} is too old: epoch {self._epoch} holds the robot now")
        self._epoch = epoch

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        """Go to a pose at once, at rest, gripper closed. The bodies of a scene are ignored.

        Raises:
            RobotStoppedError: a stop is latched.
        """
        self._refuse_if_stopped()
        self._pose = np.array(tcp_pose, dtype=np.float64)
        self._twist, self._gripper, self._seen, self._deadline_ns = np.zeros(6), 0.0, None, None

    def stop(self, reason: str) -> None:
        """Stop and latch; idempotent, the first reason stays."""
        self._stopped = self._stopped or reason or "stopped"
        self._twist = np.zeros(6)
        if self.faults.raise_on_stop:
            raise FakeFaultError("the fake was asked to fail to stop")

    def clear(self) -> None:
        """Clear a latched stop."""
        self._stopped = ""

    def close(self) -> None:
        """Nothing to release; idempotent."""
        self.closed = True

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise RobotStoppedError(f"the robot is stopped ({self._stopped}); a person has to clear it")

    def _pace(self) -> None:
        """In real time: return at the absolute deadline of this control period."""
        if not self._realtime:
            return
        now = self._clock.now_ns()
        start = self._deadline_ns
        if start is None or now - start > self._period_ns:
            start = now  # the first step, or too late to catch up
        self._deadline_ns = start + self._period_ns
        self._clock.sleep_until_ns(self._deadline_ns)
