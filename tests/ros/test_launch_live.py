"""The specs as real processes over genuine ROS 2 messages: ``robolearn host up``, its services, and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ros_world import Process, until

pytest.importorskip("rclpy")

from robolearn.ros.remote import Remote, remote

SPACE = "/launch_1"
CLI = [sys.executable, "-m", "robolearn.cli.main"]


def below(process: int) -> list[int]:
    """Children of a process, alive or not yet waited for."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()]


def running(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def up(ros_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """``robolearn host up`` with options, once it is ready."""
    begun: list[Process] = []

    def begin(*options: str) -> Process:
        (tmp_path / "none.yaml").write_text("")
        env = {**ros_env, "ROBOLEARN_SITE": str(tmp_path / "none.yaml")}
        line = [*CLI, "host", "up", "--namespace", SPACE, *options]
        begun.append(Process(line, env, tmp_path / f"up{len(begun)}.txt"))
        begun[-1].wait_for("ready: robolearn train peg_insert --robot ros2:/launch_1")
        return begun[-1]

    yield begin
    for process in begun:
        children = below(process.child.pid) if process.alive else []
        process.kill()
        until("no node is left", lambda pids=tuple(children): not any(map(running, pids)))


@pytest.fixture
def hosts(ros_env: dict[str, str]) -> Iterator[Remote]:
    with remote() as found:
        yield found


def cli(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([*CLI, "host", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_host_comes_up_stops_is_cleared_and_ends(up: Callable[..., Process], hosts: Remote, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(
        "/**/robot_host:\n  ros__parameters:\n"
        "    max_translation: 0.004\n    max_rotation: 0.04\n    control_hz: 20.0\n"
    )
    process = up("--params-file", str(params))
    assert SPACE in hosts.hosts(10.0)
    status = hosts.status(SPACE, 10.0)
    assert (status["simulated"], status["robot"]) == ("true", "fr3_sim")
    assert (float(status["max_translation"]), float(status["control_hz"])) == (0.004, 20.0), "params file"

    topics = dict(hosts.node.get_topic_names_and_types())
    for name in ("joint_states", "robot_host/status", "robot_host/observation", "robot_host/command"):
        assert f"{SPACE}/{name}" in topics

    assert hosts.trigger(SPACE, "estop", 10.0)[0]
    until("the stop is shown", lambda: (hosts.newest(SPACE) or {})["mode"] == "stopped")
    time.sleep(1.1)  # a younger stop is not cleared, whoever asks
    code, said = cli("reset", SPACE, "--person", "Ada")
    assert (code, "cleared" in said) == (0, True), said
    until("the stop is gone", lambda: (hosts.newest(SPACE) or {})["mode"] != "stopped")

    children = below(process.child.pid)
    assert len(children) == 2
    asked = time.monotonic()
    assert process.stop(signal.SIGINT) == 0, process.text
    assert time.monotonic() - asked < 5.0  # two seconds on a machine that has time
    assert "killed" not in process.text
    assert not any(map(running, children))
    labels = {match[1] for line in process.text.splitlines() if (match := re.match(r"\[(\S+)\] ", line))}
    assert labels == {f"{SPACE}/sim_arm", f"{SPACE}/robot_host"}


@pytest.mark.slow  # test_launch_processes.py has the same with stand-ins
def test_the_death_of_the_arm_ends_the_host_and_of_the_launcher_all(up: Callable[..., Process]) -> None:
    process = up()
    arm, host = below(process.child.pid)
    os.kill(arm, signal.SIGKILL)
    assert process.child.wait(15.0) == 1
    assert f"[{SPACE}/sim_arm] was killed by SIGKILL; ending the rest" in process.text
    assert not running(host)

    process = up()
    children = below(process.child.pid)
    os.kill(process.child.pid, signal.SIGKILL)
    until("the kernel has ended the nodes", lambda: not any(map(running, children)))


def test_nobody_there_is_one_line(hosts: Remote) -> None:
    code, said = cli("stop", "/nobody", "--wait", "0.2")
    assert code == 1
    assert said.startswith("robolearn: error: no robot host in /nobody on ROS domain ")
    assert said.count("\n") == 1


def test_a_refused_robot_ends_with_its_one_line(ros_env: dict[str, str], tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("robots: {left: {driver: ros2, host: {model: fr3}}}\n")
    done = subprocess.run(
        [*CLI, "host", "up", "--robot", "left"], env={**ros_env, "ROBOLEARN_SITE": str(site)}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "workspace" in done.stderr
    assert done.stderr.count("\n") == 1
