"""``gym:`` and ``dm:`` from a command line to recorded episodes."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robolearn.cli import record, train
from robolearn.cli.by_id import spell_out
from robolearn.cli.options import parse
from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Kind, Skill, Transition
from robolearn.rewards.parts.build import build_reward
from robolearn.run.act import Act, run_episode
from robolearn.run.complete import complete, remarks
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.rundir import create, load_config, stem_of
from robolearn.run.station import Station, build_station

LINE = "their_environments:TheirLine-v0"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is leased or written outside ``tmp_path``."""
    monkeypatch.setenv("ROBOLEARN_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def config_of(*arguments: str) -> TrainConfig:
    config = train.read(arguments).config
    assert config is not None
    return config


def test_everything_after_the_first_colon_is_the_id() -> None:
    config = config_of(f"gym:{LINE}")
    assert (config.task, config.env.id, config.robot, config.tier) == ("gym", LINE, "environment", "default")
    assert config_of("--task", "dm:manipulation/reach_site_features").env.id == "manipulation/reach_site_features"
    assert config_of("gym", "--env.id", LINE).env.id == LINE
    assert config_of("peg_insert").robot == TrainConfig().robot


def test_short_options() -> None:
    config = config_of(
        f"gym:{LINE}", "--env-kwargs", '{"size": 1.5}', "--success-key=reward>-1", "--expert", "a.b:c",
        "--action_repeat", "2", "--max-steps", "7", "--success-at", "end",
    )  # fmt: skip
    env = config.env
    assert env.arguments() == {"size": 1.5}
    assert (env.success_key, env.expert, env.action_repeat, env.max_steps) == ("reward>-1", "a.b:c", 2, 7)
    assert env.success_at == "end"
    with pytest.raises(ConfigError, match="unknown option '--max-steps'"):
        train.read(["peg_insert", "--max-steps", "7"])


def test_two_environments_are_one_too_many() -> None:
    assert spell_out("a", ["--env.id", "a"]) == ["--env.id", "a"]
    with pytest.raises(ConfigError, match="two environments are given: 'a' and 'b'"):
        spell_out("a", ["--env.id", "b"])


def test_demonstrations_only_where_somebody_shows_them() -> None:
    assert config_of(f"gym:{LINE}").demos == 0
    assert config_of(f"gym:{LINE}", "--expert", "their_environments:line_expert").demos == TrainConfig().demos
    assert config_of(f"gym:{LINE}", "--demos", "3").demos == 3
    with pytest.raises(ConfigError, match="has nobody to show how it is done; say --demos 0"):
        complete(config_of(f"gym:{LINE}", "--demos", "3"))


def test_complete_refuses_what_cannot_work_and_says_what_counts() -> None:
    config = complete(config_of(f"gym:{LINE}"))
    assert config.steps == config.env.steps
    assert remarks(config) == ["success: info['is_success'] at any step"]
    with pytest.raises(ConfigError, match="brings its own robot 'environment'; leave out --robot fr3_sim"):
        complete(config_of(f"gym:{LINE}", "--robot", "fr3_sim"))
    with pytest.raises(ConfigError, match="actions of Discrete do not work"):
        complete(config_of("gym:CartPole-v1"))


def test_run_directories_are_named_after_the_environment_and_read_again(tmp_path: Path) -> None:
    config = complete(config_of(f"gym:{LINE}", "--algo", "rlpd", "--env-kwargs", '{"size": 1.0}'))
    assert stem_of(config) == "gym-their_environments-TheirLine-v0-rlpd"
    paths = create(dataclasses.replace(config, run_dir=str(tmp_path / "run")), ["robolearn"])
    assert load_config(RunPaths(paths.root)).env == config.env


def test_record_with_an_expert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robolearn.buffer.replay import Replay
    from robolearn.buffer.schema import Schema
    from robolearn.run.station import build_task

    out = tmp_path / "demos"
    arguments = [f"gym:{LINE}", "--expert", "their_environments:line_expert", "--episodes", "3", "--out", str(out)]
    assert record.main([*arguments, "--json"]) == 0
    assert '"successes": 3' in capsys.readouterr().out
    spec = build_task(config_of(f"gym:{LINE}")).spec
    replay = Replay(out, Schema(spec.observation, spec.action), seed=0)
    replay.refresh()
    assert replay.demo_transitions == 3 * 12
    mean, _ = replay.statistics("demo")["state"]
    assert np.isfinite(mean).all()
    with pytest.raises(ConfigError, match="brings its own robot 'environment'"):
        record.main([f"gym:{LINE}", "--robot", "fr3_sim", "--out", str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="no scripted policy 'script'"):
        record.main([f"gym:{LINE}", "--out", str(tmp_path / "none")])


def test_a_run_whose_expert_fails_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="raising_expert failed: ValueError: no idea"):
        record.main([f"gym:{LINE}", "--expert", "their_environments:raising_expert", "--out", str(tmp_path / "demos")])


def test_documented_commands_can_be_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith("robolearn ")]
    assert len(commands) >= 6
    for _, verb, *arguments in commands:
        if verb == "train":
            assert train.read(arguments).config is not None
        else:
            task, *options = arguments
            parse(record.RecordOptions, [task, *_own(options)], verb="record", what="")


def _own(options: list[str]) -> list[str]:
    """Options of record itself."""
    spelled = spell_out("", options)
    pairs = zip(spelled[::2], spelled[1::2], strict=True)
    return [word for pair in pairs if not pair[0].startswith("--env.") for word in pair]


def test_documented_expert_swings_the_pendulum_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    (tmp_path / "documented_experts.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    config = config_of("gym:Pendulum-v1", "--expert", "documented_experts:pendulum", "--success-key", "return>-400")
    station = build_station(complete(config))
    noise = np.random.default_rng(0)
    act = make_script(station, noise)
    assert sum(run_episode(station, act, np.random.default_rng(seed)).success for seed in range(10)) >= 9
    station.robot.close()


def make_script(station: Station, noise: np.random.Generator) -> Act:
    """The expert acts."""
    return lambda observation, raw: station.task.expert(raw, noise, skill=Skill.INFORMED)


def test_an_environment_that_ended_is_not_stepped_on_where_the_reward_sees_no_success() -> None:
    config = config_of(f"gym:{LINE}", "--env-kwargs", '{"size": 40.0}', "--success-key", "terminated")
    station = build_station(complete(config))
    rows: list[Transition] = []

    def rest(observation: Observation, raw: Observation) -> Array:
        return np.zeros(2, np.float32)

    far = [seed for seed in range(12) if run_episode(station, rest, np.random.default_rng(seed)).success]
    assert far
    for text in ("keys", "task+keys"):
        reward = build_reward(text, station.task.spec)
        episode = run_episode(station, rest, np.random.default_rng(far[0]), append=rows.append, reward=reward)
        ended = text != "keys"  # the sum ends where the task does
        assert (episode.success, episode.steps) == (ended, 1)
        assert rows[-1].kind is (Kind.TERMINATED if ended else Kind.TRUNCATED)
    assert not station.robot.stopped
    station.robot.close()


@pytest.mark.slow
def test_a_run_in_an_environment_that_fails_stops_in_one_line_and_goes_on_when_it_is_mended(tmp_path: Path) -> None:
    run, mended = tmp_path / "run", tmp_path / "mended"
    options = json.dumps({"way": "step raises", "mended": str(mended)})
    first = _robolearn(
        "train", "gym:their_environments:TheirBad-v0", "--env-kwargs", options, "--steps", "60", "--run-dir", str(run),
        "--policy.utd", "1", "--policy.pretrain", "0", "--policy.batch", "16", "--eval-episodes", "2",
        "--eval-every", "0", "--headless", "--no-video",
    )  # fmt: skip
    assert first.returncode == 1
    assert "step failed: ZeroDivisionError: division by zero (their_environments.py" in first.stderr
    assert f"robolearn train --resume {run}" in first.stderr
    assert "Traceback" not in first.stderr
    mended.touch()
    second = _robolearn("train", "--resume", str(run), "--headless")
    assert second.returncode == 0, second.stderr
    assert json.loads((run / "results.json").read_text())["steps"] == 60


def _robolearn(*arguments: str) -> subprocess.CompletedProcess[str]:
    here = str(Path(__file__).parents[1])  # where their environments are
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "robolearn.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, env=environment)
