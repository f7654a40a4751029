"""Record scripted episodes into a buffer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, RobotStoppedError, suggest
from robolearn.core.protocols import Task
from robolearn.core.types import Skill, Source
from robolearn.run.act import Act, run_episode
from robolearn.run.borrow import borrowed
from robolearn.run.config import TrainConfig
from robolearn.run.evaluate import EpisodeResult, summarise
from robolearn.run.guard import Grant
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import annotate, build_annotator, build_station, stored_spec
from robolearn.run.watch import build_reward

SCRIPTS = {"script": Skill.INFORMED, "blind": Skill.BLIND, "weak": Skill.WEAK}
"""Name of a scripted policy -> the expert of the task."""
_MAX_TRIES_PER_SUCCESS = 3


def record_demonstrations(
    config: TrainConfig,
    buffer: Path,
    *,
    episodes: int,
    script: str,
    grant: Grant | None = None,
    hold: Callable[[], None] = lambda: None,
    going_on: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Record ``episodes`` scripted episodes as demonstrations; resumes where an earlier call stopped.

    Of the informed script only successes count as demonstrations (a demonstrator would discard a failure too); the
    others stay in the buffer, untagged. Of the blind script everything is kept and nothing is a demonstration. Asked
    before each step, ``going_on`` may end the recording early, and ``hold`` returns when the robot may be moved.

    Raises:
        ConfigError: unknown script, or the expert is not good enough.
        RobotStoppedError: the robot has latched a stop.
    """
    if script not in SCRIPTS:
        raise ConfigError(f"unknown scripted policy '{script}'{suggest(script, SCRIPTS)}")
    skill = SCRIPTS[script]
    informed = skill is Skill.INFORMED
    station, name = build_station(config, grant), grant.robot if grant else config.robot
    if skill not in station.task.spec.skills:
        known = [word for word, one in SCRIPTS.items() if one in station.task.spec.skills]
        raise ConfigError(f"{config.task} has no scripted policy '{script}'; it has: {', '.join(known) or 'none'}")

    def before_step() -> bool:
        hold()
        return going_on()

    spec, annotator = stored_spec(config, station.task.spec), build_annotator(config, station.task)
    reward = build_reward(config, station.task.spec)
    schema = Schema(spec.observation, spec.action)
    results: list[EpisodeResult] = []
    with (
        closing(station.robot),
        Writer(buffer, schema, name="demonstrations", robot=name, task=config.task, demo=informed) as writer,
    ):
        done, tries = writer.successes if informed else writer.episodes, writer.episodes
        while before_step() and done < episodes and tries < _MAX_TRIES_PER_SUCCESS * episodes + 10:
            if annotator is not None:
                annotator.reset()
            episode = run_episode(
                station,
                _script(station.task, skill, stream(config.seed, Stream.DEMO, tries, 1)),
                stream(config.seed, Stream.DEMO, tries, 0),
                append=writer.append,
                before_step=before_step,
                annotate=lambda observation: {} if annotator is None else annotate(annotator, observation),
                reward=reward,
                source=Source.SCRIPT,
            )
            writer.end_episode(success=episode.success, demo=informed and episode.success)
            results.append(
                EpisodeResult(script, tries, episode.success, episode.steps, episode.peak_force_n, episode.reward)
            )
            tries += 1
            done += episode.success or not informed
            if station.robot.stopped:
                raise RobotStoppedError(f"{name} stopped: {station.robot.stopped}")
    if done < episodes and going_on():
        raise ConfigError(f"the scripted expert solved only {done} of {tries} episodes of {config.task}")
    return summarise(script, results, control_hz=station.task.spec.control_hz, seed=config.seed).to_json()


def _script(task: Task, skill: Skill, noise: np.random.Generator) -> Act:
    return lambda observation, raw: task.expert(raw, noise, skill=skill)


def record(
    task: str,
    *,
    tier: str,
    episodes: int,
    policy: str,
    out: str | Path,
    seed: int,
    obs: str = "state",
    robot: str = "fr3_sim",
    env: Any = None,
    wait_s: float = 0.0,
) -> dict[str, Any]:
    """``robolearn record``: scripted episodes of a task into a buffer of their own.

    Args:
        robot: ``DRIVER``, ``DRIVER:INSTANCE`` or a name of the site file; one that exists once is leased.
        env: configuration of the task instead of the tier's.
        wait_s: how long to wait for it [s].
    """
    tiers = plugins.load("task", task).TIERS
    if tier not in tiers:
        raise ConfigError(f"unknown tier '{tier}' of {task}{suggest(tier, tiers)}")
    config = dataclasses.replace(TrainConfig(), task=task, tier=tier, seed=seed, env=env or tiers[tier], robot=robot)
    if obs == "pixels":
        config = dataclasses.replace(config, obs="pixels")
    with borrowed(config, holder=f"record {Path(out).name}", wait_s=wait_s) as loan:
        grant = loan.grants[0] if loan.grants else None
        hold = loan.guard(grant)
        return record_demonstrations(config, Path(out), episodes=episodes, grant=grant, hold=hold, script=policy)
