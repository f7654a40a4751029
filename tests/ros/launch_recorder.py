"""What a launch file does with ``launch`` and ``launch_ros``, recorded; not used where the real ones are."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Recorded:
    """An action: its class, and what it was given."""

    def __init__(self, *args: Any, **given: Any) -> None:
        self.args, self.given = args, given


class LaunchDescription(Recorded):
    @property
    def entities(self) -> Sequence[Recorded]:
        return self.args[0]


class DeclareLaunchArgument(Recorded):
    """Checks what the real one checks when it is made."""

    def __init__(
        self, name: str, *, default_value: str | None = None, description: str = "", choices: list[str] | None = None
    ) -> None:
        assert choices is None or (choices and (default_value is None or default_value in choices))
        super().__init__(name, default_value=default_value, description=description, choices=choices)


class OpaqueFunction(Recorded): ...


class Shutdown(Recorded): ...


class ExecuteProcess(Recorded):
    """Takes the keywords that the real one takes."""

    known = frozenset(("cmd", "name", "cwd", "env", "additional_env", "output", "on_exit", "emulate_tty", "respawn",
                       "sigterm_timeout", "sigkill_timeout"))  # fmt: skip

    def __init__(self, **given: Any) -> None:
        assert given.keys() <= self.known, given.keys() - self.known
        super().__init__(**given)


class Node(ExecuteProcess):
    known = ExecuteProcess.known - {"cmd"} | {"executable", "package", "namespace", "exec_name", "parameters",
                                              "remappings", "ros_arguments", "arguments"}  # fmt: skip


class ParameterValue(Recorded):
    def __init__(self, value: Any, *, value_type: type | None = None) -> None:
        super().__init__(value, value_type=value_type)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the recording modules where ``import`` finds them."""
    modules = {
        "launch": {"LaunchDescription": LaunchDescription},
        "launch.actions": {
            "DeclareLaunchArgument": DeclareLaunchArgument,
            "OpaqueFunction": OpaqueFunction,
            "Shutdown": Shutdown,
            "ExecuteProcess": ExecuteProcess,
        },
        "launch_ros": {},
        "launch_ros.actions": {"Node": Node},
        "launch_ros.parameter_descriptions": {"ParameterValue": ParameterValue},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)


def read(path: Path) -> LaunchDescription:
    """What ``generate_launch_description`` of a launch file returns."""
    spec = importlib.util.spec_from_file_location(path.name.replace(".", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def declared(description: LaunchDescription) -> dict[str, dict[str, Any]]:
    """Name of each argument -> default, description, choices."""
    return {e.args[0]: e.given for e in description.entities if isinstance(e, DeclareLaunchArgument)}


def start(description: LaunchDescription, **chosen: str) -> list[Recorded]:
    """The actions for these arguments, the others at their defaults; choices are checked as the launch tool does."""
    arguments = declared(description)
    given = {name: a["default_value"] for name, a in arguments.items()} | chosen
    for name, value in given.items():
        choices = arguments[name]["choices"]
        assert choices is None or value in choices, f"{name}: {value} is no choice"
    (function,) = [e.given["function"] for e in description.entities if isinstance(e, OpaqueFunction)]
    return function(SimpleNamespace(launch_configurations=given))
