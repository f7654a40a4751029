"""Demonstrations that come from elsewhere: other runs, or buffers recorded before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from robolearn.buffer.filters import Filter
from robolearn.buffer.schema import Schema
from robolearn.buffer.transfer import Alter, copy_demonstrations
from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Task
from robolearn.core.types import Transition
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.inventory import buffer_root
from robolearn.run.rejudge import rejudge
from robolearn.run.station import annotate, build_annotator, build_task, stored_spec
from robolearn.run.watch import reward_name


def bring_demonstrations(config: TrainConfig, paths: RunPaths) -> int:
    """Copy the demonstrations of ``config.demos_from`` (a run or a buffer) into the run's buffer; return how many.

    Raises:
        ConfigError: there is nothing to copy.
        StoreError: there is no buffer, or it has another schema.
    """
    source = buffer_root(Path(config.demos_from))
    task = build_task(config)
    spec = stored_spec(config, task.spec)
    schema, alter = Schema(spec.observation, spec.action), annotation(config, task)
    with TemporaryDirectory(dir=paths.root, prefix=".demos.") as folder:
        if reward_name(config) != "task":
            judged = rejudge(source, Path(folder) / "judged", reward_name(config), select="demo")
            source = judged.target
        count = copy_demonstrations(source, paths.buffer, schema, limit=config.demos, alter=alter)
    if count == 0:
        raise ConfigError(f"--demos-from {config.demos_from}: no demonstrations in {source}")
    return count


def annotation(config: TrainConfig, task: Task) -> Alter | None:
    """What the rows of demonstrations from elsewhere become in this run: its policy's annotations are added; None where
    it has none."""
    annotator = build_annotator(config, task)
    if annotator is None:
        return None

    def alter(row: Transition) -> Transition:
        if row.index == 0:
            annotator.reset()
        own = {key: row.observation[key] for key in task.spec.observation}
        return replace(row, observation={**own, **annotate(annotator, own)})

    return alter


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
