"""The policy that a run starts from: frozen into its directory, so that nothing done to its own run changes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from robolearn.core import config as typed
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, CorruptDataError, SpecError
from robolearn.core.files import write_atomic
from robolearn.core.types import Base, TaskSpec
from robolearn.run.checkpoint import require_checkpoint
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.rundir import load_config

_WEIGHTS, _META = "policy.safetensors", "base.json"


def role_of_base(config: TrainConfig) -> str:
    """``wanted`` when the family cannot do without a base, ``optional``, or empty when it takes none."""
    return str(getattr(plugins.load("policy", config.algo), "BASE", ""))


def needs_base(config: TrainConfig) -> bool:
    """True when the family's builders take a base (which may be None where it is optional)."""
    return bool(role_of_base(config))


def check_base(config: TrainConfig, spec: TaskSpec) -> None:
    """Refuse a base that cannot work.

    Args:
        spec: of the run's task.

    Raises:
        ConfigError: the family takes no base, or this one belongs to another task, robot or kind of observation.
        ResumeError: there is no run, or no checkpoint in it.
    """
    if not config.base:
        return
    if not needs_base(config):
        raise ConfigError(f"--base: {config.algo} starts from nothing; families that take a base: {_takers()}")
    theirs = load_config(RunPaths(Path(config.base).resolve()))
    require_checkpoint(RunPaths(Path(config.base).resolve()).checkpoints)
    if theirs.task != config.task:
        raise ConfigError(f"--base {config.base}: trained on {theirs.task}, this run is about {config.task}")
    if theirs.obs != config.obs:
        raise ConfigError(f"--base {config.base}: sees {theirs.obs}, this run {config.obs}; use --obs {theirs.obs}")
    task = plugins.load("task", theirs.task).build(theirs.env, obs=theirs.obs)
    difference = _difference(task.spec, spec)
    if difference:
        raise ConfigError(f"--base {config.base}: {difference}")


def _takers() -> str:
    return ", ".join(n for n in plugins.names("policy") if getattr(plugins.load("policy", n), "BASE", ""))


def _difference(theirs: TaskSpec, ours: TaskSpec) -> str:
    """Why a policy for one spec cannot act for the other; empty when it can."""
    if set(theirs.observation) != set(ours.observation):
        return f"observes {sorted(theirs.observation)}, this run {sorted(ours.observation)}"
    pairs = [(k, theirs.observation[k], ours.observation[k]) for k in ours.observation]
    for name, a, b in [*pairs, ("action", theirs.action, ours.action)]:
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"'{name}' is {a.dtype}{list(a.shape)} there and {b.dtype}{list(b.shape)} here"
    return ""


def freeze_base(config: TrainConfig, paths: RunPaths) -> None:
    """Copy the newest policy of ``config.base`` into the run; does nothing when that is done, or there is none.

    Raises:
        ResumeError: the base has no sound checkpoint.
    """
    if not config.base or (paths.base / _META).is_file():
        return
    source = RunPaths(Path(config.base).resolve())
    theirs = load_config(source)
    checkpoint = require_checkpoint(source.checkpoints)
    weights = save(dict(checkpoint.policy))
    meta = {
        "run": str(source.root),
        "algo": theirs.algo,
        "policy": typed.to_dict(theirs.policy),
        "updates": checkpoint.progress.updates,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    paths.base.mkdir(exist_ok=True)
    write_atomic(paths.base / _WEIGHTS, weights)
    write_atomic(paths.base / _META, json.dumps(meta, indent=1).encode())


def load_base(config: TrainConfig) -> Base | None:
    """The frozen base of a run; None where it has none.

    Raises:
        CorruptDataError: it fails its hash, or cannot be read.
    """
    folder = RunPaths(Path(config.run_dir)).base
    if not config.base:
        return None
    try:
        meta: dict[str, Any] = json.loads((folder / _META).read_bytes())
        blob = (folder / _WEIGHTS).read_bytes()
        if hashlib.sha256(blob).hexdigest() != meta["sha256"]:
            raise CorruptDataError(f"{folder}: the base policy fails its hash")
        family = plugins.load("policy", meta["algo"])
        return Base(meta["algo"], typed.from_dict(family.Config, meta["policy"]), load(blob))
    except (OSError, ValueError, KeyError, SpecError, SafetensorError) as error:
        raise CorruptDataError(f"{folder}: the base policy cannot be read: {error}") from error


def base_run(config: TrainConfig, root: Path) -> TrainConfig:
    """The run that makes a base first, when a family cannot do without and none is given: ``<run>-base``.

    It learns from the same demonstrations, by imitation.
    """
    family = plugins.load("policy", config.base_algo)
    if family.ONLINE:
        imitators = ", ".join(n for n in plugins.names("policy") if not plugins.load("policy", n).ONLINE)
        raise ConfigError(
            f"base_algo: {config.base_algo} needs robots to learn; expected a family that imitates: {imitators}"
        )
    return dataclasses.replace(
        config,
        algo=config.base_algo,
        policy=family.Config(),
        run_dir=str(root.with_name(f"{root.name}-base")),
        reward="",
        human="auto",
        eval_experts=False,
        video=False,
        steps=0,
    )
