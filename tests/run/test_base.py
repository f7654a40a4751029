"""The base of a run: what is refused, what is frozen, and that it stays what it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.errors import ConfigError, CorruptDataError, ResumeError
from robolearn.policies import bc
from robolearn.run import rundir
from robolearn.run.base import base_run, check_base, freeze_base, load_base
from robolearn.run.checkpoint import Checkpoint, Progress, save_checkpoint
from robolearn.run.complete import complete
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.station import build_task

TINY = bc.Config(hidden=8, layers=1, updates=10)


def config_of(root: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(tier="smoke", algo="bc", policy=TINY, run_dir=str(root), eval_experts=False)
    return complete(dataclasses.replace(config, **changes))  # type: ignore[arg-type]


def make_base(root: Path, *, seed: int = 0) -> RunPaths:
    """A run whose learner has left one checkpoint."""
    config = config_of(root)
    paths = rundir.create(config, ["robolearn", "train"])
    spec = build_task(config).spec
    statistics = {"state": (np.zeros(72, np.float32), np.ones(72, np.float32))}
    learner = bc.build_learner(TINY, spec, seed=seed, statistics=statistics)
    save_checkpoint(paths.checkpoints, Checkpoint(Progress(1, 10, 0, 0, {}), learner.state(), learner.snapshot()))
    return paths


def child(tmp_path: Path, base: RunPaths, **changes: object) -> TrainConfig:
    """A run over the base; hg_dagger takes any base of its imitation family."""
    config = TrainConfig(tier="smoke", algo="hg_dagger", run_dir=str(tmp_path / "child"), base=str(base.root))
    return dataclasses.replace(config, env=config_of(tmp_path / "x").env, **changes)  # type: ignore[arg-type]


def test_a_frozen_base_stays_what_it_was_when_its_run_goes_on(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    config = child(tmp_path, base)
    paths = RunPaths(Path(config.run_dir))
    paths.root.mkdir()
    freeze_base(config, paths)
    before = load_base(config)
    assert before is not None
    assert (before.algo, before.config) == ("bc", TINY)
    statistics = {"state": (np.zeros(72, np.float32), np.ones(72, np.float32))}
    newer = bc.build_learner(TINY, build_task(config_of(tmp_path / "y")).spec, seed=9, statistics=statistics)
    save_checkpoint(base.checkpoints, Checkpoint(Progress(2, 20, 0, 1, {}), newer.state(), newer.snapshot()))
    freeze_base(config, paths)
    after = load_base(config)
    assert after is not None
    assert all(np.array_equal(before.weights[name], after.weights[name]) for name in before.weights)
    assert not np.array_equal(before.weights["actor.w0"], newer.snapshot()["actor.w0"])


def test_a_damaged_base_is_noticed(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    config = child(tmp_path, base)
    paths = RunPaths(Path(config.run_dir))
    paths.root.mkdir()
    freeze_base(config, paths)
    weights = paths.base / "policy.safetensors"
    blob = bytearray(weights.read_bytes())
    blob[-1] ^= 1
    weights.write_bytes(blob)
    with pytest.raises(CorruptDataError, match="fails its hash"):
        load_base(config)
    (paths.base / "base.json").write_text("{")
    with pytest.raises(CorruptDataError, match="cannot be read"):
        load_base(config)


def test_a_base_that_cannot_work_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    spec = build_task(config_of(tmp_path / "x")).spec
    check_base(child(tmp_path, base), spec)
    with pytest.raises(ConfigError, match=r"rlpd starts from nothing; families that take a base: .*residual"):
        check_base(child(tmp_path, base, algo="rlpd"), spec)
    with pytest.raises(ConfigError, match="trained on peg_insert, this run is about charger"):
        check_base(child(tmp_path, base, task="charger"), spec)
    with pytest.raises(ConfigError, match="use --obs state"):
        check_base(child(tmp_path, base, obs="pixels"), spec)
    other = build_task(
        dataclasses.replace(
            config_of(tmp_path / "x"), env=dataclasses.replace(config_of(tmp_path / "x").env, history=(0,))
        )
    ).spec
    with pytest.raises(ConfigError, match=r"'state' is float32\[72\] there and float32\[24\] here"):
        check_base(child(tmp_path, base), other)
    with pytest.raises(ResumeError, match="no run directory"):
        check_base(child(tmp_path, RunPaths(tmp_path / "nowhere")), spec)
    empty = rundir.create(config_of(tmp_path / "empty"), ["robolearn"])
    with pytest.raises(ResumeError, match="no sound checkpoint"):
        check_base(child(tmp_path, empty), spec)


def test_the_run_that_makes_a_base_imitates_the_same_demonstrations(tmp_path: Path) -> None:
    config = TrainConfig(algo="residual", seed=5, demos=7, base_algo="bc", reward="task+intervention")
    made = base_run(config, tmp_path / "mine")
    assert (made.algo, made.seed, made.demos, made.run_dir) == ("bc", 5, 7, str(tmp_path / "mine-base"))
    assert (made.reward, made.policy) == ("", bc.Config())
    with pytest.raises(ConfigError, match="a family that imitates: bc, diffusion, flow"):
        base_run(dataclasses.replace(config, base_algo="rlpd"), tmp_path / "mine")


def test_base_files_are_plain_data(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    config = child(tmp_path, base)
    paths = RunPaths(Path(config.run_dir))
    paths.root.mkdir()
    freeze_base(config, paths)
    meta = json.loads((paths.base / "base.json").read_text())
    assert (meta["algo"], meta["updates"], meta["run"]) == ("bc", 10, str(base.root))
    assert sorted(path.name for path in paths.base.iterdir()) == ["base.json", "policy.safetensors"]
