"""Other robots for a run that is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from robolearn.core.errors import ConfigError
from robolearn.run.borrow import config_with, on_robot
from robolearn.run.config import TrainConfig
from robolearn.run.rundir import create
from robolearn.sim.tasks import gym


def test_a_task_that_brings_its_own_robot_takes_no_other(tmp_path: Path) -> None:
    config = TrainConfig(
        task="gym", robot="environment", env=gym.Config(id="their_environments:TheirLine-v0"), algo="rlpd", policy={},
        run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    create(config, ["robolearn"])
    with pytest.raises(ConfigError, match="gym brings its own robot 'environment'; leave out --robot fr3_sim"):
        config_with(tmp_path / "run", "fr3_sim")
    assert config_with(tmp_path / "run").robot == "environment"
    assert on_robot(config, "environment").robot == "environment"


def test_another_robot_for_a_task_of_this_tree() -> None:
    config = on_robot(TrainConfig(robot_labels="site=a", robots=3), "ur5e_sim")
    assert (config.robot, config.robot_labels, config.robots) == ("ur5e_sim", "", 0)
    assert on_robot(config, "") == config
