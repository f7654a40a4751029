"""From node specs to a ``launch`` description; the launch tool is imported only here, when a launch file is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robolearn.ros.specs import LOG_LEVELS, SIM, TELEOP, NodeSpec, additional, command

_BOOL = ("true", "false")
_PATIENCE_S = "2"
"""How long a node may take to end before it is sent the next stronger signal [s]."""


@dataclass(frozen=True)
class Argument:
    """A launch argument; one with the choices ``true`` and ``false`` reaches its function as a bool."""

    name: str
    description: str
    default: str = ""
    choices: tuple[str, ...] = ()
    number: bool = False

    def read(self, text: str) -> str | bool | int:
        """The value of what the user wrote.

        Raises:
            ConfigError: not a whole number where one is wanted.
        """
        from robolearn.core.errors import ConfigError

        if self.choices == _BOOL:
            return text == "true"
        if not self.number:
            return text
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{self.name}: expected a whole number, got '{text}'") from None


NAMESPACE = Argument("namespace", "namespace of the robot", "/fr3_1")
PARAMS_FILE = Argument(
    "params_file", "YAML file of ROS parameters, keyed /**/robot_host and /**/sim_arm; wins over all"
)
USE_SIM = Argument("use_sim", "refuse a robot that is not simulated (true) or not real (false)", "auto", SIM)
USE_SIM_TIME = Argument("use_sim_time", "stamps from /clock", "false", _BOOL)
TASK = Argument("task", "task whose scene stands around a simulated arm", "peg_insert")
TIER = Argument("tier", "difficulty of the task", "default")
CAMERAS = Argument("cameras", "cameras of a simulated arm (wrist, side, front), separated by commas; empty for none")
LOG_LEVEL = Argument("log_level", "what the nodes log", "info", LOG_LEVELS)
TELEOP_DEVICE = Argument("teleop", "also move the robot by hand, from this kind of topic", "none", TELEOP)


def describe(arguments: Sequence[Argument], build: Callable[..., list[NodeSpec]]) -> Any:
    """A LaunchDescription.

    Args:
        build: gets the arguments by their names and returns the processes; what it raises ends the launch in one line.
    """
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    def start(context: Any) -> list[Any]:
        given = context.launch_configurations
        return [action(spec) for spec in build(**{a.name: a.read(given[a.name]) for a in arguments})]

    declared = [
        DeclareLaunchArgument(
            a.name, default_value=a.default, description=a.description, choices=list(a.choices) or None
        )
        for a in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def action(spec: NodeSpec) -> Any:
    """The action that starts a process; the end of a required one shuts everything down."""
    from launch.actions import ExecuteProcess, Shutdown
    from launch_ros.actions import Node
    from launch_ros.parameter_descriptions import ParameterValue

    common = {
        "additional_env": additional(spec, os.environ),
        "output": "screen",
        "on_exit": Shutdown(reason=f"{spec.label} has ended") if spec.required else None,
        "sigterm_timeout": _PATIENCE_S,
        "sigkill_timeout": _PATIENCE_S,
    }
    line = command(spec)
    if not spec.ros:
        return ExecuteProcess(cmd=line, name=spec.name, **common)
    # A text would be read as YAML a second time without its type.
    parameters: list[Any] = [
        {k: ParameterValue(v, value_type=str) if isinstance(v, str) else v for k, v in spec.parameters.items()}
    ]
    return Node(
        executable=line[0],
        arguments=["-m", spec.module, *spec.arguments],
        name=spec.name,
        namespace=spec.namespace,
        exec_name=spec.executable,
        parameters=parameters + ([spec.params_file] if spec.params_file else []),
        remappings=list(spec.remaps),
        ros_arguments=["--log-level", spec.log_level],
        **common,
    )
