"""How a robot host is set up: plain data, read from YAML, refused when a person has not thought it through."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from robolearn.core import config as typed
from robolearn.core.errors import ConfigError, suggest
from robolearn.hal.limits import SafetyLimits

Vec3 = tuple[float, float, float]
Profile = Literal["joint_position", "joint_forward", "cartesian_pose", "cartesian_twist"]
_RATES = (100.0, 500.0)


@dataclass(frozen=True)
class Workspace:
    """Box of the TCP in the base frame [m]."""

    low: Vec3
    high: Vec3


@dataclass(frozen=True)
class Motion:
    """Bounds of the reference that is published (Euclidean norms).

    Attributes:
        velocity, acceleration, jerk: of the tool tip [m/s, m/s^2, m/s^3]. 0.25 m/s is the usual cap for reduced speed.
        turn_velocity, turn_acceleration, turn_jerk: of its orientation [rad/s, rad/s^2, rad/s^3].
        joint_scale: share of the arm model's joint velocity limits that is used; accelerations and jerks are the
            model's own, so that joint profiles brake as soon as they may.
        joint_margin: distance kept from the joints' ends [rad].
    """

    velocity: float = 0.25
    acceleration: float = 5.0
    jerk: float = 500.0
    turn_velocity: float = 2.0
    turn_acceleration: float = 15.0
    turn_jerk: float = 1500.0
    joint_scale: float = 0.5
    joint_margin: float = 0.05


@dataclass(frozen=True)
class Gripper:
    """How the gripper is commanded.

    Attributes:
        kind: ``none``, ``forward`` (Float64MultiArray), ``trajectory`` (JointTrajectory) or ``action``
            (control_msgs/GripperCommand).
        topic: topic or action name.
        joint: joint of a trajectory, and the one read back from the joint states; empty when it is not read back.
        opened, closed: its position when fully open and closed [m or rad].
        timeout_s: how long an action may take before it is reported as failed.
        held: a tool is clamped for good: the opening fraction that is reported and never exceeded; None: it moves.
    """

    kind: Literal["none", "forward", "trajectory", "action"] = "none"
    topic: str = "gripper_controller/commands"
    joint: str = ""
    opened: float = 0.04
    closed: float = 0.0
    timeout_s: float = 3.0
    held: float | None = None


@dataclass(frozen=True)
class Topics:
    """Topics of the arm, relative to the namespace; an empty ``wrench`` means that forces are not measured."""

    joint_states: str = "joint_states"
    wrench: str = ""
    target_pose: str = "target_pose"
    twist: str = "servo_node/delta_twist_cmds"
    trajectory: str = "joint_trajectory_controller/joint_trajectory"
    forward: str = "forward_position_controller/commands"


@dataclass(frozen=True)
class HostConfig:
    """Everything a robot host knows about its arm.

    Attributes:
        robot: name for people.
        model: kinematics and limits, ``hal/arms/<model>.yaml``.
        simulated: nobody can be hurt; set for simulated arms only.
        profile: interface through which the arm is driven, see docs/robot-host.md.
        rate_hz: loop rate, 100 to 500.
        control_hz: rate of policy actions.
        joints: names in ``joint_states``, in the order of the chain; empty takes the model's.
        frame: frame id of published poses.
        tip: tool tip in the TCP frame [m].
        workspace: where the TCP may be; real hardware must have one.
        tilt: largest angle between the tool's z and straight down [rad]; None for no limit.
        force: contact force at which the arm stops and latches [N]; None for no limit.
        max_translation, max_rotation: largest displacement of one action, per axis [m, rad].
        lead: how far the rotation goal may run ahead of the measured orientation [rad].
        motion: bounds of what is published.
        feedback_s: oldest joint state that still counts [s].
        stale_s: silence after which the arm decelerates and holds where it is [s].
        disengage_s: silence after which nothing is published any more [s].
        dwell: share of a control period that every action gets, however late it came.
        gripper: see ``Gripper``.
        topics: see ``Topics``.

    Raises:
        ConfigError: a value is out of range, or real hardware has no workspace.
    """

    robot: str = "fr3"
    model: str = "fr3"
    simulated: bool = False
    profile: Profile = "joint_position"
    rate_hz: float = 200.0
    control_hz: float = 10.0
    joints: tuple[str, ...] = ()
    frame: str = "base"
    tip: Vec3 = (0.0, 0.0, 0.0)
    workspace: Workspace | None = None
    tilt: float | None = None
    force: float | None = None
    max_translation: float = 0.008
    max_rotation: float = 0.1
    lead: float = 0.1
    motion: Motion = field(default_factory=Motion)
    feedback_s: float = 0.1
    stale_s: float = 0.11
    disengage_s: float = 1.0
    dwell: float = 0.8
    gripper: Gripper = field(default_factory=Gripper)
    topics: Topics = field(default_factory=Topics)

    def __post_init__(self) -> None:
        if self.workspace is None:
            raise ConfigError(
                f"{self.robot}: no workspace box; say where the TCP may be, in metres in the base frame: "
                "workspace: {low: [x, y, z], high: [x, y, z]}"
            )
        if not _RATES[0] <= self.rate_hz <= _RATES[1]:
            raise ConfigError(f"{self.robot}: rate_hz: expected {_RATES[0]:g} to {_RATES[1]:g}, got {self.rate_hz:g}")
        if not 0 < self.control_hz <= self.rate_hz / 4:
            raise ConfigError(
                f"{self.robot}: control_hz: expected above 0 and at most a quarter of rate_hz, got {self.control_hz:g}"
            )
        if not 0 < self.stale_s < self.disengage_s or self.stale_s < 1.0 / self.control_hz:
            raise ConfigError(
                f"{self.robot}: expected 1 / control_hz <= stale_s < disengage_s, got {self.stale_s:g} and "
                f"{self.disengage_s:g} s"
            )
        if not 0.0 <= self.dwell <= 1.0:
            raise ConfigError(f"{self.robot}: dwell: expected 0 to 1, got {self.dwell:g}")
        positive = {f"motion.{key}": value for key, value in typed.to_dict(self.motion).items()}
        positive |= {key: getattr(self, key) for key in ("max_translation", "max_rotation", "lead", "feedback_s")}
        for key, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{self.robot}: {key}: expected a finite number above 0, got {value}")
        if self.gripper.opened == self.gripper.closed:
            raise ConfigError(f"{self.robot}: gripper: opened and closed are both {self.gripper.opened:g}")
        self._check_numbers()
        if self.motion.joint_scale > 1.0:
            raise ConfigError(f"{self.robot}: motion.joint_scale: expected at most 1, got {self.motion.joint_scale:g}")
        self.limits()

    def _check_numbers(self) -> None:
        """What only goes wrong once the arm moves."""
        share = 1.0 / math.sqrt(3.0)  # each axis gets this much of a norm, see ``PoseLimiter``
        for key, bound, speed in (
            ("max_translation", self.max_translation, self.motion.velocity),
            ("max_rotation", self.max_rotation, self.motion.turn_velocity),
        ):
            if bound * self.control_hz > share * speed:
                raise ConfigError(
                    f"{self.robot}: {key} {bound:g} {self.control_hz:g} times a second is faster than motion allows "
                    f"along one axis ({share * speed:.3g}); take a smaller {key} or a higher velocity"
                )
        if len(self.tip) != 3 or not all(map(math.isfinite, self.tip)):
            raise ConfigError(f"{self.robot}: tip: expected three finite numbers [m], got {self.tip}")
        if not self.topics.joint_states or not self.frame:
            raise ConfigError(f"{self.robot}: topics.joint_states and frame must not be empty")
        if self.force is not None and not self.topics.wrench:
            raise ConfigError(
                f"{self.robot}: force: {self.force:g} N cannot be kept without a topic: set topics.wrench"
            )
        ends = self.gripper.opened, self.gripper.closed
        if not all(map(math.isfinite, ends)) or ends[0] == ends[1]:
            raise ConfigError(f"{self.robot}: gripper: opened and closed must be two finite positions, got {ends}")
        if self.gripper.held is not None and not 0.0 <= self.gripper.held <= 1.0:
            raise ConfigError(f"{self.robot}: gripper.held: expected 0 to 1, got {self.gripper.held}")

    @property
    def period_ns(self) -> int:
        """Control period [ns]."""
        return int(1e9 / self.control_hz)

    def limits(self) -> SafetyLimits:
        """Limits of the cell, as ``SafeRobot`` knows them."""
        box = self.workspace or Workspace((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
        root = math.sqrt(3.0) * 1.001
        return SafetyLimits(
            box.low, box.high, root * self.max_translation, root * self.max_rotation, tilt=self.tilt, force=self.force
        )


def presets() -> list[str]:
    """Names of the built-in host configurations (all of simulated arms)."""
    folder = files("robolearn.hal.host").joinpath("presets")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def preset(name: str) -> HostConfig:
    """A built-in configuration.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in presets():
        raise ConfigError(f"unknown robot '{name}'{suggest(name, presets())}; real arms are named in the site file")
    text = files("robolearn.hal.host").joinpath("presets", f"{name}.yaml")
    return load(Path(str(text)))


def load(path: Path) -> HostConfig:
    """A host configuration from a YAML file; raises ConfigError with the key that is wrong."""
    return from_mapping(typed.load_yaml(path), where=path.name)


def from_mapping(data: Mapping[str, Any], *, where: str = "host") -> HostConfig:
    """A host configuration from plain data; raises ConfigError with the key that is wrong."""
    if "workspace" not in data or data["workspace"] is None:
        name = data.get("robot", where)
        return HostConfig(robot=str(name))  # says what is missing
    return typed.from_dict(HostConfig, dict(data))


def simulated(config: HostConfig) -> HostConfig:
    """The same set-up on a simulated arm, for a dry run."""
    return replace(config, simulated=True)
