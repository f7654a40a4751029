"""The policy that a run starts from: frozen into its directory, so that nothing done to its own run changes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from robolearn.core import config as typed
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, CorruptDataError, RobolearnError, SpecError
from robolearn.core.files import write_atomic
from robolearn.core.spec import Array
from robolearn.core.types import Base, TaskSpec
from robolearn.run.checkpoint import Checkpoint, require_checkpoint
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.robots import shared
from robolearn.run.rundir import load_config

_WEIGHTS, _META = "policy.safetensors", "base.json"
_SHARED_EPISODES = 10
"""Most episodes of the final evaluation of a base that is made first on robots that exist once: their time is dear."""


def role_of_base(config: TrainConfig) -> str:
    """``wanted`` when the family cannot do without a base, ``optional``, or empty when it takes none."""
    return str(getattr(plugins.load("policy", config.algo), "BASE", ""))


def needs_base(config: TrainConfig) -> bool:
    """True when the family's builders take a base (which may be None where it is optional)."""
    return bool(role_of_base(config))


def check_base(config: TrainConfig, spec: TaskSpec) -> None:
    """Refuse a base that cannot work; of one that will be made first, its family.

    Args:
        spec: of the run's task.

    Raises:
        ConfigError: the family takes no base, or this one belongs to another task, robot or kind of observation, or is
            of a family or a configuration that this run cannot start from.
        ResumeError: there is no run, or no checkpoint in it.
    """
    if not config.base:
        if role_of_base(config) == "wanted":
            _check_fit(config, spec, _untrained(config, spec), f"base_algo {config.base_algo}")
        return
    if not needs_base(config):
        raise ConfigError(f"--base: {config.algo} starts from nothing; families that take a base: {_takers()}")
    source = RunPaths(Path(config.base).resolve())
    theirs = load_config(source)
    require_checkpoint(source.checkpoints)
    if theirs.task != config.task:
        raise ConfigError(f"--base {config.base}: trained on {theirs.task}, this run is about {config.task}")
    if theirs.obs != config.obs:
        raise ConfigError(f"--base {config.base}: sees {theirs.obs}, this run {config.obs}; use --obs {theirs.obs}")
    task = plugins.load("task", theirs.task).build(theirs.env, obs=theirs.obs)
    if task.spec.name != spec.name:
        raise ConfigError(f"--base {config.base}: trained on {task.spec.name}, this run is about {spec.name}")
    difference = _difference(task.spec, spec)
    if difference:
        raise ConfigError(f"--base {config.base}: {difference}")
    _check_fit(config, spec, _newest(source)[0], f"--base {config.base}")


def _check_fit(config: TrainConfig, spec: TaskSpec, base: Base, name: str) -> None:
    """Build what the run's workers will build over a base; raises ConfigError where they would fail."""
    family = plugins.load("policy", config.algo)
    own = config.policy if config.policy is not None else family.Config()
    seen = family.stored(own, spec) if hasattr(family, "stored") else spec
    try:
        policy = family.build_policy(own, spec, seed=config.seed, base=base)
        with closing(policy) if hasattr(policy, "close") else nullcontext():
            learner = family.build_learner(own, seen, seed=config.seed, statistics=unit_statistics(seen), base=base)
            policy.load(learner.snapshot())
    except (RobolearnError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{name}: {error}") from error


def _untrained(config: TrainConfig, spec: TaskSpec) -> Base:
    """What ``base_run`` would make, before it has learned anything."""
    made = base_run(config, Path("run"))
    statistics = unit_statistics(spec)
    learner = plugins.load("policy", made.algo).build_learner(made.policy, spec, seed=0, statistics=statistics)
    return Base(made.algo, made.policy, learner.snapshot())


def unit_statistics(spec: TaskSpec) -> dict[str, tuple[Array, Array]]:
    """Mean 0 and deviation 1 for every vector: tasks show observations at about unit scale."""
    vectors = {key: array for key, array in spec.observation.items() if array.dtype != "uint8"}
    return {key: (np.zeros(a.shape, np.float32), np.ones(a.shape, np.float32)) for key, a in vectors.items()}


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


def _newest(source: RunPaths) -> tuple[Base, Checkpoint]:
    """The newest policy of a run as a base: the network that was really trained, and where it comes from.

    Raises:
        ResumeError: it has no sound checkpoint.
    """
    theirs, checkpoint = load_config(source), require_checkpoint(source.checkpoints)
    algo, settings = theirs.algo, theirs.policy
    frozen = getattr(plugins.load("policy", algo), "frozen", None)
    if frozen is not None:
        algo, settings = frozen(settings, load_base(theirs))
    return Base(algo, settings, checkpoint.policy), checkpoint


def freeze_base(config: TrainConfig, paths: RunPaths) -> None:
    """Copy the newest policy of ``config.base`` into the run; does nothing when that is done, or there is none.

    Raises:
        ResumeError: the base has no sound checkpoint.
    """
    if not config.base or (paths.base / _META).is_file():
        return
    source = RunPaths(Path(config.base).resolve())
    base, checkpoint = _newest(source)
    weights = save(dict(base.weights))
    meta = {
        "run": str(source.root),
        "algo": base.algo,
        "policy": typed.to_dict(base.config),
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

    Raises:
        ConfigError: ``base_algo`` does not imitate.
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
        eval_episodes=min(config.eval_episodes, _SHARED_EPISODES) if shared(config) else config.eval_episodes,
        eval_experts=False,
        video=False,
        steps=0,
    )
