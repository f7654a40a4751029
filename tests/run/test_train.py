"""Whole runs with real processes: train, get killed, resume, evaluate, report."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from robolearn.buffer.verify import verify
from robolearn.run.checkpoint import require_checkpoint
from robolearn.run.config import RunPaths

STEPS = 400
TINY = (
    *("peg_insert", "--tier", "smoke", "--demos", "3", "--headless", "--no-video", "--eval-episodes", "4"),
    *("--eval-every", "200", "--eval-curve-episodes", "2", "--checkpoint-every-s", "1"),
    *("--policy.utd", "2", "--policy.batch", "32"),
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOLEARN_STATE", str(tmp_path / "state"))


@pytest.fixture
def launch() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "robolearn.cli.main", "train", *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def workers(run: Path) -> list[psutil.Process]:
    """Processes that work for a run directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "robolearn.run.worker" in line and str(run) in line:
            found.append(process)
    return found


def role(process: psutil.Process) -> str:
    try:
        line = process.cmdline()
        return line[line.index("robolearn.run.worker") + 2]
    except (psutil.Error, ValueError):
        return ""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"no {what} within {seconds} s")


def status(run: Path) -> dict[str, Any]:
    path = run / "status.json"
    return json.loads(path.read_text()) if path.exists() else {"state": "", "steps": 0}


def wait_for_steps(run: Path, steps: int) -> None:
    wait_for(lambda: status(run)["state"] == "training" and status(run)["steps"] >= steps, f"{steps} steps")


def assert_sound(run: Path, steps: int) -> None:
    """The run is done: every step is in the buffer, nothing is corrupt, nobody is left."""
    report = verify(run / "buffer")
    assert report.ok, report.problems
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] == steps
    assert results["updates"] == require_checkpoint(RunPaths(run).checkpoints).progress.updates
    assert require_checkpoint(RunPaths(run).checkpoints).progress.steps == steps
    assert [row["episodes"] for row in results["rows"]] == [4, 4, 4]
    assert status(run)["state"] == "done"
    assert not workers(run)


def test_a_run_leaves_everything_its_reader_needs(tmp_path: Path, launch: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    process = launch(*TINY, "--steps", str(STEPS), "--run-dir", str(run), "--json")
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert_sound(run, STEPS)
    assert json.loads(out)["steps"] == STEPS
    for name in ("config.yaml", "command.txt", "environment.json", "metrics.jsonl", "events.jsonl", "report.html"):
        assert (run / name).stat().st_size > 0, name
    kinds = {json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()}
    assert kinds == {"episode", "learner", "eval"}
    results = json.loads((run / "results.json").read_text())
    assert results["utd"] == pytest.approx(2, abs=0.05)
    assert results["restarts"] == 0


def test_killed_workers_are_restarted_and_nothing_is_lost(tmp_path: Path, launch: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    process = launch(*TINY, "--steps", str(2 * STEPS), "--run-dir", str(run))
    for victim, steps in (("actor", 100), ("learner", 250)):
        wait_for_steps(run, steps)
        (target,) = [p for p in workers(run) if role(p) == victim]
        target.kill()
    _, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert_sound(run, 2 * STEPS)
    assert json.loads((run / "results.json").read_text())["restarts"] >= 2


def test_a_killed_supervisor_takes_its_workers_along_and_the_run_resumes(
    tmp_path: Path, launch: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    first = launch(*TINY, "--steps", str(STEPS), "--run-dir", str(run))
    wait_for_steps(run, 120)
    first.kill()
    first.wait()
    wait_for(lambda: not workers(run), "end of the workers")
    assert verify(run / "buffer").ok
    second = launch("--resume", str(run), "--headless")
    _, err = second.communicate(timeout=150)
    assert second.returncode == 0, err
    assert_sound(run, STEPS)


def test_ctrl_c_stops_cleanly_and_a_changed_config_is_refused(tmp_path: Path, launch: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    first = launch(*TINY, "--steps", "100000", "--run-dir", str(run))
    wait_for_steps(run, 60)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert status(run)["state"] == "stopped"
    assert not workers(run)
    assert require_checkpoint(RunPaths(run).checkpoints).progress.steps >= 60
    changed = launch("--resume", str(run), "--policy.utd", "3")
    _, err = changed.communicate(timeout=60)
    assert changed.returncode != 0
    assert "policy.utd" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_while_demonstrations_are_recorded_leaves_nobody_behind(
    tmp_path: Path, launch: Callable[..., Any], how: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = launch(*TINY, "--demos", "500", "--run-dir", str(run))
    wait_for(lambda: (run / "buffer" / "logs").is_dir() and list((run / "buffer" / "logs").iterdir()), "first log")
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    wait_for(lambda: not workers(run), "end of the recorder", 10)
    assert verify(run / "buffer").ok
    if how is signal.SIGINT:
        assert process.returncode == 130, err
        assert status(run)["state"] == "stopped"


def test_two_interrupts_end_at_once_and_leave_a_sound_buffer(tmp_path: Path, launch: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    process = launch(*TINY, "--steps", "100000", "--run-dir", str(run))
    wait_for_steps(run, 60)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    wait_for(lambda: not workers(run), "end of the workers")
    assert verify(run / "buffer").ok


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_random_kills(tmp_path: Path, launch: Callable[..., Any]) -> None:
    """SIGKILL of learner, actor or supervisor at 20 random moments: the run goes on and ends whole."""
    run, rng, kills = tmp_path / "run", np.random.default_rng(0), 0
    process = launch(*TINY, "--steps", "12000", "--run-dir", str(run))
    while kills < 20:
        wait_for(lambda: status(run)["state"] == "training" and workers(run), "training", 120)
        time.sleep(float(rng.uniform(0.0, 4.0)))
        victim = rng.choice(["actor", "learner", "supervisor"])
        if victim == "supervisor":
            process.kill()
            process.communicate()
            (run / "status.json").unlink(missing_ok=True)
            process = launch("--resume", str(run), "--headless")
        else:
            for target in [p for p in workers(run) if role(p) == victim]:
                os.kill(target.pid, signal.SIGKILL)
        kills += 1
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert_sound(run, 12000)
