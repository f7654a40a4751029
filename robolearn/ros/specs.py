"""Which processes make a robot host, a simulated arm, teleoperation and learning.

Plain data: the launch files and ``robolearn host up`` start the same specs. No ROS is imported here.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from robolearn.core.errors import ConfigError
from robolearn.ros.context import profile_path
from robolearn.ros.robots import find

Value = bool | int | float | str | Sequence[str] | Sequence[float]
"""A ROS parameter."""

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
TELEOP = ("none", "joy", "twist")
"""What moves a robot by hand: nothing, a sensor_msgs/Joy topic, a geometry_msgs/TwistStamped topic."""
SIM = ("auto", "true", "false")
"""Whether the arm must be simulated: as the robot says, yes, no."""

_GUARD, _LIBRARIES = "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH"
_TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class NodeSpec:
    """One process.

    Attributes:
        executable: its name for ``ros2 run robolearn``.
        name: name of the node.
        namespace: absolute namespace of the node.
        module: Python module that is run.
        parameters: ROS parameters; those of ``params_file`` win.
        params_file: YAML file with ROS parameters, or empty.
        remaps: (from, to) names.
        env: environment variables, where the user has not set them.
        required: its end ends the rest.
        log_level: one of ``LOG_LEVELS``.
        arguments: plain arguments.
        ros: whether it understands ``--ros-args``.
    """

    executable: str
    name: str
    namespace: str
    module: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    params_file: str = ""
    remaps: tuple[tuple[str, str], ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    required: bool = True
    log_level: str = "info"
    arguments: tuple[str, ...] = ()
    ros: bool = True

    @property
    def label(self) -> str:
        """Full name of the node, for people."""
        return f"{self.namespace.rstrip('/')}/{self.name}"


def robot_host(
    *,
    robot: str = "fr3_sim",
    namespace: str = "",
    params_file: str = "",
    use_sim: str = "auto",
    use_sim_time: bool = False,
    task: str = "peg_insert",
    tier: str = "default",
    cameras: str = "",
    teleop: str = "none",
    log_level: str = "info",
    robots: int = 1,
) -> list[NodeSpec]:
    """The host of a robot and, for a simulated robot only, its arm.

    Args:
        robot: ``fr3_sim``, or a robot of the site file; a real arm is moved only when it is named here.
        namespace: empty takes the robot's own; several robots count up from its trailing number.
        use_sim: ``true`` or ``false`` refuse a robot that is not that; ``auto`` takes what the robot is.
        task, tier: task whose scene stands around a simulated arm.
        cameras: cameras of a simulated arm, separated by commas.
        robots: how many simulated robots.

    Raises:
        ConfigError: an argument is wrong; one line.
    """
    _among("use_sim", use_sim, SIM)
    _among("teleop", teleop, TELEOP)
    found = find(robot)
    if use_sim != "auto" and (use_sim == "true") != found.config.simulated:
        what, other = (
            ("simulated", "a real robot of the site file") if found.config.simulated else ("real", "robot:=fr3_sim")
        )
        raise ConfigError(f"use_sim:={use_sim} but robot {robot} is {what}; take {other}, or leave use_sim away")
    if robots < 1 or (robots > 1 and not found.config.simulated):
        raise ConfigError(f"robots: expected 1 for the robot {robot}, got {robots}; only simulated ones are many")
    specs = []
    for space in _namespaces(absolute(namespace or found.namespace), robots):
        if found.config.simulated:
            specs += sim_arm(
                namespace=space, params_file=params_file, task=task, tier=tier, cameras=cameras, log_level=log_level
            )
        parameters: dict[str, Value] = {"robot": robot, "use_sim_time": use_sim_time}
        specs.append(_node("robot_host", space, parameters, params_file, log_level))
        if teleop != "none":
            specs += teleoperation(namespace=space, device=teleop, params_file=params_file, log_level=log_level)
    return specs


def sim_arm(
    *,
    namespace: str = "/fr3_1",
    params_file: str = "",
    task: str = "peg_insert",
    tier: str = "default",
    cameras: str = "",
    log_level: str = "info",
) -> list[NodeSpec]:
    """A simulated arm alone, speaking what the controllers of a real one speak.

    Args:
        task, tier: task whose scene stands around it.
        cameras: names of cameras to render, separated by commas; none are rendered without.
    """
    parameters: dict[str, Value] = {"task": task, "tier": tier}
    if cameras:
        parameters["cameras"] = _names(cameras)
    return [_node("sim_arm", absolute(namespace), parameters, params_file, log_level)]


def teleoperation(
    *, namespace: str = "/fr3_1", device: str = "joy", params_file: str = "", log_level: str = "info"
) -> list[NodeSpec]:
    """Moving a robot by hand through its host; the topic of the device is ``joy`` or ``twist`` in the namespace."""
    _among("device", device, TELEOP[1:])
    space = absolute(namespace)
    spec = _node("teleop", space, {"device": device, "host": space}, params_file, log_level, module="teleop_joy")
    return [spec]


def learn(
    *, task: str = "peg_insert", tier: str = "", robot: str = "fr3_sim", robots: int = 0, args: str = ""
) -> list[NodeSpec]:
    """Training as ``robolearn train`` does it.

    Args:
        robot: robot of the run: ``fr3_sim`` in process, ``ros2:/fr3_1`` behind a robot host.
        robots: how many of them; 0 takes those that are named.
        args: more options of ``robolearn train``, separated by spaces.
    """
    words = ["train", f"{task}:{tier}" if tier else task, "--robot", robot, "--headless"]
    if robots:
        words += ["--robots", str(robots)]
    return [NodeSpec("learn", "learn", "/", "robolearn.cli.main", arguments=(*words, *args.split()), ros=False)]


def command(spec: NodeSpec) -> list[str]:
    """The command line of a process."""
    line = [sys.executable, "-m", spec.module, *spec.arguments]
    if not spec.ros:
        return line
    line += ["--ros-args", "-r", f"__ns:={spec.namespace}", "-r", f"__node:={spec.name}"]
    for name, value in spec.parameters.items():
        # JSON is YAML; a text stays a text because it is quoted.
        line += ["-p", f"{name}:={json.dumps(value)}"]
    if spec.params_file:
        line += ["--params-file", spec.params_file]
    for old, new in spec.remaps:
        line += ["-r", f"{old}:={new}"]
    return [*line, "--log-level", spec.log_level]


def additional(spec: NodeSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of a spec that the user has not set."""
    return {name: value for name, value in spec.env.items() if name not in environ}


def environment(spec: NodeSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a process.

    The guard variable of the ROS wheels without their library path (after sudo or in a service) would keep rclpy from
    being imported; without the guard the process finds the libraries itself.
    """
    env = {**environ, **additional(spec, environ)}
    if _GUARD in env and not env.get(_LIBRARIES):
        del env[_GUARD]
    return env


def absolute(namespace: str) -> str:
    """A namespace with its leading slash.

    Raises:
        ConfigError: it is not a name ROS accepts.
    """
    tokens = namespace.strip("/").split("/")
    if not all(_TOKEN.fullmatch(token) and "__" not in token for token in tokens):
        raise ConfigError(f"namespace: expected letters, digits and single _ like /fr3_1, got '{namespace}'")
    return "/" + "/".join(tokens)


def _namespaces(first: str, count: int) -> list[str]:
    """``/fr3_1``, ``/fr3_2``, ...; a name without a number gets one, where there are several."""
    stem = first.rstrip("0123456789")
    if count == 1:
        return [first]
    if stem == first:
        return [f"{first}_{i + 1}" for i in range(count)]
    return [f"{stem}{int(first[len(stem) :]) + i}" for i in range(count)]


def _node(
    executable: str, space: str, parameters: Mapping[str, Value], params_file: str, log_level: str, module: str = ""
) -> NodeSpec:
    _among("log_level", log_level, LOG_LEVELS)
    path = os.path.abspath(params_file) if params_file else ""
    if path and not os.path.isfile(path):
        raise ConfigError(f"params_file: no such file: {path}")
    # The built-in transport of Fast DDS loses most raw images.
    env = {
        "FASTDDS_DEFAULT_PROFILES_FILE": str(profile_path()),
        "PYTHONUNBUFFERED": "1",
        **dict.fromkeys(_THREADS, "1"),
    }
    return NodeSpec(
        executable, executable, space, f"robolearn.ros.{module or executable}", parameters, path, env=env,
        log_level=log_level,
    )  # fmt: skip


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(_TOKEN.fullmatch(name) for name in names):
        raise ConfigError(f"cameras: expected names separated by commas like wrist,front, got '{text}'")
    return names


def _among(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}: expected one of {', '.join(choices)}, got '{value}'")
