"""From what a user asks for to a configuration that can work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from robolearn.core import config as typed
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, suggest
from robolearn.run.base import check_base
from robolearn.run.config import DEFAULT_SCRIPT, TrainConfig
from robolearn.run.counters import MAX_ACTORS
from robolearn.run.demos import check_data, check_judged, parse_data
from robolearn.run.inventory import buffer_root
from robolearn.run.robots import choose, shared
from robolearn.run.watch import build_reward, check_human

_CURVE_EVERY = 1_000
_LEAST = {"steps": 0, "demos": 0, "eval_episodes": 1, "eval_every": -1, "eval_curve_episodes": 1, "publish_every": 1}


def complete(config: TrainConfig) -> TrainConfig:
    """Fill in what the task's tier and the kind of robot decide, and refuse what cannot work.

    Raises:
        ConfigError: unknown tier or robot, or numbers out of range.
        StoreError: there is no buffer in ``demos_from``.
    """
    task = plugins.load("task", config.task)
    if config.tier not in task.TIERS:
        raise ConfigError(f"unknown tier '{config.tier}' of {config.task}{suggest(config.tier, task.TIERS)}")
    env = config.env if config.env is not None else task.TIERS[config.tier]
    family = plugins.load("policy", config.algo)
    policy = config.policy if config.policy is not None else family.Config()
    if config.script is DEFAULT_SCRIPT:
        config = dataclasses.replace(config, script=typed.merge(DEFAULT_SCRIPT, getattr(family, "SCRIPT", {})))
    for name, least in _LEAST.items():
        if getattr(config, name) < least:
            raise ConfigError(f"{name}: expected at least {least}, got {getattr(config, name)}")
    if not 0 <= config.robots <= MAX_ACTORS:
        raise ConfigError(f"robots: expected 1 to {MAX_ACTORS}, got {config.robots}")
    steps = (config.steps or env.steps) if acts(config) else 0
    parse_data(config.data)
    if config.demos_from:
        buffer_root(Path(config.demos_from))
    check_judged(config)
    robot = getattr(task, "ROBOT", config.robot)
    if config.robot != robot:
        raise ConfigError(f"{config.task} brings its own robot '{robot}'; leave out --robot {config.robot}")
    spec = task.build(env, obs=config.obs).spec
    if config.demos and not config.demos_from and not spec.skills:
        raise ConfigError(f"{spec.name} has nobody to show how it is done; say --demos 0 or give --demos-from")
    check_base(config, spec)
    check_human(config, spec)
    check_data(config, spec)
    build_reward(config, spec)
    for name in ("ram_gb", "disk_gb"):
        if getattr(config, name) < 0.0:
            raise ConfigError(f"{name}: expected at least 0, got {getattr(config, name)}")
    if not acts(config) and not (config.demos or config.demos_from or config.data):
        raise ConfigError(
            f"{config.algo} learns from demonstrations alone; give it some with --demos, --demos-from or --data"
        )
    return _for_robots(dataclasses.replace(config, env=env, policy=policy, steps=steps))


def _for_robots(config: TrainConfig) -> TrainConfig:
    """What differs between private copies, which are free, and robots that exist once, whose time is dear."""
    choice = choose(config)
    if not 1 <= choice.count <= MAX_ACTORS:
        raise ConfigError(f"robots: expected 1 to {MAX_ACTORS}, got {choice.count}")
    every, experts = config.eval_every, config.eval_experts
    return dataclasses.replace(
        config,
        robots=choice.count,
        realtime=config.realtime or not choice.private,
        eval_every=every if every >= 0 else (_CURVE_EVERY if choice.private else 0),
        eval_experts=experts if experts is not None else choice.private,
    )


def remarks(config: TrainConfig) -> list[str]:
    """What a user should know of a run before it starts."""
    said: list[str] = list(getattr(plugins.load("task", config.task), "remarks", lambda _: [])(config.env))
    if not shared(config):
        return said
    said += ["the robots run in real time and never wait for the learner"]
    if acts(config):
        said.append(
            f"every {config.eval_every:,} steps one robot shows the policy alone, {config.eval_curve_episodes} episodes"
            if config.eval_every
            else "no learning curve is drawn, since that takes their time (--eval-every STEPS draws one)"
        )
    if not config.eval_experts:
        said.append("the scripted experts are not evaluated (--eval-experts True does)")
    return said


def acts(config: TrainConfig) -> bool:
    """False when the run's policy family learns from stored data alone."""
    return bool(plugins.load("policy", config.algo).ONLINE)
