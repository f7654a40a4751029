"""What ``robot:=NAME`` means: a built-in simulated robot, or an entry of the site file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robolearn.core.errors import ConfigError, suggest
from robolearn.hal import site
from robolearn.hal.host import config

_FIRST = "/fr3_1"


@dataclass(frozen=True)
class Robot:
    """A robot that a host can be started for.

    Attributes:
        name: as in ``robot:=NAME``.
        config: set-up of its host, checked.
        mapping: the same as the site file has it; empty for a built-in robot.
        namespace: where it lives unless another namespace is asked for.
    """

    name: str
    config: config.HostConfig
    mapping: Mapping[str, Any]
    namespace: str


def find(name: str, place: site.Site | None = None) -> Robot:
    """The robot of that name; an entry of the site file goes before a built-in robot.

    Args:
        place: the site; None reads the site file.

    Raises:
        ConfigError: there is none, or its entry cannot be hosted; one line.
    """
    place = site.load() if place is None else place
    entry = place.robots.get(name)
    if entry is None:
        if name in config.presets():
            return Robot(name, config.preset(name), {}, _FIRST)
        names = [*config.presets(), *(key for key, robot in place.robots.items() if robot.host)]
        where = f"site file: {place.path}" if place.path else "there is no site file, see docs/robot-host.md"
        raise ConfigError(f"unknown robot '{name}'{suggest(name, names)}; {where}")
    if entry.driver != "ros2" or not entry.host:
        raise ConfigError(
            f"robot {name}: expected driver: ros2 and a host: mapping in {place.path}, got driver: {entry.driver}"
            + ("" if entry.host else " and no host:")
        )
    if entry.host.get("simulated", entry.simulated) != entry.simulated:
        raise ConfigError(
            f"robot {name}: simulated differs between the entry and its host: in {place.path}; say it once"
        )
    mapping = {"robot": name, "simulated": entry.simulated, **entry.host}
    return Robot(name, config.from_mapping(mapping, where=name), mapping, entry.instance)
