"""Record scripted episodes into a buffer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, suggest
from robolearn.core.types import Source
from robolearn.run.act import Episode, run_episode
from robolearn.run.config import TrainConfig
from robolearn.run.evaluate import EpisodeResult, summarise
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import Station, build_station

SCRIPTS = {"script": True, "blind": False}
"""Name of a scripted policy -> whether it knows the truth."""
_MAX_TRIES_PER_SUCCESS = 3


def record_demonstrations(
    config: TrainConfig,
    buffer: Path,
    *,
    episodes: int,
    epoch: int,
    script: str,
    going_on: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Record ``episodes`` scripted episodes as demonstrations; resumes where an earlier call stopped.

    Of the informed script only successes count as demonstrations (a demonstrator would discard a failure too); the
    others stay in the buffer, untagged. Of the blind script everything is kept and nothing is a demonstration. Asked
    before each step, ``going_on`` may end the recording early.
    """
    if script not in SCRIPTS:
        raise ConfigError(f"unknown scripted policy '{script}'{suggest(script, SCRIPTS)}")
    informed = SCRIPTS[script]
    station = build_station(config, epoch=epoch)
    schema = Schema(station.task.spec.observation, station.task.spec.action)
    results: list[EpisodeResult] = []
    with (
        closing(station.robot),
        Writer(buffer, schema, name="demonstrations", robot=config.robot, task=config.task, demo=informed) as writer,
    ):
        done, tries = writer.successes if informed else writer.episodes, writer.episodes
        while going_on() and done < episodes and tries < _MAX_TRIES_PER_SUCCESS * episodes + 10:
            episode = _script_episode(station, writer, config.seed, tries, informed, going_on)
            writer.end_episode(success=episode.success, demo=informed and episode.success)
            results.append(EpisodeResult(script, tries, episode.success, episode.steps, episode.peak_force_n))
            tries += 1
            done += episode.success or not informed
    if done < episodes and going_on():
        raise ConfigError(f"the scripted expert solved only {done} of {tries} episodes of {config.task}")
    return summarise(script, results, control_hz=station.task.spec.control_hz, seed=config.seed).to_json()


def _script_episode(
    station: Station, writer: Writer, seed: int, index: int, informed: bool, going_on: Callable[[], bool]
) -> Episode:
    rng, noise = stream(seed, Stream.DEMO, index, 0), stream(seed, Stream.DEMO, index, 1)
    return run_episode(
        station,
        lambda observation, raw: station.task.expert(raw, noise, informed=informed),
        rng,
        append=writer.append,
        before_step=going_on,
        source=Source.SCRIPT,
    )


def record(
    task: str, *, tier: str, episodes: int, policy: str, out: str | Path, seed: int, obs: str = "state"
) -> dict[str, Any]:
    """``robolearn record``: scripted episodes of a task into a buffer of their own."""
    tiers = plugins.load("task", task).TIERS
    if tier not in tiers:
        raise ConfigError(f"unknown tier '{tier}' of {task}{suggest(tier, tiers)}")
    config = dataclasses.replace(TrainConfig(), task=task, tier=tier, seed=seed, env=tiers[tier])
    if obs == "pixels":
        config = dataclasses.replace(config, obs="pixels")
    return record_demonstrations(config, Path(out), episodes=episodes, epoch=0, script=policy)
