"""Parameters of the simulated arm: declared, typed, described, and refused where they make no sense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from robolearn.core import plugins
from robolearn.core.errors import ConfigError, suggest
from robolearn.core.spec import Array
from robolearn.ros.sim_arm_cameras import Cameras
from robolearn.ros.sim_arm_faults import CAMERA_FAULTS, GRIPPER_FAULTS, JOINT_FAULTS
from robolearn.sim.impedance import Gains
from robolearn.sim.live_arm import Config, unit_pose
from robolearn.sim.scene import Scene

MAX_FORCE_N = 200.0
MAX_CAMERA_HZ = 60.0
MAX_WIDTH, MAX_HEIGHT = 1280, 960
_CHOICES = {
    "fault.joint_states": JOINT_FAULTS,
    "fault.camera": CAMERA_FAULTS,
    "fault.gripper": GRIPPER_FAULTS,
}


@dataclass(frozen=True)
class Settings:
    """What the node was started with."""

    scene: Scene
    arm: Config
    cameras: Cameras
    camera_hz: float


def declare(node: Any) -> Settings:
    """Declare the parameters that are read once, and return their values.

    Raises:
        ConfigError: a value makes no sense; the message names the parameter.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    def fixed(name: str, default: Any, description: str, low: Any = None, high: Any = None) -> Any:
        descriptor = ParameterDescriptor(description=f"{description} (read at start)", read_only=True)
        if isinstance(low, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif low is not None:
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        return _declared(node, name, default, descriptor)

    name = fixed("task", "peg_insert", "Task whose scene stands around the arm")
    task = plugins.load("task", name)
    tier = fixed("tier", "default", f"Difficulty of the task, one of {', '.join(task.TIERS)}")
    if tier not in task.TIERS:
        raise ConfigError(f"tier: unknown '{tier}'{suggest(tier, task.TIERS)}")
    names = tuple(filter(None, fixed("cameras", [""], "Cameras to publish: wrist, side, front")))
    camera_hz = fixed("camera_hz", 30.0, "Images per second and camera", 0.1, MAX_CAMERA_HZ)
    cameras = Cameras(
        node.get_namespace(),
        name,
        tier,
        names,
        fixed("image_width", 640, "Width of images [px]", 16, MAX_WIDTH),
        fixed("image_height", 480, "Height of images [px]", 16, MAX_HEIGHT),
        fixed("raw", True, "Publish <camera>/image_raw when somebody listens"),
        fixed("compressed", True, "Publish <camera>/image_raw/compressed (JPEG) when somebody listens"),
    )
    default = Gains()
    gains = {f.name: getattr(default, f.name) for f in fields(Gains)}
    for key, value in gains.items():
        gains[key] = fixed(f"gains.{key}", value, f"Impedance at the tool tip: {key}", 0.0, 1e4)
    seed = fixed("home_seed", 0, "0: the published home posture; else it is displaced at random", 0, 2**31)
    return Settings(task.scene(task.TIERS[tier]), Config(Gains(**gains), home_seed=seed), cameras, camera_hz)


def _declared(node: Any, name: str, default: Any, descriptor: Any) -> Any:
    """Declare a parameter and return its value."""
    from rclpy.exceptions import ParameterException

    try:
        return node.declare_parameter(name, default, descriptor).value
    except ParameterException as error:  # a wrong type, or out of the declared range
        raise ConfigError(f"parameter {name}: {' '.join(str(error).split())}") from error


class Changes:
    """Parameters that may change while the arm runs; a refused value leaves the old one.

    Args:
        node: declares them.
        bodies: body of the scene -> its pose at the start (7,).
        changed: called with name and value of every accepted change, in the thread that serves the node, and for
            every value given at the start that differs from the default.
    """

    def __init__(self, node: Any, bodies: dict[str, Array], changed: Callable[[str, Any], None]) -> None:
        from rcl_interfaces.msg import ParameterDescriptor

        defaults: dict[str, tuple[Any, str]] = {
            f"scene.{body}": (pose.tolist(), "Pose of the body: x, y, z [m], quaternion w, x, y, z; base frame")
            for body, pose in bodies.items()
        }
        for name, choices in _CHOICES.items():
            defaults[name] = ("none", f"Fault to simulate, one of {', '.join(choices)}")
        defaults["fault.force_n"] = (0.0, "Setting it pushes the tip upwards with this force [N] for fault.force_s")
        defaults["fault.force_s"] = (0.3, "How long fault.force_n pushes [s]")
        self._names = frozenset(defaults)
        for name, (value, description) in defaults.items():
            given = _declared(node, name, value, ParameterDescriptor(description=description))
            problem = self._problem(name, given)
            if problem:
                raise ConfigError(problem)
            if given is not None and list(np.atleast_1d(given)) != list(np.atleast_1d(value)):
                changed(name, given)
        self._changed = changed
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._accept)

    def _check(self, parameters: Sequence[Any]) -> Any:
        from rcl_interfaces.msg import SetParametersResult

        for parameter in parameters:
            problem = self._problem(parameter.name, parameter.value) if parameter.name in self._names else ""
            if problem:
                return SetParametersResult(successful=False, reason=problem)
        return SetParametersResult(successful=True)

    def _accept(self, parameters: Sequence[Any]) -> None:
        for parameter in parameters:
            if parameter.name in self._names:
                self._changed(parameter.name, parameter.value)

    def _problem(self, name: str, value: Any) -> str:
        """Why a value is refused; empty when it is fine."""
        if name in _CHOICES:
            return "" if value in _CHOICES[name] else f"{name}: unknown '{value}'{suggest(str(value), _CHOICES[name])}"
        if name.startswith("scene."):
            try:
                unit_pose(np.array(value, dtype=np.float64))
            except (ConfigError, TypeError, ValueError) as error:
                return f"{name}: {error}"
            return ""
        limit = MAX_FORCE_N if name == "fault.force_n" else 10.0
        return "" if 0.0 <= value <= limit else f"{name}: expected 0 to {limit:g}, got {value}"
