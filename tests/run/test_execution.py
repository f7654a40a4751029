"""Plans executed otherwise than as trained: as asked for, and at the pace of the robot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Policy
from robolearn.core.types import Base
from robolearn.policies import bc, diffusion, expo, flow, hg_dagger, residual
from robolearn.policies.parts.chunking import ChunkPolicy
from robolearn.policies.parts.execution import Execution
from robolearn.run import curve, evaluate, rundir
from robolearn.run.checkpoint import Checkpoint, Progress, require_checkpoint, save_checkpoint
from robolearn.run.complete import complete
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.examine import evaluate_run, examine
from robolearn.run.execution import emulated, executed
from robolearn.run.station import Station, build_policy, build_task

THREADED = Execution("realtime", execute=2, delay=0, threaded=True)
SMALL: dict[str, Any] = {"mlp_width": 8, "mlp_blocks": 1, "execution": THREADED}


@pytest.mark.parametrize("mode", ["receding", "ensemble"])
def test_a_mode_that_waits_for_its_plans_has_neither_delay_nor_thread(mode: str) -> None:
    for trained in (THREADED, Execution("naive", execute=3, delay=2)):
        policy, _ = executed("flow", flow.Config(execution=trained), None, {"mode": mode})
        assert policy.execution == Execution(mode, execute=trained.execute)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"delay 2 does not go with mode {mode}"):
        executed("flow", flow.Config(), None, {"mode": mode, "delay": 2})
    policy, _ = executed("flow", flow.Config(execution=THREADED), None, {"delay": 2})
    assert policy.execution == replace(THREADED, delay=2)


def test_of_several_families_the_one_that_acts_is_changed() -> None:
    asked = {"mode": "naive", "delay": 1}
    changed = Execution("naive", execute=2, delay=1)
    for name in ("flow", "diffusion"):
        config = hg_dagger.Config(imitation=name)
        policy, _ = executed("hg_dagger", config, None, asked)
        assert getattr(policy, name).execution == changed
        assert replace(policy, **{name: getattr(config, name)}) == config
    based = Base("diffusion", diffusion.Config(), {})
    policy, base = executed("hg_dagger", hg_dagger.Config(), based, asked)
    assert policy == hg_dagger.Config()
    assert base is not None
    assert base.config.execution == changed


def test_who_has_no_plans_is_said() -> None:
    cloning, chunked = Base("bc", bc.Config(), {}), Base("flow", flow.Config(), {})
    for algo, config, base, words in (
        ("bc", bc.Config(), None, "bc decides at every step; it has no plans"),
        ("hg_dagger", hg_dagger.Config(imitation="bc"), None, "bc decides at every step"),
        ("hg_dagger", hg_dagger.Config(), cloning, "bc decides at every step"),
        ("residual", residual.Config(), chunked, r"around its frozen base \('flow'\), whose plans"),
        ("expo", expo.Config(), chunked, r"around its frozen base \('flow'\), whose plans"),
    ):
        with pytest.raises(ConfigError, match=words):
            executed(algo, config, base, {"mode": "naive"})


def test_threads_are_emulated_wherever_they_are_configured() -> None:
    delayed = Execution("realtime", execute=2, delay=1)
    assert emulated(flow.Config(execution=THREADED)) == flow.Config(execution=delayed)
    assert emulated(replace(THREADED, delay=2)) == replace(delayed, delay=2)
    nested = hg_dagger.Config(flow=flow.Config(execution=THREADED))
    assert emulated(nested) == hg_dagger.Config(flow=flow.Config(execution=delayed))
    plain = hg_dagger.Config()
    assert emulated(plain) is plain


def trained(root: Path) -> TrainConfig:
    """A run whose learner has left a checkpoint of a policy that plans in a thread."""
    config = complete(
        TrainConfig(tier="smoke", algo="flow", policy=flow.Config(**SMALL), run_dir=str(root), eval_experts=False)
    )
    paths = rundir.create(config, ["robolearn", "train"])
    spec = build_task(config).spec
    statistics = {"state": (np.zeros(72, np.float32), np.ones(72, np.float32))}
    learner = flow.build_learner(config.policy, spec, seed=0, statistics=statistics)
    save_checkpoint(paths.checkpoints, Checkpoint(Progress(1, 1, 0, 0, {}), learner.state(), learner.snapshot()))
    return config


def test_only_in_real_time_a_policy_plans_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = trained(tmp_path / "run")
    task = build_task(config)
    for realtime, expected in ((True, THREADED), (False, replace(THREADED, threaded=False, delay=1))):
        policy = build_policy(config, task, seed=0, realtime=realtime)
        assert isinstance(policy, ChunkPolicy)
        assert policy.execution == expected
    base = Base("flow", config.policy, require_checkpoint(RunPaths(tmp_path / "run").checkpoints).policy)
    monkeypatch.setattr("robolearn.run.station.load_base", lambda _: base)
    over = replace(config, algo="residual", policy=residual.Config(hidden=8))
    for realtime in (True, False):
        above = build_policy(over, task, seed=0, realtime=realtime)
        assert isinstance(above, residual.ResidualPolicy)
        assert isinstance(above._base, ChunkPolicy)
        assert above._base.execution.threaded is realtime


def test_a_private_copy_is_examined_with_an_emulated_delay_and_the_policy_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "run")
    built: list[ChunkPolicy] = []
    closed: list[Policy] = []

    def spy(config: TrainConfig, task: Any, **options: Any) -> Policy:
        policy = build_policy(config, task, **options)
        assert isinstance(policy, ChunkPolicy)
        built.append(policy)
        return policy

    def run(station: Station, who: str, *_: Any, **__: Any) -> list[Any]:
        assert not station.realtime
        raise InterruptedError

    monkeypatch.setattr(evaluate, "build_policy", spy)
    monkeypatch.setattr(evaluate, "close_policy", closed.append)
    monkeypatch.setattr("robolearn.run.examine.evaluate", run)
    for asked, expected in (
        ({}, Execution("realtime", execute=2, delay=1)),
        ({"delay": 2}, Execution("realtime", execute=2, delay=2)),
        ({"mode": "receding", "execute": 4}, Execution("receding", execute=4)),
    ):
        with pytest.raises(InterruptedError):
            examine(
                tmp_path / "run",
                tmp_path / "out",
                todo={"final": [0]},
                seed=1,
                calls=1,
                alive=str(tmp_path / "alive"),
                execution=asked,
            )
        assert built[-1].execution == expected
        assert closed == built


def test_the_curve_is_drawn_with_an_emulated_delay_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(trained(tmp_path / "run"), realtime=True)
    process: Any = SimpleNamespace(
        paths=RunPaths(tmp_path / "run"), counters=SimpleNamespace(get=lambda *_: 0), row=0, stopping=lambda: True
    )
    drawing = curve.CurveEvaluator(process, config)
    drawing.station.robot.close()
    assert isinstance(drawing.policy, ChunkPolicy)
    assert not drawing.policy.execution.threaded
    own = curve.OwnCurve(process, config, replace(drawing.station, realtime=True))
    assert isinstance(own.policy, ChunkPolicy)
    assert own.policy.execution.threaded
    closed: list[Policy] = []
    monkeypatch.setattr(curve, "close_policy", closed.append)
    monkeypatch.setattr(curve, "evaluate", lambda *_, **__: [])
    curve.draw_point(process, config, drawing.station, own.policy, steps=1, version=1)
    assert closed == [own.policy]


def test_an_execution_that_does_not_fit_is_refused_before_anything_starts(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"execution.execute is 8; expected at most 7, the horizon of 8 less a delay"):
        evaluate_run(tmp_path / "run", 1, execution={"execute": 8})
