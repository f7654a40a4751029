"""The run directory: made once, understood later."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robolearn import __version__
from robolearn.core import config as typed
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, ResumeError
from robolearn.core.files import write_atomic
from robolearn.run.config import RunPaths, TrainConfig

_PACKAGES = ("numpy", "torch", "mujoco", "dm-control", "zarr", "diffusers", "safetensors", "gymnasium")


def stem_of(config: TrainConfig) -> str:
    """``<task>-<tier>-<algo>``, or what the task calls itself in place of the first two."""
    label = getattr(plugins.load("task", config.task), "label", None)
    if label is not None and config.env is not None:
        return f"{label(config.env)}-{config.algo}"
    return f"{config.task}-{config.tier}-{config.algo}"


def default_run_dir(config: TrainConfig) -> Path:
    """The first free ``runs/<task>-<tier>-<algo>-<n>``."""
    return first_free(stem_of(config))


def first_free(stem: str) -> Path:
    """The first of ``runs/<stem>-1``, ``-2``, ... that does not exist."""
    n = 1
    while (path := Path("runs") / f"{stem}-{n}").exists():
        n += 1
    return path


@contextmanager
def claimed(stem: str) -> Iterator[Path]:
    """Make the first free directory ``runs/<stem>-<n>``, so that nobody else takes it; one that stays empty goes again.

    Raises:
        ConfigError: it cannot be made.
    """
    while True:
        path = first_free(stem)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            break
        except FileExistsError:
            if path.parent.exists() and not path.parent.is_dir():
                raise ConfigError(f"{path.parent} is no directory; choose --run-dir") from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be made: {error.strerror}; choose --run-dir") from error
    try:
        yield path
    finally:
        with suppress(OSError):
            path.rmdir()


def create(config: TrainConfig, argv: Sequence[str]) -> RunPaths:
    """Make the directory of a new run.

    Raises:
        ConfigError: it exists and is not empty, or cannot be written.
    """
    root = Path(config.run_dir) if config.run_dir else default_run_dir(config)
    if root.is_dir() and any(root.iterdir()):
        raise ConfigError(
            f"run directory {root} is not empty; choose another --run-dir, or go on with it: "
            f"robolearn train --resume {root}"
        )
    paths = RunPaths(root.resolve())
    try:
        paths.root.mkdir(parents=True, exist_ok=True)
        paths.logs.mkdir()  # of two that start at once, one fails here
        for directory in (paths.evaluation, paths.plots, paths.videos):
            directory.mkdir()
        save_config(paths, config)
        write_atomic(paths.command, (shlex.join(argv) + "\n").encode())
        write_atomic(paths.environment, json.dumps(environment(), indent=1).encode())
    except FileExistsError:
        raise ConfigError(f"run directory {root} is taken by another run just now; choose --run-dir") from None
    except OSError as error:
        raise ConfigError(f"run directory {root} cannot be written: {error.strerror}; choose --run-dir") from error
    return paths


def save_config(paths: RunPaths, config: TrainConfig) -> None:
    """Write the resolved configuration."""
    write_atomic(paths.config, typed.dump_yaml(typed.to_dict(config)).encode())


def load_config(paths: RunPaths, *, policy: bool = True) -> TrainConfig:
    """Read the resolved configuration; without ``policy`` the policy's own config stays a plain mapping.

    Raises:
        ResumeError: the directory is no run.
    """
    if not paths.config.is_file():
        raise ResumeError(f"{paths.root} is no run directory: it has no config.yaml")
    data = typed.load_yaml(paths.config)
    env, family = data.pop("env", None), data.pop("policy", None)
    config = typed.from_dict(TrainConfig, data)
    task = plugins.load("task", config.task)
    typed_policy = typed.from_dict(plugins.load("policy", config.algo).Config, family) if policy else family
    return dataclasses.replace(
        config, env=typed.from_dict(task.Config, env), policy=typed_policy, run_dir=str(paths.root)
    )


def environment() -> dict[str, Any]:
    """Versions, revision and machine, for whoever reads the run later."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    return {
        "robolearn": __version__,
        "git": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "executable": Path(sys.executable).name,
        "packages": packages,
    }


def _git_revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
