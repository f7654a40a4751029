"""Demonstrations that come from elsewhere: other runs, or buffers recorded before."""

from __future__ import annotations

from pathlib import Path

from robolearn.buffer.filters import Filter
from robolearn.buffer.schema import Schema
from robolearn.buffer.transfer import copy_demonstrations
from robolearn.core.errors import ConfigError
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.inventory import buffer_root
from robolearn.run.station import build_task


def bring_demonstrations(config: TrainConfig, paths: RunPaths) -> int:
    """Copy the demonstrations of ``config.demos_from`` (a run or a buffer) into the run's buffer; return how many.

    Raises:
        ConfigError: there is nothing to copy.
        StoreError: there is no buffer, or it has another schema.
    """
    source = buffer_root(Path(config.demos_from))
    spec = build_task(config).spec
    count = copy_demonstrations(source, paths.buffer, Schema(spec.observation, spec.action), limit=config.demos)
    if count == 0:
        raise ConfigError(f"--demos-from {config.demos_from}: no demonstrations in {source}")
    return count


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
