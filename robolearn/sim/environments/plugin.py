"""What the task plug-ins of environments have in common: ``gym`` and ``dm`` differ in the library alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robolearn.hal.limits import BoundsOnly
from robolearn.sim.environments import task
from robolearn.sim.environments.config import EnvironmentConfig, World

ROBOT = "environment"
"""The robot driver that holds the environment."""


@dataclass(frozen=True)
class EnvironmentPlugin:
    """The functions of a task module.

    Attributes:
        library: ``gym`` or ``dm``.
    """

    library: Literal["gym", "dm"]

    def scene(self, config: EnvironmentConfig) -> World:
        """Which environment the robot driver opens."""
        return World(self.library, config)

    def limits(self, config: EnvironmentConfig) -> BoundsOnly:
        """An environment cannot hurt anybody: finite actions within its bounds are all that is asked."""
        return BoundsOnly()

    def build(self, config: EnvironmentConfig, *, obs: Literal["state", "pixels"] = "state") -> task.EnvironmentTask:
        """The task; it shows what the environment shows, images as well if there are any."""
        return task.EnvironmentTask(self.scene(config), obs)

    def check(self, config: EnvironmentConfig) -> None:
        """Try the environment before a run is made; raises ConfigError or MissingDependencyError."""
        task.check(self.scene(config))

    def remarks(self, config: EnvironmentConfig) -> list[str]:
        """What a user should know before a run, such as what counts as success."""
        return task.remarks(self.scene(config))

    def label(self, config: EnvironmentConfig) -> str:
        """Short name for run directories."""
        return f"{self.library}-" + "".join(c if c.isalnum() or c in "._-" else "-" for c in config.id)
