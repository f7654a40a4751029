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
from robolearn.core.errors import ConfigError, LeaseError, ResumeError
from robolearn.run import start
from robolearn.run.config import TrainConfig
from robolearn.run.place import Outlook, Place

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

    def fake(config: TrainConfig, *, argv: list[str], live: Any, show: Any) -> start.RunResult:
        seen.append(config)
        live.update({"state": "training", "steps": 5, "total_steps": 10})
        return start.RunResult(Path(config.run_dir), "done", {"task": config.task, "rows": [ROW]})

    monkeypatch.setattr(start, "train", fake)
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
    stopped = start.RunResult(Path("here"), "stopped", {})
    monkeypatch.setattr(start, "resume", lambda run_dir, *, overrides, live, show: stopped)
    status, out, _ = cli("train", "--resume", "here")
    assert status == 130
    assert "robolearn train --resume here" in out


def test_a_refused_resume_shows_why(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = config_of()

    def refuse(run_dir: Path, *, overrides: Callable[[TrainConfig], TrainConfig], live: Any, show: Any) -> None:
        raise ResumeError("; ".join(typed.diff(stored, overrides(stored))))

    monkeypatch.setattr(start, "resume", refuse)
    status, _, err = cli("train", "--resume", "here", "--seed", "3")
    assert (status, err) == (1, "robolearn: error: seed: 0 -> 3\n")


@pytest.mark.parametrize(
    ("options", "robot", "labels"),
    [
        ((), "fr3_sim", ""),
        (("--robot", "fake:/left"), "fake:/left", ""),
        (("--robot-labels", "site=labA"), "", "site=labA"),
        (("--robot", "fake", "--robot-labels", "site=labA"), "fake", "site=labA"),
    ],
)
def test_robots_are_named_or_asked_for_by_label(options: tuple[str, ...], robot: str, labels: str) -> None:
    config = config_of(*options)
    assert (config.robot, config.robot_labels) == (robot, labels)


@pytest.mark.parametrize(
    "options", [("--robot", "fr3_simm"), ("--robot", "fake:left", "--robots", "2"), ("--robot-labels", "labA")]
)
def test_robots_that_make_no_sense_are_refused_at_once(options: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"--robot|unknown robot"):
        config_of(*options)


def test_experts_are_a_yes_or_no_with_a_default_that_depends_on_the_robot() -> None:
    assert config_of().eval_experts is None
    assert config_of("--eval-experts", "True").eval_experts is True
    assert config_of("--eval-experts", "False").eval_experts is False


def test_where_everything_goes_is_shown_before_it_starts(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(config: TrainConfig, *, argv: list[str], live: Any, show: Any) -> start.RunResult:
        show(start.Start(Path("here"), [Place("actor0", "fake:left", "lab3", 1.0, 1.0)], ["no curve is drawn"]))
        return start.RunResult(Path("here"), "done", {"rows": [ROW], "experts": "n/a"})

    monkeypatch.setattr(start, "train", fake)
    _, out, _ = cli("train", "reach", "--algo", "guess", "--run-dir", "here")
    assert "role    resource   where  share\nactor0  fake:left  lab3   whole\nnote: no curve is drawn\n" in out
    assert "experts: n/a" in out


@pytest.mark.parametrize(("why", "status"), [("", 0), ("fake:left is held by Ada", 1)])
def test_a_dry_run_says_what_is_free_and_starts_nothing(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, why: str, status: int
) -> None:
    asked: list[Any] = []

    def preview(config: TrainConfig, *, run_dir: str, overrides: Any) -> list[Outlook]:
        asked.append(config.robot)
        return [Outlook("actor0", "fake:left", "" if why else "fake:left", why)]

    monkeypatch.setattr(start, "preview", preview)
    line = ("train", "reach", "--algo", "guess", "--robot", "fake:left", "--dry-run")
    code, out, _ = cli(*line)
    assert code == status
    assert why in out
    assert ("NOT FREE" in out) == bool(why)
    code, out, _ = cli(*line, "--json")
    assert json.loads(out)["possible"] == (status == 0)
    assert asked == ["fake:left"] * 2
    assert not Path("runs").exists()


def test_a_run_that_cannot_start_leaves_no_directory(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: TrainConfig, **_: Any) -> None:
        assert Path(config.run_dir).is_dir()
        raise LeaseError("held by Ada")

    monkeypatch.setattr(start, "train", refuse)
    status, _, err = cli("train", "reach", "--algo", "guess")
    assert (status, err) == (1, "robolearn: error: held by Ada\n")
    assert list(Path("runs").iterdir()) == []
