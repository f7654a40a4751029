"""A robot under its safety layer together with the task set before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from robolearn.core import plugins
from robolearn.core.errors import ConfigError, LeaseError
from robolearn.core.protocols import Annotator, Policy, Task
from robolearn.core.spec import Array, Observation
from robolearn.core.types import TaskSpec
from robolearn.hal.safety import SafeRobot
from robolearn.run.base import load_base, needs_base
from robolearn.run.config import TrainConfig
from robolearn.run.execution import emulated, executed
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
    realtime: bool = False
    """Time passes while a policy thinks; else the robot waits for every action."""


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
    film, timing = getattr(robot, "render", None), getattr(robot, "timing", None)
    return Station(guarded, task, film=film, timing=timing, realtime=realtime)


def build_policy(
    config: TrainConfig,
    task: Task,
    *,
    seed: int,
    realtime: bool = False,
    execution: Mapping[str, Any] | None = None,
) -> Policy:
    """The acting half of the run's policy family, over the base of the run where the family has one.

    Args:
        realtime: whether it acts in real time. Elsewhere no time passes while it thinks: plans that were to be made in
            a thread are made at once, and become available after the delay they are configured with.
        execution: how plans are executed instead of as trained.

    Raises:
        ConfigError: it has no plans, or cannot execute them like this.
    """
    own, base = config.policy, load_base(config) if needs_base(config) else None
    if execution:
        own, base = executed(config.algo, own, base, execution)
    if not realtime:
        own, base = emulated(own), base and replace(base, config=emulated(base.config))
    extra = {"base": base} if needs_base(config) else {}
    family = plugins.load("policy", config.algo)
    policy: Policy = family.build_policy(own, task.spec, seed=seed, device="cpu", **extra)
    return policy


def close_policy(policy: Policy) -> None:
    """End what a policy does beside acting, such as planning in a thread."""
    getattr(policy, "close", lambda: None)()


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
