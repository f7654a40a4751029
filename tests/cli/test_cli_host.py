"""``robolearn host``: what it would start, what it refuses, and what it notes."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from robolearn.core.errors import MissingDependencyError, RobolearnError

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    monkeypatch.setenv("ROBOLEARN_SITE", str(tmp_path / "empty.yaml"))


class Hosts:
    """Hosts as ``ros.remote`` shows them."""

    def __init__(self) -> None:
        self.known = {"/fr3_1": {"mode": "driving", "model": "fr3", "message": "driving"}}
        self.calls: list[tuple[str, str]] = []
        self.answer = (True, "stopped")

    def hosts(self, wait_s: float) -> list[str]:
        return list(self.known)

    def status(self, namespace: str, wait_s: float) -> dict[str, str]:
        if namespace not in self.known:
            raise RobolearnError(f"no robot host in {namespace} on ROS domain 0")
        return self.known[namespace]

    def trigger(self, namespace: str, service: str, wait_s: float) -> tuple[bool, str]:
        self.calls.append((namespace, service))
        return self.answer


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    fake = Hosts()

    @contextmanager
    def remote() -> Iterator[Hosts]:
        yield fake

    monkeypatch.setattr("robolearn.ros.remote.remote", remote)
    return fake


def test_a_dry_run_prints_what_up_would_start(cli: Cli) -> None:
    code, out, err = cli("host", "up", "--dry-run", "--robots", "2", "--task", "peg_insert:smoke")
    assert (code, err) == (0, "")
    lines = [shlex.split(line) for line in out.splitlines()]
    assert [line[2].rpartition(".")[2] for line in lines] == ["sim_arm", "robot_host"] * 2
    assert all(line[0] == sys.executable for line in lines)
    assert "__ns:=/fr3_2" in lines[3]
    assert 'tier:="smoke"' in lines[0]
    code, out, _ = cli("host", "up", "--dry-run", "--json")
    assert len(json.loads(out)["commands"]) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "missing"),
        ("pu", "unknown action 'pu' of host; did you mean 'up'?"),
        ("up /fr3_1", "host up: unexpected '/fr3_1'; name a robot with --robot"),
        ("up --robot fr3_smi", "unknown robot 'fr3_smi'; did you mean 'fr3_sim'?"),
        ("up --namespace a.b", "namespace: expected letters"),
        ("up --log-level loud", "log_level: expected one of debug"),
        ("up --robots 0", "robots: expected 1"),
        ("up --nmaespace /a", "unknown option '--nmaespace'; did you mean '--namespace'?"),
        ("status", "host status: which host?"),
        ("stop", "host stop: which host?"),
        ("reset /fr3_1", "who has looked at the arm? --person NAME"),
    ],
)
def test_a_wrong_line_is_refused_in_one_line(cli: Cli, line: str, message: str) -> None:
    code, out, err = cli("host", *line.split())
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_without_ros_nothing_is_started(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise MissingDependencyError("rclpy is not installed")

    monkeypatch.setattr("robolearn.ros.context.require_rclpy", absent)
    monkeypatch.setattr("robolearn.ros.processes.Group.run", lambda *_, **__: pytest.fail("started"))
    assert cli("host", "up") == (1, "", "robolearn: error: rclpy is not installed\n")


def test_hosts_are_listed(cli: Cli, hosts: Hosts) -> None:
    code, out, _ = cli("host", "ls")
    assert code == 0
    assert out.splitlines()[1].split() == ["/fr3_1", "driving", "fr3", "driving"]
    hosts.known = {}
    assert "no robot host on ROS domain" in cli("host", "ls")[1]
    assert json.loads(cli("host", "ls", "--json")[1]) == {"hosts": {}}


def test_a_status_is_shown(cli: Cli, hosts: Hosts) -> None:
    assert "mode     driving" in cli("host", "status", "fr3_1")[1]
    code, _, err = cli("host", "status", "/fr3_9")
    assert (code, err) == (1, "robolearn: error: no robot host in /fr3_9 on ROS domain 0\n")


def test_stop_and_reset_reach_the_host_and_are_noted(cli: Cli, hosts: Hosts, tmp_path: Path) -> None:
    assert cli("host", "stop", "/fr3_1", "--why", "hand in the cell")[0] == 0
    hosts.answer = (False, "the arm still moves")
    code, _, err = cli("host", "reset", "/fr3_1", "--person", "Ada")
    assert (code, err) == (1, "robolearn: error: /fr3_1: reset refused: the arm still moves\n")
    assert hosts.calls == [("/fr3_1", "estop"), ("/fr3_1", "reset")]
    lines = [json.loads(line) for line in (tmp_path / "state" / "hosts" / "fr3_1.log").read_text().splitlines()]
    assert [(n["action"], n["why"], n["person"], n["done"]) for n in lines] == [
        ("stop", "hand in the cell", "", True),
        ("reset", "", "Ada", False),
    ]
