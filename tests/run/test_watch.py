"""What a step of a run is worth, from its configuration."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robolearn.core.errors import ConfigError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Judgement, Kind, TaskSpec
from robolearn.policies import rlpd
from robolearn.rewards.parts.calibrate import Calibration
from robolearn.rewards.parts.network import FrameNetwork, Inputs
from robolearn.rewards.parts.saved import Classifier, Shape, write
from robolearn.run import start
from robolearn.run.complete import complete
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.watch import build_reward, freeze_reward

SPEC = TaskSpec("seen", {"state": ArraySpec("state", (4,))}, ArraySpec("action", (2,), low=-1.0, high=1.0), 20, 10.0)


def train(folder: Path, seed: int) -> None:
    """A classifier that nobody trained."""
    inputs, shape = Inputs.of(SPEC.observation), Shape(hidden=(4,))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = FrameNetwork(inputs, shape.hidden, shape.channels, shape.width)
    write(Classifier(network.eval(), shape, Calibration(), 0.5), folder)


def probability(config: TrainConfig) -> float:
    reward = build_reward(config, SPEC)
    assert reward is not None
    reward.reset()
    frame = {"state": np.linspace(-1.0, 1.0, 4, dtype=np.float32)}
    return reward.of(Judgement(0.0, Kind.MID, False), frame, taken_over=False).info["success_probability"]


@pytest.mark.parametrize("text", ["classifier:seen", "task+0.5*classifier(path=seen,consecutive=2)"])
def test_a_run_keeps_its_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "seen", 0)
    config = TrainConfig(reward=text, run_dir=str(tmp_path / "run"))
    paths = RunPaths(tmp_path / "run")
    before = probability(config)
    freeze_reward(config, paths)
    train(tmp_path / "seen", 1)
    assert probability(dataclasses.replace(config, run_dir="")) != before
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    freeze_reward(config, paths)  # going on with the run
    assert probability(config) == before
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert probability(dataclasses.replace(config, run_dir=str(tmp_path / "moved"))) == before


def test_what_is_made_of_no_files_leaves_none(tmp_path: Path) -> None:
    for text in ("", "task", "task+0.5*intervention"):
        freeze_reward(TrainConfig(reward=text), RunPaths(tmp_path))
    assert not list(tmp_path.iterdir())


def test_starting_a_run_and_going_on_with_it_freezes_its_reward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "seen", 0)
    paths = RunPaths(tmp_path / "run")
    config = TrainConfig(reward=f"classifier:{tmp_path / 'seen'}", run_dir=str(paths.root))
    found: list[bool] = []

    class Watched(SimpleNamespace):
        def run(self) -> None:
            found.append(paths.reward.is_dir())

    monkeypatch.setattr(start, "Supervisor", lambda *_: Watched())
    scheduler: Any = None
    start._run(paths, config, scheduler, None, None)
    assert found == [True]


@pytest.mark.parametrize("text", ["keys", "task+0.5*keys(success=2)"])
def test_training_by_labels_that_nobody_gives_is_refused(text: str) -> None:
    config = TrainConfig(algo="rlpd", reward=text, policy=rlpd.Config())
    with pytest.raises(ConfigError, match="reward 'keys' waits for labels of a person, and no device gives any yet"):
        complete(config)
