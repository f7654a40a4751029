"""``robolearn hal`` with stand-in probes and drivers."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robolearn.cli import hal
from robolearn.core import plugins
from robolearn.core.clock import FakeClock
from robolearn.core.errors import ConfigError
from robolearn.hal import discovery
from robolearn.hal.check import Finding
from robolearn.hal.discovery import Inventory
from robolearn.hal.leases import LeaseTable, Request
from robolearn.hal.probes import cpu, site_file
from robolearn.hal.resources import Found, Resource

Cli = Callable[..., tuple[int, str, str]]

SITE = """
robots:
  left:
    driver: ros2
    host: {model: fr3, workspace: {low: [0.3, -0.3, 0.0], high: [0.7, 0.3, 0.5]}}
  copy: {driver: fake, simulated: true}
"""
CAMERA = Resource("camera:eye", "camera", {"device": "/dev/video7"}, health="no-access", unusable="may not be opened")
GPU = Resource("gpu:GPU-1", "gpu", {"name": "NVIDIA A", "used_mib": "10"})
PROBES: dict[str, Callable[[], Found]] = {
    "cpu": cpu.probe,
    "nvidia": lambda: Found((GPU,)),
    "v4l2": lambda: Found((CAMERA,)),
    "graph": lambda: Found(problem="rclpy is not installed; pip install 'robolearn[ros]'"),
}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four probes and a site file."""
    (tmp_path / "site.yaml").write_text(SITE)
    monkeypatch.setenv("ROBOLEARN_SITE", str(tmp_path / "site.yaml"))
    monkeypatch.setattr(discovery, "installed", lambda: {**PROBES, "site_file": site_file.probe})


@pytest.fixture
def table() -> Iterator[LeaseTable]:
    with LeaseTable.default() as table:
        yield table


def rows(cli: Cli, *names: str) -> dict[str, dict[str, Any]]:
    status, out, _ = cli("hal", "ls", *names, "--json")
    assert status == 0
    return {row["id"]: row for row in json.loads(out)["resources"]}


def test_ls_puts_probes_site_file_and_leases_together(cli: Cli, table: LeaseTable) -> None:
    table.register(Resource("fake:copy", "robot", simulated=True))
    table.register(GPU)
    lease = table.acquire(Request("robot", "fake:copy"), holder="train runA", ttl_s=100)
    table.acquire(Request("gpu", amount=0.25), holder="train runA", ttl_s=100)
    with table.waiter([Request("robot", "fake:copy")], holder="train runB", ttl_s=10) as waiter:
        assert isinstance(waiter.attempt(), str)
        status, out, _ = cli("hal", "ls")
        found = json.loads(cli("hal", "ls", "--json")[1])
    assert status == 0
    assert "not looked for (graph): rclpy is not installed" in out
    assert "waiting: train runB" in out
    assert "may not be opened" in out
    assert found["problems"].keys() == {"graph"}
    assert (found["waiting"][0]["holder"], found["waiting"][0]["for"]) == ("train runB", ["fake:copy"])
    by_id = {row["id"]: row for row in found["resources"]}
    assert {"camera:eye", "gpu:GPU-1", "ros2:/left", "fake:copy"} < by_id.keys()
    assert [row["kind"] for row in found["resources"]] == sorted(row["kind"] for row in found["resources"])
    camera, gpu, left, copy = (by_id[name] for name in ("camera:eye", "gpu:GPU-1", "ros2:/left", "fake:copy"))
    assert (camera["state"], camera["free"], camera["health"]) == ("unusable", 0, "no-access")
    assert (gpu["state"], gpu["free"], gpu["labels"]["used_mib"]) == ("leased", 0.75, "10")
    assert (left["state"], left["simulated"], left["labels"]["model"]) == ("free", False, "fr3")
    assert (copy["state"], copy["holders"], copy["epoch"]) == ("leased", ["train runA"], lease.epoch)
    assert copy["labels"]["name"] == "copy"
    assert [row.resource.id for row in table.status()] == ["fake:copy", "gpu:GPU-1"], "looking registers nothing"


def test_a_name_of_the_site_file_does_for_the_id(cli: Cli, table: LeaseTable) -> None:
    assert list(rows(cli, "left")) == ["ros2:/left"]
    assert cli("hal", "quarantine", "left", "--why", "cable loose")[0] == 0
    assert rows(cli, "left")["ros2:/left"]["state"] == "quarantined"
    assert [row.resource.id for row in table.status()] == ["ros2:/left"], "a robot nobody has leased yet, too"
    assert cli("hal", "clear", "left")[0] == 0
    assert rows(cli, "ros2:/left")["ros2:/left"]["state"] == "free"
    for action in (["ls", "lefft"], ["check", "lefft"], ["quarantine", "lefft", "--why", "x"], ["clear", "lefft"]):
        status, _, err = cli("hal", *action)
        assert (status, "unknown resource 'lefft'" in err) == (2, True)


def test_a_broken_site_file_is_said_and_the_rest_works(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("robots: {left: {driver: ros2}}")
    status, out, _ = cli("hal", "ls")
    assert status == 0
    assert "not looked for (site_file)" in out
    assert "robots.left.host.workspace: missing for real hardware" in out
    assert "gpu:GPU-1" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lss"], "unknown action 'lss' of hal; did you mean 'ls'"),
        (["check"], "hal check: which resource"),
        (["quarantine", "left"], "--why TEXT"),
        (["clear", "left", "--clear"], "--clear goes with check"),
        (["watch", "--interval", "0"], "--interval must be above 0 s"),
        (["check", "left", "--seconds", "-1"], "--seconds must be above 0 s"),
    ],
)
def test_wrong_command_lines_are_refused(cli: Cli, arguments: list[str], message: str) -> None:
    status, _, err = cli("hal", *arguments)
    assert status == 2
    assert message in err


def test_watch_looks_as_often_as_it_is_told(cli: Cli) -> None:
    status, out, _ = cli("hal", "watch", "--count", "2", "--interval", "0.01")
    assert status == 0
    assert out.count("resource ") == 2
    lines = cli("hal", "watch", "--count", "2", "--interval", "0.01", "--json")[1].splitlines()
    assert [len(json.loads(line)["resources"]) for line in lines] == [5, 5]


def test_watch_draws_in_place_on_a_terminal(
    table: LeaseTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert hal.watch(table, hal.HalOptions("watch", count=2), FakeClock()) == 0
    assert "camera:eye" in capsys.readouterr().out


def test_watch_reads_leases_each_time_and_looks_for_hardware_now_and_then(
    table: LeaseTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def discover() -> Inventory:
        asked.append(1)
        return Inventory((GPU,), ())

    monkeypatch.setattr(hal, "discover", discover)
    assert hal.watch(table, hal.HalOptions("watch", count=25, interval=1.0), FakeClock()) == 0
    assert capsys.readouterr().out.count("gpu:GPU-1") == 25
    assert len(asked) == 3


def test_ctrl_c_ends_a_watch_with_0(table: LeaseTable) -> None:
    class Impatient(FakeClock):
        def sleep_until_ns(self, deadline_ns: int) -> None:
            raise KeyboardInterrupt

    assert hal.watch(table, hal.HalOptions("watch"), Impatient()) == 0


@pytest.fixture
def fake_check(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the stand-in driver finds; filled by the test."""
    findings: list[Finding] = []
    load = plugins.load

    def loaded(group: str, name: str) -> Any:
        return SimpleNamespace(check=lambda instance: list(findings)) if group == "robot" else load(group, name)

    monkeypatch.setattr(plugins, "load", loaded)
    return findings


def test_a_failing_check_exits_with_1(cli: Cli, fake_check: list[Finding]) -> None:
    fake_check.append(Finding("joint feedback", True, "500 Hz"))
    status, out, _ = cli("hal", "check", "copy", "--seconds", "0.01")
    assert (status, "WRONG" in out) == (0, False)
    fake_check.append(Finding("latency", False, "90 ms", "below 30 ms", "use a cable"))
    status, out, _ = cli("hal", "check", "copy", "--seconds", "0.01")
    assert status == 1
    assert "WRONG" in out
    assert [line.strip() for line in out.splitlines() if " ms" in line][:2] == [
        "WRONG    latency         90 ms", "expected: below 30 ms; use a cable"
    ]  # fmt: skip
    status, out, _ = cli("hal", "check", "copy", "--seconds", "0.01", "--json")
    answer = json.loads(out)
    assert (status, answer["ok"], answer["id"]) == (1, False, "fake:copy")
    assert {
        "name": "latency",
        "ok": False,
        "value": "90 ms",
        "expected": "below 30 ms",
        "hint": "use a cable",
    } in answer["findings"]


def test_an_unusable_camera_fails_its_check(cli: Cli) -> None:
    status, out, _ = cli("hal", "check", "camera:eye")
    assert status == 1
    assert "may not be opened" in out


def test_a_simulated_robot_is_cleared_by_its_check(cli: Cli, table: LeaseTable, fake_check: list[Finding]) -> None:
    table.register(Resource("fake:copy", "robot", {"driver": "fake"}, simulated=True))
    table.quarantine("fake:copy", "its actor died")
    fake_check.append(Finding("joint feedback", False, "0 Hz"))
    status, out, _ = cli("hal", "check", "copy", "--seconds", "0.01", "--clear")
    assert (status, rows(cli)["fake:copy"]["state"]) == (1, "quarantined")
    assert "stays quarantined" in out
    fake_check[0] = Finding("joint feedback", True, "500 Hz")
    out = cli("hal", "check", "copy", "--seconds", "0.01")[1]
    assert "robolearn hal check fake:copy --clear" in out
    assert rows(cli)["fake:copy"]["state"] == "quarantined", "only if it is asked for"
    status, out, _ = cli("hal", "check", "copy", "--seconds", "0.01", "--clear")
    assert (status, rows(cli)["fake:copy"]["state"]) == (0, "free")
    assert "may be used again" in out


def test_a_real_robot_is_cleared_by_a_person_only(cli: Cli, table: LeaseTable, fake_check: list[Finding]) -> None:
    table.register(Resource("ros2:/left", "robot", {"driver": "ros2"}))
    table.quarantine("ros2:/left", "gripper loose")
    fake_check.append(Finding("joint feedback", True, "500 Hz"))
    out = cli("hal", "check", "left", "--seconds", "0.01")[1]
    assert "Look at it yourself, then: robolearn hal clear ros2:/left" in out
    status, _, err = cli("hal", "check", "left", "--seconds", "0.01", "--clear")
    assert status == 1
    assert "a person has to look at it" in err
    assert rows(cli)["ros2:/left"]["state"] == "quarantined"


def test_a_gpu_is_tried_with_torch_where_that_can_see_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    status, out, _ = cli("hal", "check", "gpu:GPU-1")
    assert status == 0
    assert "torch is not installed" in out
    assert "10 MiB used" in out


def test_nothing_heavy_is_imported_to_list() -> None:
    code = (
        "import sys; from robolearn.cli.main import main; from robolearn.hal import discovery;"
        "probes = discovery.installed(); probes.pop('graph', None); discovery.installed = lambda: probes;"
        "main(['hal', 'ls', '--json']);"
        "sys.stderr.write(' '.join(m for m in ('torch', 'mujoco', 'zarr', 'matplotlib') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert json.loads(done.stdout)["resources"]


def test_a_resource_that_is_not_there_is_named(table: LeaseTable) -> None:
    with pytest.raises(ConfigError, match="did you mean 'gpu:GPU-1'"):
        hal.find(table, "gpu:GPU-2")
