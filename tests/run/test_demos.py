"""Demonstrations from elsewhere: by whose reward, with which keys, and that they are needed once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robolearn.buffer.replay import Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import read_schema
from robolearn.buffer.writer import Writer
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, StoreError
from robolearn.core.types import Kind, Source, TaskSpec, Transition
from robolearn.policies import bc, expo, residual
from robolearn.run import rundir
from robolearn.run.base import freeze_base, load_base, unit_statistics
from robolearn.run.checkpoint import Checkpoint, Progress, save_checkpoint
from robolearn.run.complete import complete
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.demos import bring_demonstrations
from robolearn.run.station import build_task, stored_spec

SMOKE = plugins.load("task", "peg_insert").TIERS["smoke"]
TINY = bc.Config(hidden=8, layers=1, updates=10)
RL: dict[str, Any] = {"hidden": 16, "critics": 2}
POLICIES = {"bc": TINY, "residual": residual.Config(**RL), "expo": expo.Config(**RL, target_critics=1)}


def config_of(root: Path, algo: str, **changes: object) -> TrainConfig:
    policy = POLICIES.get(algo) or plugins.load("policy", algo).Config()
    config = TrainConfig(tier="smoke", algo=algo, env=SMOKE, policy=policy, run_dir=str(root))
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def write(root: Path, spec: TaskSpec, *, reward: float = 1.0, episodes: int = 2) -> None:
    """Demonstrations of random steps, the last of which succeeds."""
    rng = np.random.default_rng(0)
    with Writer(root, Schema(spec.observation, spec.action), name="d", robot="arm", task="peg_insert", demo=True) as w:
        for episode in range(episodes):
            for t in range(4):
                last = t == 3
                seen = {k: rng.standard_normal(a.shape).astype(np.float32) for k, a in spec.observation.items()}
                action = rng.uniform(-1.0, 1.0, spec.action.shape).astype(np.float32)
                kind = Kind.FIRST if t == 0 else Kind.TERMINATED if last else Kind.MID
                w.append(
                    Transition(f"{episode:032x}", t, seen, action, action, None, Source.SCRIPT, reward * last,
                               0.0 if last else 1.0, kind, -1, t)
                )  # fmt: skip
            w.end_episode(True)


def run_of(root: Path, algo: str, *, base: RunPaths | None = None, reward: float = 1.0) -> RunPaths:
    """A run with demonstrations and, if it is one others start from, a checkpoint."""
    config = config_of(root, algo, base=str(base.root) if base else "")
    paths = rundir.create(config, ["robolearn", "train"])
    freeze_base(config, paths)
    spec = build_task(config).spec
    write(paths.buffer, stored_spec(config, spec), reward=reward)
    if algo == "bc":
        learner = bc.build_learner(TINY, spec, seed=0, statistics=unit_statistics(spec))
        save_checkpoint(paths.checkpoints, Checkpoint(Progress(1, 10, 0, 0, {}), learner.state(), learner.snapshot()))
    return paths


def brought(root: Path, algo: str, source: Path, *, base: RunPaths | None = None) -> RunPaths:
    """A new run with another's demonstrations."""
    config = config_of(root, algo, demos_from=str(source), base=str(base.root) if base else "")
    paths = rundir.create(config, ["robolearn", "train"])
    freeze_base(config, paths)
    assert bring_demonstrations(config, paths) == 2
    return paths


def rewards(paths: RunPaths) -> set[float]:
    """Of the last steps."""
    with Replay(paths.buffer, read_schema(paths.buffer)) as replay:
        replay.refresh()
        return {float(replay.episode(f"{n:032x}").reward[-1]) for n in range(2)}


def test_demonstrations_are_judged_by_the_reward_of_the_run_or_refused(tmp_path: Path) -> None:
    plain, rlif = run_of(tmp_path / "plain", "rlpd"), run_of(tmp_path / "rlif", "rlif", reward=0.0)
    assert rewards(brought(tmp_path / "a", "rlif", plain.root)) == {0.0}
    assert rewards(brought(tmp_path / "b", "rlif", rlif.root)) == {0.0}
    assert rewards(brought(tmp_path / "c", "rlpd", plain.root)) == {1.0}
    for algo in ("rlpd", "hil_rlpd"):
        with pytest.raises(ConfigError, match="judged by 'intervention', those of this run by 'task'"):
            complete(config_of(tmp_path / "d", algo, demos_from=str(rlif.root)))
    # who learns from no reward takes them as they are, and whoever comes after is still told
    imitator = brought(tmp_path / "e", "bc", rlif.root)
    for algo in ("bc", "hg_dagger"):
        complete(config_of(tmp_path / "f", algo, demos_from=str(rlif.root)))
    with pytest.raises(ConfigError, match="judged by 'intervention'"):
        complete(config_of(tmp_path / "g", "rlpd", demos_from=str(imitator.root)))


def test_other_runs_data_is_refused_where_another_reward_judged_it(tmp_path: Path) -> None:
    plain, rlif = run_of(tmp_path / "plain", "rlpd"), run_of(tmp_path / "rlif", "rlif", reward=0.0)
    shutil.copytree(plain.buffer, tmp_path / "buffer")
    for algo, data in (("rlif", plain.root), ("rlif", tmp_path / "buffer"), ("rlpd", rlif.buffer)):
        with pytest.raises(ConfigError, match="bring demonstrations with --demos-from"):
            complete(config_of(tmp_path / "x", algo, data=f"{data}:success"))
    for algo, data in (("rlif", rlif.root), ("rlpd", plain.root), ("rlpd", tmp_path / "buffer"), ("bc", rlif.root)):
        complete(config_of(tmp_path / "x", algo, data=str(data)))


def test_demonstrations_are_brought_once(tmp_path: Path) -> None:
    source = run_of(tmp_path / "source", "rlpd")
    paths = brought(tmp_path / "run", "rlpd", source.root)
    assert json.loads(paths.demonstrations.read_text())["episodes"] == 2
    shutil.rmtree(source.root)
    assert bring_demonstrations(config_of(paths.root, "rlpd", demos_from=str(source.root)), paths) == 2
    paths.demonstrations.unlink()  # interrupted half way: the source is needed
    with pytest.raises(StoreError, match="no buffer"):
        bring_demonstrations(config_of(paths.root, "rlpd", demos_from=str(source.root)), paths)


@pytest.mark.parametrize("algo", ["residual", "bc"])
def test_a_missing_key_of_the_task_is_named(tmp_path: Path, algo: str) -> None:
    base = run_of(tmp_path / "base", "bc")
    spec = build_task(config_of(tmp_path, "bc")).spec
    key = next(iter(spec.observation))
    other = dataclasses.replace(spec, observation={"other": spec.observation[key]}, symmetries=())
    write(tmp_path / "demos", other)
    with pytest.raises(StoreError, match=rf"'other': .* -> missing\n.*'{key}': missing -> "):
        brought(tmp_path / "run", algo, tmp_path / "demos", base=base if algo == "residual" else None)


@pytest.mark.parametrize(("source", "key"), [("residual", "base_action"), ("expo", "candidates")])
@pytest.mark.parametrize("target", ["bc", "rlpd", "residual", "expo"])
def test_what_another_policy_noted_is_left_behind(tmp_path: Path, source: str, key: str, target: str) -> None:
    base = run_of(tmp_path / "base", "bc")
    theirs = run_of(tmp_path / "theirs", source, base=base)
    wanted = base if hasattr(plugins.load("policy", target), "BASE") else None
    config = config_of(tmp_path / "run", target, base=str(base.root) if wanted else "")
    paths = brought(Path(config.run_dir), target, theirs.root, base=wanted)
    schema = read_schema(paths.buffer)
    task = build_task(config).spec
    assert set(schema.observation) == set(stored_spec(config, task).observation)
    assert (key in schema.observation) == (target == source)
    with Replay(theirs.buffer, read_schema(theirs.buffer)) as old, Replay(paths.buffer, schema) as new:
        old.refresh()
        new.refresh()
        for name in task.observation:
            before, after = (replay.episode("0" * 32).observation[name] for replay in (old, new))
            np.testing.assert_array_equal(before, after)
        if target == "residual":  # what this run's own base says, not what was noted
            frozen = load_base(config)
            assert frozen is not None
            policy = bc.build_policy(TINY, task, seed=0)
            policy.load(frozen.weights)
            rows = new.episode("0" * 32).observation
            own = [policy.act({k: rows[k][t] for k in task.observation}, explore=False) for t in range(4)]
            np.testing.assert_allclose(rows["base_action"], np.clip(own, -1.0, 1.0), atol=1e-6)
