"""Find a robot, task, policy, ... by name: a module of a package, or an entry point of another distribution."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType

from robolearn.core.errors import ConfigError, suggest

GROUPS: dict[str, tuple[str, ...]] = {
    "robot": ("robolearn.hal.drivers", "robolearn.sim.drivers", "robolearn.ros.drivers"),
    "task": ("robolearn.sim.tasks",),
    "policy": ("robolearn.policies",),
    "reward": ("robolearn.rewards",),
    "teleop": ("robolearn.teleop.devices",),
    "probe": ("robolearn.hal.probes", "robolearn.ros.probes"),
}
"""Plug-in group -> packages whose public modules are its members; entry points use ``robolearn.<group>``."""


def _modules(group: str) -> dict[str, str]:
    """Name -> module path of all plug-ins of a group; nothing but the packages themselves is imported."""
    if group not in GROUPS:
        raise ConfigError(f"unknown plug-in group '{group}'{suggest(group, GROUPS)}")
    found: dict[str, str] = {}
    for package in GROUPS[group]:
        for module in pkgutil.iter_modules(_folders(package)):
            if not module.ispkg and not module.name.startswith("_"):
                found[module.name] = f"{package}.{module.name}"
    for entry in entry_points(group=f"robolearn.{group}"):
        found[entry.name] = entry.value
    return found


def _folders(package: str) -> list[str]:
    """Where the modules of a package lie; empty for a package that is not installed."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return []
    return list(spec.submodule_search_locations or ()) if spec else []


def names(group: str) -> list[str]:
    """Names of all plug-ins of a group, without importing any of them."""
    return sorted(_modules(group))


def locate(group: str, name: str) -> str:
    """Module path of a plug-in; nothing is imported.

    Raises:
        ConfigError: no plug-in of that name; the message names the nearest.
    """
    found = _modules(group)
    if name not in found:
        raise ConfigError(f"unknown {group} '{name}'{suggest(name, found)}")
    return found[name]


def load(group: str, name: str) -> ModuleType:
    """The plug-in module: it exports a frozen ``Config`` dataclass and its build functions; raises like ``locate``."""
    return importlib.import_module(locate(group, name))
