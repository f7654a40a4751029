"""The supervisor without its processes."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_run

from robolearn.core.errors import ConfigError
from robolearn.run import finish
from robolearn.run.complete import complete
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Field, Row
from robolearn.run.inventory import steps_of_writer
from robolearn.run.place import LocalScheduler
from robolearn.run.roles import plan
from robolearn.run.supervise import Supervisor


def supervisor(root: Path) -> Supervisor:
    paths = make_run(root, done=False, upto=500)
    config = complete(TrainConfig(robots=2, run_dir=str(root)))
    return Supervisor(paths, config, LocalScheduler(plan(config, root), holder="test"), None)


def test_steps_of_an_earlier_sitting_count_before_any_actor_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = supervisor(tmp_path), []

    def train(self: Supervisor) -> None:
        seen.append([self.counters.get(Row.ACTORS + i, Field.STEPS) for i in range(2)])
        self.interrupts = 1

    monkeypatch.setattr(Supervisor, "_demonstrations", lambda self: None)
    monkeypatch.setattr(Supervisor, "_train", train)
    assert run.run().state == "stopped"
    assert seen == [[steps_of_writer(tmp_path / "buffer", "actor0"), 0]] == [[30, 0]]


def test_one_interrupt_ends_the_final_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

    monkeypatch.setattr(Supervisor, "_demonstrations", lambda self: None)
    monkeypatch.setattr(Supervisor, "_train", lambda self: None)
    monkeypatch.setattr(finish, "evaluate_run", evaluate)
    assert supervisor(tmp_path).run().state == "stopped"
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "stopped"
    assert "--resume" in status["message"]


def test_a_curve_of_no_episodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="eval_curve_episodes"):
        complete(TrainConfig(eval_curve_episodes=0))
