"""Tasks of dm_control and other dm_env environments: dm:DOMAIN/TASK, dm:manipulation/NAME."""

from __future__ import annotations

from typing import Literal

from robolearn.hal.limits import BoundsOnly
from robolearn.sim.environments import task
from robolearn.sim.environments.config import EnvironmentConfig as Config
from robolearn.sim.environments.config import World
from robolearn.sim.environments.task import EnvironmentTask

__all__ = ["BY_ID", "ROBOT", "TIERS", "Config", "build", "check", "label", "limits", "remarks", "scene"]

TIERS: dict[str, Config] = {"default": Config()}
ROBOT = "environment"
"""The robot driver that holds the environment."""
BY_ID = True
"""What follows the colon on a command line is ``env.id``, not a tier."""


def scene(config: Config) -> World:
    """Which environment the robot driver opens."""
    return World("dm", config)


def limits(config: Config) -> BoundsOnly:
    """An environment cannot hurt anybody: finite actions within its bounds are all that is asked."""
    return BoundsOnly()


def build(config: Config, *, obs: Literal["state", "pixels"] = "state") -> EnvironmentTask:
    """The task; it shows what the environment shows, images as well if there are any."""
    return EnvironmentTask(scene(config), obs)


def check(config: Config) -> None:
    """Try the environment before a run is made; raises ConfigError or MissingDependencyError."""
    task.check(scene(config))


def remarks(config: Config) -> list[str]:
    """What a user should know before a run, such as what counts as success."""
    return task.remarks(scene(config))


def label(config: Config) -> str:
    """Short name for run directories."""
    return "dm-" + "".join(c if c.isalnum() or c in "._-" else "-" for c in config.id)
