"""The base of a run: what is refused, what is frozen, and that it stays what it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robolearn.core import plugins
from robolearn.core.errors import ConfigError, CorruptDataError, ResumeError
from robolearn.core.types import Base
from robolearn.policies import bc, expo, flow, hg_dagger, residual
from robolearn.run import rundir, start
from robolearn.run.base import base_run, check_base, freeze_base, load_base, unit_statistics
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


TINY_FLOW = flow.Config(mlp_width=16, mlp_blocks=1)
DAGGER = hg_dagger.Config(flow=TINY_FLOW, bc=TINY)
RL: dict[str, Any] = {"hidden": 16, "critics": 2}
CONFIGS = {
    "bc": TINY,
    "flow": TINY_FLOW,
    "hg_dagger": DAGGER,
    "residual": residual.Config(**RL),
    "expo": expo.Config(**RL, target_critics=1),
}


def run_of(root: Path, algo: str, base: RunPaths | None = None, policy: object = None) -> RunPaths:
    """A run of any family whose learner has left a checkpoint."""
    config = dataclasses.replace(config_of(root), algo=algo, policy=policy or CONFIGS[algo])
    config = dataclasses.replace(config, base=str(base.root) if base else "")
    paths = rundir.create(config, ["robolearn", "train"])
    freeze_base(config, paths)
    family, spec = plugins.load("policy", algo), build_task(config).spec
    stored = getattr(family, "stored", lambda _, plain: plain)(config.policy, spec)
    extra = {"base": load_base(config)} if hasattr(family, "BASE") else {}
    learner = family.build_learner(config.policy, stored, seed=0, statistics=unit_statistics(stored), **extra)
    save_checkpoint(paths.checkpoints, Checkpoint(Progress(1, 10, 0, 0, {}), learner.state(), learner.snapshot()))
    return paths


@pytest.mark.parametrize("inner", ["bc", "flow"])
def test_what_corrections_have_improved_can_be_a_base_itself(tmp_path: Path, inner: str) -> None:
    # the base's network is not the one that hg_dagger itself would make
    other = dataclasses.replace(TINY_FLOW, mlp_width=24) if inner == "flow" else dataclasses.replace(TINY, hidden=12)
    first = run_of(tmp_path / "first", inner, policy=other)
    corrected = run_of(tmp_path / "corrected", "hg_dagger", first)
    for algo in ("residual", "hg_dagger"):
        config = child(tmp_path, corrected, algo=algo, policy=CONFIGS[algo], run_dir=str(tmp_path / algo))
        complete(config)
        paths = RunPaths(Path(config.run_dir))
        paths.root.mkdir()
        freeze_base(config, paths)
        base = load_base(config)
        assert base is not None
        network = ("mlp_width", "chunk", "net") if inner == "flow" else ("hidden", "layers")
        assert base.algo == inner
        assert [getattr(base.config, n) for n in network] == [getattr(other, n) for n in network]
        spec = build_task(config).spec
        plugins.load("policy", algo).build_policy(config.policy, spec, seed=0, base=base)


def test_every_pair_of_families_is_decided_before_anything_is_made(tmp_path: Path) -> None:
    alone = {"bc": run_of(tmp_path / "bc", "bc"), "flow": run_of(tmp_path / "flow", "flow")}
    bases = {**alone, "hg_dagger": run_of(tmp_path / "hg_dagger", "hg_dagger")}
    bases["residual"] = run_of(tmp_path / "residual", "residual", alone["bc"])
    works = {
        "flow": {"flow", "hg_dagger"},
        "hg_dagger": {"bc", "flow", "hg_dagger"},
        "residual": {"bc", "flow", "hg_dagger"},
        "expo": {"bc", "flow", "hg_dagger"},
    }
    for algo, good in works.items():
        for name, base in bases.items():
            config = child(tmp_path, base, algo=algo, policy=CONFIGS[algo])
            if name in good:
                complete(config)
            else:
                with pytest.raises(ConfigError, match=f"--base .*{name}: "):
                    complete(config)
    wider = dataclasses.replace(TINY_FLOW, mlp_width=24)
    with pytest.raises(ConfigError, match=r"another network: mlp_width 16 \(here 24\)"):
        complete(child(tmp_path, bases["flow"], algo="flow", policy=wider))


def test_a_base_that_would_be_made_first_is_tried_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(config_of(tmp_path / "run"), algo="residual", policy=CONFIGS["residual"])
    complete(dataclasses.replace(config, base_algo="bc"))
    with pytest.raises(ConfigError, match="a family that imitates"):
        complete(dataclasses.replace(config, base_algo="rlpd"))

    def picky(config: object, spec: object, *, seed: int, base: Base | None) -> None:
        raise ConfigError(f"not over {base.algo if base else None}")

    monkeypatch.setattr(residual, "build_policy", picky)
    with pytest.raises(ConfigError, match="base_algo bc: not over bc"):
        complete(dataclasses.replace(config, base_algo="bc"))


def test_a_base_of_another_environment_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    spec = build_task(config_of(tmp_path / "x")).spec
    with pytest.raises(ConfigError, match=f"trained on {spec.name}, this run is about dm:reacher/hard"):
        check_base(child(tmp_path, base), dataclasses.replace(spec, name="dm:reacher/hard"))


def test_a_base_beside_the_run_is_taken_only_if_it_is_the_one(tmp_path: Path) -> None:
    config = dataclasses.replace(config_of(tmp_path / "run"), algo="residual", policy=None, base_algo="bc", demos=7)
    wanted, root = start.prepare(config)
    made, _ = start.prepare(base_run(wanted, root))
    paths = rundir.create(dataclasses.replace(made, wait=3.0, eval_episodes=1), ["robolearn", "train"])
    paths.results.write_text("{}")
    again = base_run(wanted, root)
    assert start._make_base(again, [], live=None, show=None).state == "done"
    others: tuple[dict[str, Any], ...] = ({"seed": 5}, {"demos": 3}, {"policy": TINY})
    for other in others:
        with pytest.raises(ConfigError, match=rf"not the one this run would make: .*{next(iter(other))}"):
            start._make_base(dataclasses.replace(again, **other), [], live=None, show=None)


def test_a_base_that_is_made_first_costs_shared_robots_little_time(tmp_path: Path) -> None:
    config = TrainConfig(algo="residual", base_algo="bc", eval_episodes=100)
    assert base_run(config, tmp_path / "mine").eval_episodes == 100
    assert base_run(dataclasses.replace(config, robot="ros2:/fr3_1"), tmp_path / "mine").eval_episodes == 10
    few = dataclasses.replace(config, robot="ros2:/fr3_1", eval_episodes=4)
    assert base_run(few, tmp_path / "mine").eval_episodes == 4


def test_the_scripted_person_is_as_the_family_wants_unless_somebody_says(tmp_path: Path) -> None:
    wanted = complete(TrainConfig(tier="smoke", algo="rlif"))
    assert (wanted.script.disagree, wanted.script.patience) == (0.5, 3)
    said = TrainConfig(tier="smoke", algo="rlif", script=type(wanted.script)(skill=wanted.script.skill))
    assert complete(said).script == said.script
    assert complete(wanted) == wanted
