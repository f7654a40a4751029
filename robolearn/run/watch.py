"""Who watches a run: a person who corrects, and what a step is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robolearn.core import plugins
from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Human, Reward, Task
from robolearn.core.types import TaskSpec
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.robots import shared
from robolearn.teleop import scripted


def person(config: TrainConfig) -> str:
    """``script`` or ``none``: who corrects in this run."""
    if config.human != "auto":
        return config.human
    return "script" if getattr(plugins.load("policy", config.algo), "HUMAN", False) else "none"


def check_human(config: TrainConfig, spec: TaskSpec) -> None:
    """Refuse a person who cannot be there.

    Raises:
        ConfigError: a scripted person on a real robot, or one with a skill that the task has no script for.
    """
    if person(config) == "none":
        return
    if shared(config):
        raise ConfigError(
            f"{config.algo} learns from corrections, and a scripted person can only correct private simulated robots; "
            "use --human none, or a simulated robot"
        )
    if config.script.skill not in spec.skills:
        has = ", ".join(spec.skills) or "no scripted experts"
        raise ConfigError(f"--script.skill {config.script.skill}: {spec.name} has {has}")


def build_human(config: TrainConfig, task: Task, rng: np.random.Generator, *, episodes: int = 0) -> Human | None:
    """The person who corrects in a run, who has watched so many episodes before; None where nobody does."""
    if person(config) == "none":
        return None
    return scripted.build(config.script, task, rng, episodes=episodes)


def reward_name(config: TrainConfig) -> str:
    """What a step is worth in this run, see ``TrainConfig.reward``."""
    return config.reward or str(getattr(plugins.load("policy", config.algo), "REWARD", "")) or "task"


def build_reward(config: TrainConfig, spec: TaskSpec) -> Reward | None:
    """What a step is worth; None where it is what the task says. A run that exists takes what ``freeze_reward`` kept.

    Raises:
        ConfigError: no such reward, or one that does not fit the task, or waits for what nobody gives.
    """
    name = reward_name(config)
    if name == "task":
        return None
    from robolearn.rewards.parts import build

    build.check_fed(name)
    kept = RunPaths(Path(config.run_dir)).reward if config.run_dir else None
    return build.build_reward(name, spec, frozen=kept if kept is not None and kept.is_dir() else None)


def freeze_reward(config: TrainConfig, paths: RunPaths) -> None:
    """Copy what the run's reward is made of (a classifier) into the run; what is there already stays.

    Raises:
        ConfigError, CorruptDataError: there is none, or it is damaged.
    """
    name = reward_name(config)
    if name != "task":
        from robolearn.rewards.parts import build

        build.freeze(name, paths.reward)
