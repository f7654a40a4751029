"""Where a host's configuration comes from: a built-in arm or one of the site file, and ROS parameters on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from robolearn.core import config as typed
from robolearn.core.errors import ConfigError
from robolearn.hal.host import config as hosts
from robolearn.hal.host.config import HostConfig

OWN = ("robot", "config", "state_dir", "cameras", "use_sim_time", "start_type_description_service")
"""Parameters of the node itself; all others are keys of ``HostConfig``."""


def host_config(robot: str, text: str, parameters: Mapping[str, Any]) -> HostConfig:
    """The configuration of one host.

    Args:
        robot: a built-in configuration or a robot of the site file.
        text: a whole configuration as YAML instead; empty for none.
        parameters: dotted keys with values that come on top.

    Raises:
        ConfigError: one line about what is missing or wrong.
    """
    if text:
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"config: not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"config: expected a mapping, got {type(data).__name__}")
    else:
        from robolearn.ros import robots

        found = robots.find(robot)
        data = dict(found.mapping) or typed.to_dict(found.config)
    return hosts.from_mapping(_merged(data, nested(parameters)), where=robot)


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"workspace.low": [...]}`` as nested mappings."""
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        *path, last = key.split(".")
        branch = tree
        for name in path:
            branch = branch.setdefault(name, {})
        branch[last] = list(value) if not isinstance(value, str | bool | int | float) else value
    return tree


def _merged(data: Any, extra: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(data or {})
    for key, value in extra.items():
        whole[key] = _merged(whole.get(key), value) if isinstance(value, Mapping) else value
    return whole
