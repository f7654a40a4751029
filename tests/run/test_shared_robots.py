"""Whole runs on robots that exist once, with real processes: failing robots, a silent supervisor, evaluation."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_fixture import install

from robolearn.buffer.verify import verify
from robolearn.hal.lease_types import Request
from robolearn.hal.leases import LeaseTable

TINY = (
    *("peg_insert:smoke", "--demos", "2", "--headless", "--no-video", "--eval-episodes", "4", "--device", "cpu"),
    *("--checkpoint-every-s", "1", "--policy.utd", "1", "--policy.batch", "32", "--policy.pretrain", "0"),
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return install(monkeypatch, tmp_path)


@pytest.fixture
def launch() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "robolearn.cli.main", *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"no {what} within {seconds} s")


def journal(bench: Path, name: str) -> list[tuple[int, int, int]]:
    """(time [ns], epoch, process) of each command a robot was given."""
    path = bench / f"{name}.journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(a), int(b), int(c)) for a, b, c in map(str.split, lines)]


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def happened(run: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in events(run) if line["event"] == event]


def training(run: Path, steps: int = 1) -> bool:
    path = run / "status.json"
    status = json.loads(path.read_text()) if path.exists() else {}
    return status.get("state") == "training" and status["steps"] >= steps


def states() -> dict[str, str]:
    with LeaseTable.default() as table:
        return {row.resource.id: row.state for row in table.status() if row.resource.kind == "robot"}


@pytest.mark.timeout(400)
def test_a_stopped_robot_is_replaced_and_then_the_run_goes_on_with_fewer(
    tmp_path: Path, bench: Path, launch: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    process = launch(
        "train", *TINY, "--robot", "bench:a,b,c", "--robots", "2", "--steps", "500", "--run-dir", str(run),
        "--eval-every", "100", "--eval-curve-episodes", "2",
    )  # fmt: skip
    wait_for(lambda: training(run, 20), "steps")
    (bench / "a.stop").touch()
    wait_for(lambda: happened(run, "robot replaced"), "replacement")
    wait_for(lambda: journal(bench, "c"), "command for the spare")
    (bench / "b.stop").touch()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert happened(run, "no other robot is free, going on with fewer")[0]["left"] == ["bench:c"]
    assert "actor0" in out.partition("learner")[0]
    assert "bench:a" in out
    assert "note: the robots run in real time" in out
    assert "experts: n/a" in out
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] == 500
    assert results["robots_lost"] == ["bench:a", "bench:b"]
    assert [(row["policy"], row["episodes"]) for row in results["rows"]] == [("rlpd (final)", 4)]
    assert states() == {"bench:a": "quarantined", "bench:b": "quarantined", "bench:c": "free"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [line for line in lines if line["kind"] == "eval" and not line["final"]]
    assert [line["steps"] for line in curve][:1] in ([100], [200], [300])
    assert all(line["episodes"] == 2 for line in curve)
    episode = next(line for line in lines if line["kind"] == "episode")
    assert episode["timing_latency_p99_ms"] == 5.0
    assert episode["policy_p99_ms"] > 0
    report = (run / "report.html").read_text()
    assert "robot: latency p99" in report
    assert "robots given up" in report
    for name in "abc":
        assert len({epoch for _, epoch, _ in journal(bench, name)}) == 1, "one lease, one epoch"
    assert verify(run / "buffer").ok


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_robot_the_run_stops_with_advice_and_can_be_resumed(
    tmp_path: Path, bench: Path, launch: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    (bench / "b.stop").touch()  # stops while demonstrations are recorded: the spare goes on with them
    process = launch("train", *TINY, "--robot", "bench:b,a", "--robots", "1", "--steps", "120", "--run-dir", str(run))
    wait_for(lambda: training(run, 20), "steps")
    (bench / "a.stop").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "no robot is left" in err
    assert "(bench:b, bench:a)" in err
    assert "robolearn hal clear bench:a" in err
    assert f"--resume {run}" in err
    preview = launch("train", "--resume", str(run), "--dry-run")
    out, _ = preview.communicate(timeout=120)
    assert preview.returncode == 1
    assert "quarantined" in out
    for name in ("a", "b"):
        (bench / f"{name}.stop").unlink()
        with LeaseTable.default() as table:
            table.clear(f"bench:{name}")
    preview = launch("train", "--resume", str(run), "--dry-run", "--json")
    out, _ = preview.communicate(timeout=120)
    assert (preview.returncode, json.loads(out)["possible"]) == (0, True)
    again = launch("train", "--resume", str(run), "--headless")
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert json.loads((run / "results.json").read_text())["steps"] == 120


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_a_robot_holds_still_while_the_supervisor_is_stopped_and_is_leased_anew(
    tmp_path: Path, bench: Path, launch: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    process = launch("train", *TINY, "--robot", "bench:a", "--steps", "1000", "--run-dir", str(run))
    wait_for(lambda: training(run, 20), "steps")
    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic_ns()
    wait_for(lambda: happened(run, "the supervisor is silent, holding still"), "hold")
    wait_for(lambda: time.monotonic_ns() > stopped + 6e9, "end of the lease")
    silent = journal(bench, "a")[-1][0]
    assert silent < stopped + 4e9
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: happened(run, "robot leased again"), "new lease")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    commands = journal(bench, "a")
    first = [at for at, epoch, _ in commands if epoch == commands[0][1]]
    assert max(first) == silent, "nothing more under the old lease"
    assert len({epoch for _, epoch, _ in commands}) == 2
    assert json.loads((run / "results.json").read_text())["steps"] == 1000


def test_commands_lease_the_robot_they_use_and_respect_who_holds_it(
    tmp_path: Path, bench: Path, launch: Callable[..., Any]
) -> None:
    demos = tmp_path / "demos"
    with LeaseTable.default() as table:
        from robolearn.hal.resources import Resource

        table.register(Resource("bench:a", "robot", {"driver": "bench"}, simulated=True))
        lease = table.acquire(Request("robot", "bench:a"), holder="Ada's training", ttl_s=300.0)
        refused = launch("record", "peg_insert:smoke", "--robot", "bench:a", "--out", str(demos), "--episodes", "1")
        _, err = refused.communicate(timeout=120)
        assert refused.returncode == 1
        assert "Ada's training" in err
        assert not demos.exists()
        dry = launch("train", *TINY, "--robot", "bench:a", "--dry-run")
        out, _ = dry.communicate(timeout=120)
        assert dry.returncode == 1
        assert "NOT FREE" in out
        assert "Ada's training" in out
        table.release(lease)
    granted = launch("record", "peg_insert:smoke", "--robot", "bench:a", "--out", str(demos), "--episodes", "1")
    _, err = granted.communicate(timeout=120)
    assert granted.returncode == 0, err
    assert journal(bench, "a")[0][1] > lease.epoch
    assert verify(demos).ok
    assert states() == {"bench:a": "free"}
