"""What a learner finds when it comes back."""

import time
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.errors import StoreError
from robolearn.run import rundir
from robolearn.run.complete import complete
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Row
from robolearn.run.learner import LearnerProcess, only_learner
from robolearn.run.limiter import limiter_of
from robolearn.run.process import Process
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
