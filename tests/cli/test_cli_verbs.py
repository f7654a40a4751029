"""The other verbs: what they ask of the layer below, and what they print."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from standin.tasks import reach
from synthetic_run import make_run

from robolearn.core.types import Skill
from robolearn.run.config import TrainConfig
from robolearn.run.doctor import Check
from robolearn.run.evaluate import EvalResult

Cli = Callable[..., tuple[int, str, str]]
SPEC = SimpleNamespace(skills=(Skill.INFORMED, Skill.BLIND))
RESULT = EvalResult("final", 4, 3, 0.75, 0.3, 0.95, 8.5, float("nan"), 7)


def test_eval(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def evaluate(run: str, episodes: int, seed: int, *, who: tuple[str, ...], **_: Any) -> list[EvalResult]:
        asked.append((run, episodes, seed, who))
        return [RESULT]

    monkeypatch.setattr("robolearn.run.examine.evaluate_run", evaluate)
    monkeypatch.setattr("robolearn.run.borrow.config_with", lambda run, robot, **_: TrainConfig())
    monkeypatch.setattr("robolearn.run.station.build_task", lambda config: SimpleNamespace(spec=SPEC))
    status, out, err = cli("eval", "here", "--episodes", "4", "--seed", "7", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["rows"] == [{**dataclasses.asdict(RESULT), "median_cycle_s": None}]
    status, out, _ = cli("eval", "here", "--experts")
    assert "75.0 %" in out
    assert asked == [("here", 4, 7, ("final",)), ("here", 100, 1000, ("final", "blind expert", "informed expert"))]


def test_record(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def record(task: str, **rest: Any) -> dict[str, Any]:
        asked.update(rest, task=task)
        return RESULT.to_json()

    monkeypatch.setattr("robolearn.run.record.record", record)
    status, out, _ = cli("record", "reach:easy", "--out", "demos", "--episodes", "3", "--policy", "blind", "--json")
    assert status == 0
    assert asked == {
        "task": "reach", "tier": "easy", "episodes": 3, "policy": "blind", "out": "demos", "seed": 0, "obs": "state",
        "robot": "fr3_sim", "env": reach.TIERS["easy"], "wait_s": 0.0,
    }  # fmt: skip
    assert json.loads(out)["successes"] == 3
    status, out, _ = cli("record", "reach", "--episodes", "20", "--policy", "script")
    assert (status, asked["out"]) == (0, "runs/demos-reach-default-1")
    assert "recorded in runs/demos-reach-default-1" in out


def test_record_takes_options_of_the_task_and_a_robot(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def record(task: str, **rest: Any) -> dict[str, Any]:
        asked.update(rest)
        return RESULT.to_json()

    monkeypatch.setattr("robolearn.run.record.record", record)
    line = ("record", "reach:easy", "--env.corner", "1", "-2.5", "--robot", "fake:left", "--env.noisy", "--wait", "3")
    assert cli(*line)[0] == 0
    assert asked["env"] == dataclasses.replace(reach.TIERS["easy"], corner=(1.0, -2.5), noisy=True)
    assert (asked["robot"], asked["wait_s"]) == ("fake:left", 3.0)
    status, _, err = cli("record", "reach", "--env.cornr", "1", "2")
    assert status == 2
    assert "--env.corner" in err


def test_rollout(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    episode = {"success": True, "steps": 30, "peak_force_n": 7.25}
    result = {"run": "here", "episodes": [episode], "successes": 1, "video": "film.mp4"}
    monkeypatch.setattr("robolearn.run.borrow.config_with", lambda run, robot, **_: TrainConfig())
    monkeypatch.setattr("robolearn.run.station.build_task", lambda config: SimpleNamespace(spec=SPEC))
    monkeypatch.setattr("robolearn.run.rollout.rollout", lambda run, **rest: result | {"video": rest["video"]})
    status, out, _ = cli("rollout", "here", "--video", "film.mp4")
    assert status == 0
    assert "success  30     7.2 N" in out
    assert "video: film.mp4" in out
    assert json.loads(cli("rollout", "here", "--json")[1])["video"] is None


def test_tasks_and_policies(cli: Cli) -> None:
    assert "reach  easy, default  Reach a point." in cli("tasks")[1]
    tasks = json.loads(cli("tasks", "--json")[1])["tasks"]
    assert tasks == [
        {"name": "reach", "about": "Reach a point.", "tiers": {"easy": ["tolerance_mm: 5.0 -> 20.0"], "default": []}}
    ]
    sys.modules.pop("standin.policies.guess", None)
    assert "guess      Guess: tries something. Never learns." in cli("policies")[1]
    assert "standin.policies.guess" not in sys.modules, "listing policies must not import them"
    assert "--policy.hidden  32" in cli("policies", "--options")[1]
    assert json.loads(cli("policies", "--options", "--json")[1])["policies"][0]["options"]["utd"] == 2


def test_report_and_buffer(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", done=False, upto=300)
    status, out, err = cli("report", str(run.root))
    assert (status, out, err) == (0, f"{run.report}\n", "")
    assert run.report.is_file()
    info = json.loads(cli("buffer", "info", str(run.root), "--json")[1])
    assert (info["episodes"], info["steps"], info["demo_steps"]) == (8, 48, 18)
    assert info["steps_by_source"] == {"policy": 30, "script": 18}
    assert "steps by policy     30" in cli("buffer", "info", str(run.buffer))[1]
    status, out, _ = cli("buffer", "verify", str(run.root), "--json")
    assert (status, json.loads(out)["ok"]) == (0, True)
    log = max((run.buffer).rglob("*.rlog"), key=lambda path: path.stat().st_size, default=None)
    logs = [log] if log else [path for path in (run.buffer / "logs").iterdir() if path.is_file()]
    data = bytearray(logs[0].read_bytes())
    data[len(data) // 2] ^= 0xFF
    logs[0].write_bytes(data)
    status, out, _ = cli("buffer", "verify", str(run.root))
    assert status == 1
    assert "problem: " in out


def test_hal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from robolearn.hal import discovery
    from robolearn.hal.leases import LeaseTable
    from robolearn.hal.probes import cpu
    from robolearn.hal.resources import Resource

    monkeypatch.setattr(discovery, "installed", lambda: {"cpu": cpu.probe})
    with LeaseTable.default() as table:
        table.register(Resource("fr3:left", "robot"))
    status, out, _ = cli("hal", "ls")
    assert status == 0
    assert "fr3:left" in out
    assert cli("hal", "quarantine", "fr3:left", "--why", "cable loose")[0] == 0
    rows = {row["id"]: row for row in json.loads(cli("hal", "ls", "--json")[1])["resources"]}
    assert rows["fr3:left"]["state"] == "quarantined"
    assert "cable loose" in rows["fr3:left"]["why"]
    assert any(row["kind"] == "cpu" for row in rows.values())
    assert cli("hal", "clear", "fr3:left")[0] == 0
    assert json.loads(cli("hal", "ls", "fr3:left", "--json")[1])["resources"][0]["state"] == "free"
    assert cli("hal", "quarantine", "fr3:left")[0] == 2


@pytest.mark.parametrize(("level", "status"), [("pass", 0), ("warn", 0), ("fail", 1)])
def test_doctor_fails_only_on_failures(cli: Cli, monkeypatch: pytest.MonkeyPatch, level: Any, status: int) -> None:
    checks = [Check("python", "pass", "3.11"), Check("disk", level, "slow", "buy another")]
    monkeypatch.setattr("robolearn.cli.doctor.examine", lambda folder: iter(checks))
    code, out, _ = cli("doctor")
    assert code == status
    assert "buy another" in out
    code, out, _ = cli("doctor", "--json")
    assert (code, json.loads(out)["ok"]) == (status, level != "fail")
    assert json.loads(out)["checks"][1] == {"name": "disk", "level": level, "found": "slow", "fix": "buy another"}
