"""A robot under its safety layer together with the task set before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from robolearn.core import plugins
from robolearn.core.protocols import Policy, Task
from robolearn.core.spec import Array
from robolearn.hal.safety import SafeRobot
from robolearn.run.config import TrainConfig


@dataclass(frozen=True)
class Station:
    """Where episodes happen."""

    robot: SafeRobot
    task: Task
    film: Callable[[int, int], Array] | None = None
    """Renders (height, width, 3) uint8 for people, from (width, height), where the robot is simulated."""


def split_robot(name: str) -> tuple[str, str]:
    """``"fr3_sim:bench1"`` -> driver ``"fr3_sim"`` and instance ``"bench1"`` (empty when not named)."""
    driver, _, instance = name.partition(":")
    return driver, instance


def is_simulated(robot: str) -> bool:
    """False for drivers of real hardware: those that do not say ``SIMULATED = True``."""
    return bool(getattr(plugins.load("robot", split_robot(robot)[0]), "SIMULATED", False))


def build_task(config: TrainConfig) -> Task:
    """The task alone, for its specs."""
    task: Task = plugins.load("task", config.task).build(config.env, obs=config.obs)
    return task


def build_station(
    config: TrainConfig, *, epoch: int, on_event: Callable[[str, Mapping[str, Any]], None] | None = None
) -> Station:
    """Build robot and task of a run. Cameras are those whose images the policy sees."""
    module = plugins.load("task", config.task)
    task: Task = module.build(config.env, obs=config.obs)
    driver = plugins.load("robot", split_robot(config.robot)[0])
    cameras = tuple(key for key, spec in task.spec.observation.items() if spec.dtype == "uint8")
    robot = driver.build(driver.Config(), scene=module.scene(config.env), cameras=cameras, realtime=config.realtime)
    guarded = SafeRobot(robot, module.limits(config.env), epoch=epoch, on_event=on_event)
    return Station(guarded, task, film=getattr(robot, "render", None))


def build_policy(config: TrainConfig, task: Task, *, seed: int) -> Policy:
    """The acting half of the run's policy family."""
    policy: Policy = plugins.load("policy", config.algo).build_policy(config.policy, task.spec, seed=seed, device="cpu")
    return policy
