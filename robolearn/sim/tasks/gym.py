"""Any Gymnasium environment with Box observations (or a flat Dict of them) and Box actions: gym:ENV_ID."""

from __future__ import annotations

from robolearn.sim.environments.config import EnvironmentConfig as Config
from robolearn.sim.environments.plugin import ROBOT, EnvironmentPlugin

__all__ = ["BY_ID", "ROBOT", "TIERS", "Config", "build", "check", "label", "limits", "remarks", "scene"]

TIERS: dict[str, Config] = {"default": Config()}
BY_ID = True
"""What follows the colon on a command line is ``env.id``, not a tier."""

_plugin = EnvironmentPlugin("gym")
scene, limits, build = _plugin.scene, _plugin.limits, _plugin.build
check, remarks, label = _plugin.check, _plugin.remarks, _plugin.label
