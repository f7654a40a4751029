"""Demonstrations that come from elsewhere: another run, or a buffer recorded before."""

from __future__ import annotations

from pathlib import Path

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
