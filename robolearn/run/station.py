"""A robot under its safety layer together with the task set before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from robolearn.core import plugins
from robolearn.core.errors import LeaseError
from robolearn.core.protocols import Policy, Task
from robolearn.core.spec import Array
from robolearn.hal.safety import SafeRobot
from robolearn.run.config import TrainConfig
from robolearn.run.guard import Grant
from robolearn.run.robots import driver_config, shared, split_robot


@dataclass(frozen=True)
class Station:
    """Where episodes happen."""

    robot: SafeRobot
    task: Task
    film: Callable[[int, int], Array] | None = None
    """Renders (height, width, 3) uint8 for people, from (width, height), where the robot is simulated."""
    timing: Callable[[], Mapping[str, float]] | None = None
    """What the driver measures of its own timing, name -> value; None where it measures nothing."""


def build_task(config: TrainConfig) -> Task:
    """The task alone, for its specs."""
    task: Task = plugins.load("task", config.task).build(config.env, obs=config.obs)
    return task


def build_station(
    config: TrainConfig, grant: Grant | None = None, *, on_event: Callable[[str, Mapping[str, Any]], None] | None = None
) -> Station:
    """Build robot and task of a run. Cameras are those whose images the policy sees.

    Args:
        grant: the leased robot; without it a private simulated copy, in nobody's way.

    Raises:
        LeaseError: the run's robots exist once, and none is leased.
    """
    if grant is None and shared(config):
        raise LeaseError(f"{config.robot} exists once; it has to be leased before it is used")
    robot_name = config.robot if grant is None else grant.robot
    driver_name, instance = split_robot(robot_name)
    module = plugins.load("task", config.task)
    task: Task = module.build(config.env, obs=config.obs)
    driver = plugins.load("robot", driver_name)
    cameras = tuple(key for key, spec in task.spec.observation.items() if spec.dtype == "uint8")
    realtime = config.realtime or bool(instance)
    robot = driver.build(
        driver_config(driver, instance), scene=module.scene(config.env), cameras=cameras, realtime=realtime
    )
    guarded = SafeRobot(robot, module.limits(config.env), epoch=grant.epoch if grant else 0, on_event=on_event)
    return Station(guarded, task, film=getattr(robot, "render", None), timing=getattr(robot, "timing", None))


def build_policy(config: TrainConfig, task: Task, *, seed: int) -> Policy:
    """The acting half of the run's policy family."""
    policy: Policy = plugins.load("policy", config.algo).build_policy(config.policy, task.spec, seed=seed, device="cpu")
    return policy
