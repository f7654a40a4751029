"""``robolearn train``: from a command line to a configuration, and what it prints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standin.policies import guess
from standin.tasks import reach

from robolearn.cli import train
from robolearn.core import config as typed
from robolearn.core.errors import ConfigError, ResumeError
from robolearn.run import supervise
from robolearn.run.config import TrainConfig

Cli = Callable[..., tuple[int, str, str]]
ROW = {
    "policy": "guess (final)",
    "episodes": 10,
    "successes": 9,
    "success": 0.9,
    "wilson_low": 0.6,
    "wilson_high": 0.98,
}


def config_of(*arguments: str) -> TrainConfig:
    """The configuration of a command line."""
    config = train.read(["reach", "--algo", "guess", *arguments]).config
    assert config is not None
    return config


def test_defaults_come_from_task_tier_and_policy() -> None:
    assert config_of() == TrainConfig(task="reach", algo="guess", env=reach.Config(), policy=guess.Config())
    easy = train.read(["reach:easy", "--algo=guess"]).config
    assert easy is not None
    assert (easy.tier, easy.env) == ("easy", reach.TIERS["easy"])
    assert train.read(["--task", "reach", "--tier", "easy", "--algo", "guess"]).config == easy
    assert train.read(["--algo", "guess", "--task=reach:easy"]).config == easy


def test_options_reach_every_level() -> None:
    config = config_of(
        "--steps=7", "--no-video", "--headless", "--obs", "pixels", "--env.corner", "1", "-2.5", "--env.noisy",
        "--policy.lr", "1e-4", "--demos-from", "runs/a",
    )  # fmt: skip
    assert (config.steps, config.video, config.headless, config.obs) == (7, False, True, "pixels")
    assert config.env == dataclasses.replace(reach.Config(), corner=(1.0, -2.5), noisy=True)
    assert config.policy == guess.Config(lr=1e-4)
    assert config.demos_from == "runs/a"


def test_a_tier_is_overridden_by_a_preset_and_that_by_options(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text(
        "task: reach\ntier: easy\nalgo: guess\nsteps: 5\nenv: {noisy: true}\npolicy: {hidden: 8, lr: 1}\n"
    )
    config = train.read(["--config", str(preset), "--policy.hidden", "9"]).config
    assert config is not None
    assert (config.tier, config.steps) == ("easy", 5)
    assert config.env == reach.Config(tolerance_mm=20.0, noisy=True)
    assert config.policy == guess.Config(hidden=9, lr=1.0)
    assert train.read([f"--config={preset}", "--policy.hidden=9"]).config == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env: {tolerance: 1}", "unknown key 'env.tolerance'; did you mean 'env.tolerance_mm'?"),
        ("policy: {hidden: big}", "policy.hidden: expected a whole number, got 'big'"),
        ("steps: 1.5", "steps: expected a whole number, got 1.5"),
        ("algo: 3", "algo: expected a text, got 3"),
        ("tier: hard", "unknown tier 'hard' of reach"),
    ],
)
def test_a_bad_preset_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text(text)
    with pytest.raises(ConfigError) as error:
        train.read(["reach", *([] if "algo" in text else ["--algo", "guess"]), "--config", str(preset)])
    assert message in str(error.value)


def test_a_runs_own_config_as_preset_leaves_its_directory_behind(tmp_path: Path) -> None:
    stored = dataclasses.replace(config_of("--seed", "4"), run_dir=str(tmp_path))
    (tmp_path / "config.yaml").write_text(typed.dump_yaml(typed.to_dict(stored)))
    assert train.read(["--config", str(tmp_path / "config.yaml")]).config == dataclasses.replace(stored, run_dir="")


def test_options_of_a_resume_lie_on_top_of_the_stored_configuration() -> None:
    stored = config_of("--steps", "100", "--policy.hidden", "9")
    request = train.read(["--resume=run", "--steps", "200", "--headless"])
    assert (request.config, request.resume, request.headless) == (None, "run", True)
    assert train.on_top_of(stored, request) == dataclasses.replace(stored, steps=200, headless=True)
    changed = train.on_top_of(stored, train.read(["--resume", "run", "--policy.hidden", "10"]))
    assert typed.diff(stored, changed) == ["policy.hidden: 9 -> 10"]
    assert typed.diff(stored, train.on_top_of(stored, train.read(["other", "--resume", "run"]))) == [
        "task: reach -> other"
    ]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Trainings asked for; a stand-in for the supervisor shows one status and returns made-up results."""
    seen: list[TrainConfig] = []

    def fake(config: TrainConfig, *, argv: list[str], live: Any) -> supervise.RunResult:
        seen.append(config)
        live.update({"state": "training", "steps": 5, "total_steps": 10})
        return supervise.RunResult(Path(config.run_dir), "done", {"task": config.task, "rows": [ROW]})

    monkeypatch.setattr(supervise, "train", fake)
    return seen


def test_a_finished_run_prints_its_table(cli: Cli, runs: list[TrainConfig]) -> None:
    status, out, err = cli("train", "reach", "--algo", "guess", "--run-dir", "here")
    assert (status, err) == (0, "")
    assert "training" in out
    assert "90.0 %  60.0 to 98.0 %   9 of 10" in out
    assert "report: here/report.html" in out
    assert runs[0].run_dir == "here"


def test_json_is_all_that_is_on_stdout(cli: Cli, runs: list[TrainConfig]) -> None:
    status, out, err = cli("train", "reach", "--algo", "guess", "--json")
    assert status == 0
    assert json.loads(out)["rows"] == [ROW]
    assert json.loads(out)["run"] == "runs/reach-default-guess-1"
    assert "training" in err


def test_a_stopped_run_says_how_to_go_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = supervise.RunResult(Path("here"), "stopped", {})
    monkeypatch.setattr(supervise, "resume", lambda run_dir, *, overrides, live: stopped)
    status, out, _ = cli("train", "--resume", "here")
    assert status == 130
    assert "robolearn train --resume here" in out


def test_a_refused_resume_shows_why(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = config_of()

    def refuse(run_dir: Path, *, overrides: Callable[[TrainConfig], TrainConfig], live: Any) -> None:
        raise ResumeError("; ".join(typed.diff(stored, overrides(stored))))

    monkeypatch.setattr(supervise, "resume", refuse)
    status, _, err = cli("train", "--resume", "here", "--seed", "3")
    assert (status, err) == (1, "robolearn: error: seed: 0 -> 3\n")
