"""The site file: which robots, cameras and teleoperation devices a place has.

    robots:
      fr3_left:
        driver: ros2
        instance: /fr3_left
        simulated: false
        labels: {bench: A}
        host: {model: fr3, profile: cartesian_pose, workspace: {low: [0.3, -0.3, 0.0], high: [0.7, 0.3, 0.5]}}
    cameras:
      side: {device: /dev/video0}
    teleop:
      mouse: {type: spacemouse}

``host`` is the configuration of the robot's host process. Real hardware that is driven through a host has to say where
the tip may be.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robolearn.core import config, plugins
from robolearn.core.errors import ConfigError, suggest
from robolearn.hal.resources import Resource

NAME = "site.yaml"
_HOSTED = frozenset({"ros2"})
"""Drivers whose commands a host process bounds, so that it needs to know the workspace."""


@dataclass(frozen=True)
class SiteRobot:
    """A robot of the site.

    Attributes:
        driver: its driver, as ``robolearn hal ls`` lists them.
        instance: which one of that driver's robots: for ``ros2`` its namespace; without it, the name of the entry.
        simulated: nothing and nobody can be hurt; has to be said.
        labels: what jobs may ask for.
        host: configuration of its host process, as the host reads it.
    """

    driver: str
    instance: str = ""
    simulated: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """Id of the resource."""
        return f"{self.driver}:{self.instance}"

    def words(self, name: str) -> dict[str, str]:
        """All labels of the resource: those given, the name of its entry, its driver and its host's arm model."""
        model = (self.host or {}).get("model", "")
        return {**_given(model=str(model)), **self.labels, "name": name, "driver": self.driver}


@dataclass(frozen=True)
class SiteCamera:
    """A camera: a Video4Linux device of this machine or a topic of images.

    Attributes:
        device: device node, such as ``/dev/video0`` or a name below ``/dev/v4l/by-id``.
        topic: ROS topic of its images.
        labels: what jobs may ask for.
    """

    device: str = ""
    topic: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.device) == bool(self.topic):
            raise ValueError(f"give either device or topic, got device '{self.device}' and topic '{self.topic}'")


@dataclass(frozen=True)
class SiteTeleop:
    """A device to drive robots with.

    Attributes:
        type: ``spacemouse``, ``gamepad``, ``leader``, ...
        device: device node; empty for the first of that type.
        labels: what jobs may ask for.
    """

    type: str
    device: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Content:
    """What may stand in the file."""

    robots: Mapping[str, SiteRobot] = field(default_factory=dict)
    cameras: Mapping[str, SiteCamera] = field(default_factory=dict)
    teleop: Mapping[str, SiteTeleop] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A site file that was read; empty, with ``path`` None, where there is none."""

    path: Path | None = None
    robots: Mapping[str, SiteRobot] = field(default_factory=dict)
    cameras: Mapping[str, SiteCamera] = field(default_factory=dict)
    teleop: Mapping[str, SiteTeleop] = field(default_factory=dict)

    def robot(self, name: str) -> SiteRobot:
        """The robot of that name or id.

        Raises:
            ConfigError: there is none; the message names the nearest, or says where a site file may lie.
        """
        for key, robot in self.robots.items():
            if name in (key, robot.id):
                return robot
        if self.path is None:
            places = ", ".join(map(str, candidates({})))
            raise ConfigError(
                f"unknown robot '{name}': there is no site file; write one ({places}) or set ROBOLEARN_SITE"
            )
        raise ConfigError(f"{self.path}: unknown robot '{name}'{suggest(name, self.robots)}")

    def resources(self) -> tuple[Resource, ...]:
        """Everything declared, as resources; the label ``name`` is the name of the entry."""
        robots = [Resource(r.id, "robot", r.words(name), simulated=r.simulated) for name, r in self.robots.items()]
        cameras = [
            Resource(f"camera:{name}", "camera", {**c.labels, "name": name, **_given(device=c.device, topic=c.topic)})
            for name, c in self.cameras.items()
        ]
        teleop = [
            Resource(
                f"{t.type}:{name}", "teleop", {**t.labels, "name": name, "type": t.type, **_given(device=t.device)}
            )
            for name, t in self.teleop.items()
        ]
        return (*robots, *cameras, *teleop)


def candidates(environment: Mapping[str, str]) -> list[Path]:
    """Where a site file is looked for, first to last."""
    named = environment.get("ROBOLEARN_SITE")
    if named:
        return [Path(named)]
    return [Path(NAME), Path.home() / ".config" / "robolearn" / NAME, Path("/etc/robolearn") / NAME]


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Site:
    """Read the site file.

    Args:
        path: the file; without it the first that exists of ``$ROBOLEARN_SITE``, ``./site.yaml``,
            ``~/.config/robolearn/site.yaml`` and ``/etc/robolearn/site.yaml``.
        environment: where ``ROBOLEARN_SITE`` is looked up; the process's own when not given.

    Raises:
        ConfigError: a named file is absent, or something in it is wrong; the message names file and key.
    """
    environment = os.environ if environment is None else environment
    if path is None:
        named = bool(environment.get("ROBOLEARN_SITE"))
        path = next((place for place in candidates(environment) if named or place.is_file()), None)
        if path is None:
            return Site()
    data = config.load_yaml(path)
    try:
        content = config.from_dict(_Content, data)
        robots = {name: _checked(name, robot) for name, robot in content.robots.items()}
        _refuse_twins(robots)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return Site(path, robots, content.cameras, content.teleop)


def _checked(name: str, robot: SiteRobot) -> SiteRobot:
    """The robot with its instance filled in, when a driver can be found and real hardware says where it may go."""
    key = f"robots.{name}"
    try:
        plugins.locate("robot", robot.driver)
    except ConfigError as error:
        raise ConfigError(f"{key}.driver: {error}") from error
    if robot.driver in _HOSTED and not robot.simulated:
        workspace = (robot.host or {}).get("workspace")
        if not isinstance(workspace, Mapping) or not {"low", "high"} <= workspace.keys():
            raise ConfigError(
                f"{key}.host.workspace: missing for real hardware, expected low and high, each x, y, z [m] in the base "
                "frame: the box the tip may not leave; or say simulated: true"
            )
    default = f"/{name}" if robot.driver in _HOSTED else name
    return replace(robot, instance=robot.instance or default)


def _refuse_twins(robots: Mapping[str, SiteRobot]) -> None:
    seen: dict[str, str] = {}
    for name, robot in robots.items():
        other = seen.setdefault(robot.id, name)
        if other != name:
            raise ConfigError(
                f"robots.{name}.instance: {robot.id} is robots.{other} already; give every robot an instance of its own"
            )


def _given(**labels: str) -> dict[str, str]:
    return {key: value for key, value in labels.items() if value}
