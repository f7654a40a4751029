"""What a learner finds when it comes back."""

import time
from pathlib import Path

import numpy as np
import pytest

from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind, Source, Transition
from robolearn.policies import bc, hg_dagger
from robolearn.run import rundir
from robolearn.run.base import freeze_base
from robolearn.run.checkpoint import Checkpoint, Progress, save_checkpoint
from robolearn.run.complete import complete
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Row
from robolearn.run.learner import LearnerProcess, only_learner
from robolearn.run.limiter import limiter_of
from robolearn.run.process import Process
from robolearn.run.station import build_task
from robolearn.sync.codec import Snapshot
from robolearn.sync.local import LocalPublisher


def learner_process(root: Path) -> tuple[Process, TrainConfig]:
    config = complete(TrainConfig(tier="smoke", device="cpu", run_dir=str(root)))
    return Process("learner", Row.LEARNER, rundir.create(config, ["train"]), time.monotonic_ns()), config


def test_no_version_stands_for_two_sets_of_weights(tmp_path: Path) -> None:
    process, config = learner_process(tmp_path / "run")
    LocalPublisher(process.paths.weights).publish(Snapshot(41, 300, {"w": np.zeros(1, np.float32)}))
    learner = LearnerProcess(process, config, limiter_of(config))
    learner.loop.publish()
    assert learner.loop.version == 42


def test_one_learner_at_a_time(tmp_path: Path) -> None:
    process, _ = learner_process(tmp_path / "run")
    refused = pytest.raises(StoreError, match="another learner")
    with only_learner(process), refused, only_learner(process, patience_s=0.05):
        pass
    with only_learner(process, patience_s=0.0):
        pass


def test_without_a_demonstration_the_robot_goes_on_as_its_base_until_somebody_corrects_it(tmp_path: Path) -> None:
    base = complete(TrainConfig(tier="smoke", algo="bc", policy=bc.Config(hidden=8), run_dir=str(tmp_path / "base")))
    paths, spec = rundir.create(base, ["train"]), build_task(base).spec
    made = bc.build_learner(base.policy, spec, seed=0, statistics={"state": (np.full(72, 0.5), np.full(72, 2.0))})
    save_checkpoint(paths.checkpoints, Checkpoint(Progress(1, 8, 0, 0, {}), made.state(), made.snapshot()))
    own = hg_dagger.Config(bc=bc.Config(batch=8, updates_per_call=4))
    config = complete(TrainConfig(
        tier="smoke", algo="hg_dagger", device="cpu", demos=0, base=str(paths.root), policy=own,
        run_dir=str(tmp_path / "run"),
    ))  # fmt: skip
    process = Process("learner", Row.LEARNER, rundir.create(config, ["train"]), time.monotonic_ns())
    freeze_base(config, process.paths)
    limiter = limiter_of(config)
    learner = LearnerProcess(process, config, limiter)
    loop = learner.loop
    assert not loop.once()
    assert all(np.array_equal(loop.learner.snapshot()[name], made.snapshot()[name]) for name in made.snapshot())
    writer = Writer(process.paths.buffer, Schema(spec.observation, spec.action), name="actor0", robot="r", task="t")
    steps = 0
    with writer:
        for t in range(60):
            corrected = t > 40
            seen = {"state": np.zeros(72, np.float32)}
            action = np.zeros(spec.action.shape, np.float32)
            writer.append(
                Transition("0" * 32, t, seen, action, action, None, Source.HUMAN if corrected else Source.POLICY, 0.0,
                           1.0, Kind.MID if t else Kind.FIRST, 0, t)
            )  # fmt: skip
            writer.flush()
            steps += t > 0
            while not limiter.actor_may(steps, loop.updates):
                assert loop.once(), f"deadlock after {steps} steps"
            assert corrected or loop.calls == 0
    while loop.once():
        pass
    assert loop.calls > 0
    assert loop.updates == limiter.target(steps, 4)
