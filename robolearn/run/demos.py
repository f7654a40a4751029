"""Demonstrations that come from elsewhere: other runs, or buffers recorded before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from robolearn.buffer.filters import Filter
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import read_schema
from robolearn.buffer.transfer import Alter, check_schema, copy_demonstrations
from robolearn.core import config as typed
from robolearn.core import plugins
from robolearn.core.errors import ConfigError
from robolearn.core.files import write_atomic
from robolearn.core.protocols import Task
from robolearn.core.types import TaskSpec, Transition
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.inventory import buffer_root
from robolearn.run.rejudge import rejudge
from robolearn.run.station import annotate, build_annotator, build_task, stored_spec
from robolearn.run.watch import reward_name

TASK = "task"
"""Name of the task's own reward."""


def bring_demonstrations(config: TrainConfig, paths: RunPaths) -> int:
    """Copy the demonstrations of ``config.demos_from`` (a run or a buffer) into the run's buffer; return how many.

    Once all of them are there the source is not needed any more.

    Raises:
        ConfigError: there is nothing to copy, or another reward judged it.
        StoreError: there is no buffer, or it has another schema.
    """
    if paths.demonstrations.is_file():
        return int(json.loads(paths.demonstrations.read_bytes())["episodes"])
    check_judged(config)
    source = buffer_root(Path(config.demos_from))
    reward, wanted = judged_by(source), reward_name(config)
    task = build_task(config)
    spec = stored_spec(config, task.spec)
    schema = Schema(spec.observation, spec.action)
    altered = _annotations(config, task.spec, read_schema(source))
    alter = annotation(config, task) if altered else None
    with TemporaryDirectory(dir=paths.root, prefix=".demos.") as folder:
        if reward == TASK != wanted:
            source, reward = rejudge(source, Path(folder) / "judged", wanted, select="demo").target, wanted
        count = copy_demonstrations(source, paths.buffer, schema, limit=config.demos, alter=alter, altered=altered)
    if count == 0:
        raise ConfigError(f"--demos-from {config.demos_from}: no demonstrations in {source}")
    done = {"from": config.demos_from, "episodes": count, "reward": reward}
    write_atomic(paths.demonstrations, json.dumps(done, indent=1).encode())
    return count


def judged_by(buffer: Path) -> str:
    """The reward of a buffer's demonstrations, see ``TrainConfig.reward``; the task's own where nobody says."""
    paths = RunPaths(buffer.resolve().parent)
    if buffer.resolve() != paths.buffer or not paths.config.is_file():
        return TASK
    if paths.demonstrations.is_file():
        return str(json.loads(paths.demonstrations.read_bytes())["reward"])
    data = typed.load_yaml(paths.config)
    return reward_name(TrainConfig(algo=data.get("algo", TrainConfig().algo), reward=data.get("reward", "")))


def check_judged(config: TrainConfig) -> None:
    """Refuse stored steps of another reward than the run's, to a family that learns from rewards.

    Demonstrations that the task itself has judged are judged anew when they are brought; others cannot be, since what
    the task said is lost.

    Raises:
        ConfigError: there are such steps.
        StoreError: there is no buffer.
    """
    if not getattr(family := plugins.load("policy", config.algo), "REWARDED", family.ONLINE):
        return
    wanted = reward_name(config)
    for root, _ in parse_data(config.data):
        if (reward := judged_by(root)) != wanted:
            raise ConfigError(
                f"--data {root}: its steps are judged by '{reward}', those of this run by '{wanted}'; bring "
                "demonstrations with --demos-from, which judges what the task has judged anew"
            )
    if config.demos_from and (reward := judged_by(buffer_root(Path(config.demos_from)))) not in (TASK, wanted):
        raise ConfigError(
            f"--demos-from {config.demos_from}: its steps are judged by '{reward}', those of this run by '{wanted}', "
            f"and what the task said of them is lost; use --reward {reward}, or the demonstrations that run was given"
        )


def check_data(config: TrainConfig, spec: TaskSpec) -> None:
    """Refuse ``config.data`` with other rows than the run's: it is read where it is, as it is.

    Args:
        spec: the task as it is without what a policy adds.

    Raises:
        ConfigError: rows lack what the run's policy stores, or have what another policy stored.
        StoreError: there is no buffer, or its rows differ otherwise; the message shows how.
    """
    instead = "bring demonstrations with --demos-from"
    if config.data and hasattr(plugins.load("policy", config.algo), "stored"):
        raise ConfigError(
            f"--data: {config.algo} stores with each row what its base would do, and other buffers have not; {instead}"
        )
    for root, _ in parse_data(config.data):
        stored = read_schema(root)
        if extra := stored.observation.keys() & _annotations(config, spec, stored):
            raise ConfigError(
                f"--data {root}: its rows hold what another policy added to them ({', '.join(sorted(extra))}), and "
                f"--data takes rows as they are; {instead}, which drops it"
            )
        check_schema(root, Schema(spec.observation, spec.action))


def annotation(config: TrainConfig, task: Task) -> Alter:
    """What the rows of demonstrations from elsewhere become in this run: what other policies added to the task's
    observation is dropped, what this run's policy adds is added."""
    annotator = build_annotator(config, task)

    def alter(row: Transition) -> Transition:
        own = {key: row.observation[key] for key in task.spec.observation}
        if annotator is None:
            return replace(row, observation=own)
        if row.index == 0:
            annotator.reset()
        return replace(row, observation={**own, **annotate(annotator, own)})

    return alter


def _annotations(config: TrainConfig, spec: TaskSpec, stored: Schema) -> set[str]:
    """Observation keys that are no task's: those of the run's family, and those of others that are in a buffer."""
    own = set(spec.observation)
    altered = set(stored_spec(config, spec).observation) - own
    if stored.observation.keys() - own - altered:
        for family in (plugins.load("policy", name) for name in plugins.names("policy")):
            if hasattr(family, "stored"):
                altered |= set(family.stored(family.Config(), spec).observation) - own
    return altered


def parse_data(text: str) -> list[tuple[Path, str]]:
    """(buffer, filter) of each part of ``runs/a,runs/b:success,intervention``.

    Parts are separated by commas; what follows a colon is a filter, which goes on over commas for as long as its parts
    are conditions and no directories.

    Raises:
        ConfigError: a part is neither a directory nor a condition of a filter.
        StoreError: no buffer there, or a filter that makes no sense.
    """
    found: list[tuple[Path, list[str]]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, condition = part.partition(":")
        if Path(name).is_dir():
            found.append((buffer_root(Path(name)), [condition] if condition else []))
        elif colon or not found or not found[-1][1]:
            raise ConfigError(f"--data: no directory {name}; expected for example runs/a,runs/b:success,intervention")
        else:
            found[-1][1].append(part)
    return [(root, Filter.parse(",".join(conditions)).text) for root, conditions in found]
