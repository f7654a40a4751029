"""13 a robot host that is set up wrongly does not start, 15 nor does one without its libraries; 16 and it ends at once.

Each in one line on stderr that says what would work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ros_world import Process, module_command

pytest.importorskip("rclpy")

HOST, ARM = "robolearn.ros.robot_host", "robolearn.ros.sim_arm"
REAL = "robot: arm, model: fr3, simulated: false"
BOX = "workspace: {low: [0.3, -0.2, 0.0], high: [0.6, 0.2, 0.4]}"
HIDE = """
import importlib.util, runpy, sys
hidden, module, sys.argv = sys.argv[1], sys.argv[2], sys.argv[2:]
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == hidden else find(name, *more)
sys.modules[hidden] = None
if hidden == "rclpy":
    del sys.modules[hidden]
runpy.run_module(module, run_name="__main__")
"""


def config(text: str) -> dict[str, object]:
    """A parameter that is YAML text itself."""
    return {"config": f'"{{{text}}}"'}


FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "a real arm without a box": (config(REAL), "no workspace box"),
    "lower above upper": ({"robot": "fr3_sim", "workspace.low": "[0.35, 0.5, 0.078]"}, "low 0.5 >= high 0.15 along y"),
    "an unknown key": ({"robot": "fr3_sim", "motion.velocty": 0.1}, "velocity"),
    "too few joints": (config(f"{REAL}, {BOX}, joints: [a, b]"), "expected 7 different names"),
    "a joint twice": (config(f"{REAL}, {BOX}, joints: [a, a, b, c, d, e, f]"), "expected 7 different names"),
    "an unknown robot": ({"robot": "fr3_real"}, "unknown robot 'fr3_real'"),
    "an unknown arm": (config(f"robot: arm, model: fr4, {BOX}"), "unknown arm 'fr4'"),
    "no limits": (config(f"{REAL}, {BOX}, motion: {{velocity: 0.0}}"), "motion.velocity"),
    "no YAML": ({"config": '"{"'}, "not YAML"),
    "no fence": ({"robot": "fr3_sim", "state_dir": "STATE"}, "cannot be read"),
    "an action gripper without control_msgs": (
        config(f"{REAL}, {BOX}, gripper: {{kind: action}}"),
        "needs control_msgs",
    ),
}


@pytest.fixture
def begin(ros_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts commands with an environment; ends them all."""
    started: list[Process] = []

    def run(command: list[str], **more: str) -> Process:
        env = {**ros_env, **more}
        started.append(Process(command, {k: v for k, v in env.items() if v}, tmp_path / f"{len(started)}.txt"))
        return started[-1]

    yield run
    for process in started:
        process.kill()


def test_13_config_faults_are_refused_with_status_2_and_one_line(begin: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    for number in range(len(FAULTS)):
        (tmp_path / "hosts" / f"faulty{number}.epoch").write_text("nonsense")
    running: dict[str, Process] = {}
    for number, (name, (parameters, _)) in enumerate(FAULTS.items()):  # a namespace has one host
        parameters = {k: str(v).replace("STATE", str(tmp_path)) for k, v in parameters.items()}
        command = module_command(HOST, f"/faulty{number}", parameters)
        if "control_msgs" in name:
            command = [sys.executable, "-c", HIDE, "control_msgs", HOST, *command[3:]]
        running[name] = begin(command)
    for name, process in running.items():
        assert process.child.wait(120.0) == 2, f"{name}: {process.text}"
        lines = process.text.strip().splitlines()
        assert len(lines) == 1, f"{name}: {process.text}"
        assert lines[0].startswith("robot_host: ")
        assert FAULTS[name][1] in lines[0], f"{name}: {lines[0]}"


def test_13_a_joint_the_arm_does_not_have_is_named_and_nothing_is_driven(begin: Callable[..., Process]) -> None:
    """Only the arm knows its joints' names, so the host is up but gives no observations."""
    from robolearn.ros.client import HostClient, HostSilentError

    arm = begin(module_command(ARM, "/named", {}))
    arm.wait_for("ready")
    names = "[fr3_joint1, fr3_joint2, fr3_joint3, elbow, fr3_joint5, fr3_joint6, fr3_joint7]"
    host = begin(module_command(HOST, "/named", {"robot": "fr3_sim", "joints": names}))
    host.wait_for(" Hz, ")
    with pytest.raises(HostSilentError, match=r"lacks elbow .*set the host's joints"):
        HostClient("/named", patience_s=3.0)
    for process, number in ((host, signal.SIGTERM), (arm, signal.SIGINT)):
        began = time.monotonic()
        assert process.stop(number) == 0
        assert time.monotonic() - began < 2.0


def test_15_missing_libraries_are_told_in_one_line(begin: Callable[..., Process]) -> None:
    guarded = {"_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1", "LD_LIBRARY_PATH": ""}
    cases = {
        "no rclpy, host": (begin([sys.executable, "-c", HIDE, "rclpy", HOST]), "not installed: pip install", 2),
        "no rclpy, arm": (begin([sys.executable, "-c", HIDE, "rclpy", ARM]), "not installed: pip install", 2),
        "guard, host": (begin([sys.executable, "-m", HOST], **guarded), "LD_LIBRARY_PATH lacks", 2),
        "guard, arm": (begin([sys.executable, "-m", ARM], **guarded), "LD_LIBRARY_PATH lacks", 2),
    }
    for name, (process, says, status) in cases.items():
        assert process.child.wait(120.0) == status, f"{name}: {process.text}"
        lines = process.text.strip().splitlines()
        assert len(lines) == 1, f"{name}: {process.text}"
        assert says in lines[0], f"{name}: {lines[0]}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_16_a_host_that_is_told_to_end_while_it_starts_ends(ros_env: dict[str, str], number: int) -> None:
    """Any moment after Python has loaded the module."""
    code = f"""
import os, signal, sys
from robolearn.ros import context, robot_host
inner = context.context
def late(*args, **more):
    os.kill(os.getpid(), {int(number)})
    return inner(*args, **more)
context.context = late
sys.exit(robot_host.main(["--ros-args", "-r", "__ns:=/starting", "-p", "robot:=fr3_sim"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=ros_env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_environment_of_these_tests_is_their_own(ros_env: dict[str, str]) -> None:
    assert 1 <= int(os.environ["ROS_DOMAIN_ID"]) <= 100
    assert ros_env["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
