"""A robot under its safety layer together with the task set before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from robolearn.core import plugins
from robolearn.core.errors import ConfigError, LeaseError
from robolearn.core.protocols import Annotator, Policy, Task
from robolearn.core.spec import Array, Observation
from robolearn.core.types import TaskSpec
from robolearn.hal.safety import SafeRobot
from robolearn.run.base import load_base, needs_base
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
    if robot.spec.control_hz != task.spec.control_hz:
        robot.close()
        raise ConfigError(
            f"{config.task} decides at {task.spec.control_hz:g} Hz and {robot.spec.name} takes actions at "
            f"{robot.spec.control_hz:g} Hz; they have to agree"
        )
    guarded = SafeRobot(robot, module.limits(config.env), epoch=grant.epoch if grant else 0, on_event=on_event)
    return Station(guarded, task, film=getattr(robot, "render", None), timing=getattr(robot, "timing", None))


def build_policy(config: TrainConfig, task: Task, *, seed: int) -> Policy:
    """The acting half of the run's policy family, over the base of the run where the family has one."""
    family = plugins.load("policy", config.algo)
    extra = {"base": load_base(config)} if needs_base(config) else {}
    policy: Policy = family.build_policy(config.policy, task.spec, seed=seed, device="cpu", **extra)
    return policy


def stored_spec(config: TrainConfig, spec: TaskSpec) -> TaskSpec:
    """The task's spec with the keys that the family's policies annotate observations with."""
    stored = getattr(plugins.load("policy", config.algo), "stored", None)
    changed: TaskSpec = spec if stored is None else stored(config.policy, spec)
    return changed


def build_annotator(config: TrainConfig, task: Task) -> Policy | None:
    """A policy of the run where its family annotates what is stored, for rows that somebody else acts."""
    if config.policy is None or not hasattr(plugins.load("policy", config.algo), "stored"):
        return None
    return build_policy(config, task, seed=config.seed)


def annotate(policy: Policy, observation: Observation) -> Mapping[str, Array]:
    """What a policy adds to an observation; nothing for most."""
    return policy.annotate(observation) if isinstance(policy, Annotator) else {}


def greedily(policy: Policy) -> Callable[[Observation, Observation], Array]:
    """How a policy acts where nothing is stored: without exploring, on observations it annotates itself."""
    return lambda observation, raw: policy.act({**observation, **annotate(policy, observation)}, explore=False)
