"""Robots for one command: leased while it evaluates, films or records on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from robolearn.core import plugins
from robolearn.core.errors import ConfigError, LeaseError
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.guard import Grant, Guard
from robolearn.run.place import LocalScheduler
from robolearn.run.robots import shared
from robolearn.run.roles import borrowing
from robolearn.run.rundir import load_config


class Loan:
    """The robots of a command; without any, it works on private simulated copies."""

    def __init__(self, scheduler: LocalScheduler | None) -> None:
        self._scheduler = scheduler
        self.grants: list[Grant] = [] if scheduler is None else scheduler.grants()

    def check(self) -> None:
        """Refuse to go on without the robots.

        Raises:
            LeaseError: a lease is lost.
        """
        for role, why in (self._scheduler.lost() if self._scheduler is not None else {}).items():
            raise LeaseError(f"{role}: {why}")

    def guard(self, grant: Grant | None) -> Callable[[], None]:
        """What to call before the robot is moved by this process; raises LeaseError once it may not."""
        guard = Guard(grant)

        def hold() -> None:
            self.check()
            guard.hold()

        return hold


def config_with(run_dir: str | Path, robot: str = "", *, robots: int = 0) -> TrainConfig:
    """The configuration of a run (its policy's own part as a plain mapping), with other robots where some are named.

    Args:
        robots: how many of them; 0 for all.
    """
    config = load_config(RunPaths(Path(run_dir).resolve()), policy=False)
    return replace(on_robot(config, robot), robots=robots or (0 if robot else config.robots))


def on_robot(config: TrainConfig, robot: str) -> TrainConfig:
    """The configuration with another robot, if one is named.

    Raises:
        ConfigError: the task brings its own.
    """
    own = getattr(plugins.load("task", config.task), "ROBOT", "")
    if robot and own and robot != own:
        raise ConfigError(f"{config.task} brings its own robot '{own}'; leave out --robot {robot}")
    return replace(config, robot=robot, robot_labels="", robots=0) if robot else config


@contextmanager
def borrowed(config: TrainConfig, *, holder: str, wait_s: float = 0.0) -> Iterator[Loan]:
    """Lease the robots of a configuration if they exist once.

    Raises:
        LeaseError: somebody else holds one; the message says who, since when, and what to do.
    """
    if not shared(config):
        yield Loan(None)
        return
    with LocalScheduler(borrowing(config), holder=holder) as scheduler:
        scheduler.place(wait_s=wait_s)
        yield Loan(scheduler)
