"""The servo arm keeps the contract of robot drivers, with emulated servos behind the genuine SDK, and fails safe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dynamixel_sdk", reason="the servo SDK is an extra: pip install 'robolearn[devices]'")
from robolearn.core import plugins
from robolearn.core.errors import (
    ConfigError,
    MissingDependencyError,
    RobotStoppedError,
    SpecError,
    StaleEpochError,
)
from robolearn.core.protocols import Robot
from robolearn.core.spec import Array
from robolearn.core.types import Command
from robolearn.hal.chain import Chain
from robolearn.hal.check import failures, passed
from robolearn.hal.contract import RobotContract
from robolearn.hal.drivers import servo_arm
from robolearn.hal.drivers.servo_arm import Config, ServoArm
from robolearn.hal.servo import registers as reg
from robolearn.hal.servo.bus import BusError
from robolearn.hal.servo.emulator import Emulator

CHAIN = Chain.load("servo6")
HOME = CHAIN.pose(CHAIN.home)
START = tuple((HOME + np.array([0.02, 0.01, 0.03, 0, 0, 0, 0])).tolist())
IDS = (1, 2, 3, 4, 5, 6, 7)
STILL = np.array([0.0, 0, 0, 0, 0, 0, 0.0])
FORWARD = np.array([0.006, 0, 0, 0, 0, 0.05, 0.5])
PATIENT = {"bus_watchdog_s": 0.6, "feedback_s": 0.8, "stale_s": 0.5, "reset_speed": 0.5}
"""For a busy machine: no trip because a test's thread was not scheduled. And a quick reset."""


def emulator(folder: Path) -> Emulator:
    """An arm near the start pose."""
    posture = CHAIN.solve(np.array(START), CHAIN.home).q
    ticks = {i + 1: round(2048 + angle / reg.RAD_PER_TICK) for i, angle in enumerate(posture)}
    return Emulator(folder / "arm", ticks | {7: 2048})


@contextmanager
def arm(folder: Path, **options: object) -> Iterator[tuple[ServoArm, Emulator]]:
    with emulator(folder) as servos:
        robot = servo_arm.build(Config(port=str(servos.link), **(PATIENT | options)))  # type: ignore[arg-type]
        try:
            yield robot, servos
        finally:
            robot.close()


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait for something that must happen; a failure when it does not within a generous time."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


class TestServoArmContract(RobotContract):
    start = START
    independent = True
    position_tolerance = 3e-3  # an encoder tick is 1.5 mrad, 0.9 mm at full reach

    @pytest.fixture(autouse=True)
    def _ports(self, tmp_path: Path) -> Iterator[None]:
        self.folder, self.emulators = tmp_path, list[Emulator]()
        yield
        for servos in self.emulators:
            servos.close()

    def make_robot(self) -> Robot:
        folder = self.folder / str(len(self.emulators))
        folder.mkdir()
        self.emulators.append(emulator(folder))
        return servo_arm.build(Config(port=str(self.emulators[-1].link), **PATIENT))

    def motion(self) -> float | None:
        return self.emulators[-1].speed()


def drive(robot: ServoArm, steps: int, action: Array = FORWARD) -> None:
    for _ in range(steps):
        robot.apply(Command(action, 1))


def test_it_is_found_by_name_and_says_when_it_is_emulated(tmp_path: Path) -> None:
    assert plugins.load("robot", "servo_arm") is servo_arm
    with emulator(tmp_path) as servos:
        assert servo_arm.simulated(str(servos.link))
    assert not servo_arm.simulated("/dev/ttyUSB0")


def test_actions_move_the_tip_as_they_say(tmp_path: Path) -> None:
    with arm(tmp_path) as (robot, _):
        robot.reset(np.array(START), {})
        before = robot.observe()["tool_pose"]
        sent = [robot.apply(Command(np.array([0, 0.005, 0, 0, 0, 0, 1.0]), 1)) for _ in range(8)]
        np.testing.assert_allclose(np.sum(sent, axis=0)[:3], [0, 0.04, 0], atol=1e-4)
        until(lambda: np.abs(robot.observe()["joint_velocity"]).max() < 0.03)
        after = robot.observe()["tool_pose"]
        np.testing.assert_allclose(np.linalg.norm(after[:3] - before[:3]), 0.04, atol=3e-3)
        until(lambda: robot.observe()["gripper"][0] > 0.98)


def test_what_goes_out_on_the_bus_keeps_the_limits(tmp_path: Path) -> None:
    """Random, jumping actions at full bounds: differences of the published ticks, up to rounding of a tick."""
    rng = np.random.default_rng(3)
    with arm(tmp_path) as (robot, servos):
        robot.reset(np.array(START), {})
        high = np.array(robot.spec.action.high)
        for _ in range(25):
            robot.apply(Command(rng.choice([-1.0, 1.0], 7).clip(-1, 1) * high * [1, 1, 1, 1, 1, 1, 0], 1))
        assert robot.timing()["loop_overruns"] <= 25  # else the loop did not run
        goals = np.array([[goal[ident] for ident in IDS[:6]] for _, goal in servos.goals], dtype=float)
    limits, dt = CHAIN.limits.scaled(0.5, 0.5, 0.5), 1 / 50
    q = (goals - 2048) * reg.RAD_PER_TICK
    assert (q >= limits.lower + 0.05 - reg.RAD_PER_TICK).all()
    assert (q <= limits.upper - 0.05 + reg.RAD_PER_TICK).all()
    for order, bound in ((1, limits.velocity), (2, limits.acceleration), (3, limits.jerk)):
        rounding = 2 ** (order - 1) * reg.RAD_PER_TICK / dt**order
        worst = np.abs(np.diff(q, order, axis=0)).max(axis=0) / dt**order
        assert (worst <= bound + rounding + 1e-9).all(), (order, worst, bound)
    assert np.ptp(q, axis=0).max() > 0.05  # it moved


def test_a_way_below_the_floor_and_a_pose_out_of_reach_are_refused(tmp_path: Path) -> None:
    with arm(tmp_path, floor=0.3) as (robot, servos):
        low = HOME + np.array([0, 0, -0.05, 0, 0, 0, 0])
        robot.reset(low, {})  # the ends may be lower than the floor, the way between them no lower than they are
        with pytest.raises(ConfigError, match="cannot reach"):
            robot.reset(HOME + np.array([2.0, 0, 0, 0, 0, 0, 0]), {})
        with pytest.raises(ConfigError, match="empty scene"):
            robot.reset(HOME, {"peg": HOME})
        before = servos.positions()
        with pytest.raises(SpecError):
            robot.reset(np.full(7, np.nan), {})
        assert servos.positions() == pytest.approx(before, abs=1e-3)


@pytest.mark.parametrize("fault", ["unplug", "power", "silent"])
def test_a_lost_bus_stops_soon_and_a_person_can_clear_it(tmp_path: Path, fault: str) -> None:
    with arm(tmp_path) as (robot, servos):
        robot.reset(np.array(START), {})
        drive(robot, 2)
        if fault == "unplug":
            servos.unplug()
        elif fault == "power":
            servos.power(False)
        else:
            servos.inject(silent=frozenset({4}))
        began = time.monotonic()
        with pytest.raises(RobotStoppedError, match="servo"):
            drive(robot, 1000)
        assert time.monotonic() - began < 5.0
        with pytest.raises(RobotStoppedError, match="servo"):
            until(lambda: not robot.observe())
        with pytest.raises(RobotStoppedError, match="not cleared"):
            robot.clear()
        until(lambda: servos.speed() < 1e-3)
        servos.plug()
        servos.power(True)
        servos.inject()
        robot.clear()
        drive(robot, 2)


def test_hardware_errors_latch_until_a_person_clears_them(tmp_path: Path) -> None:
    with arm(tmp_path) as (robot, servos):
        robot.reset(np.array(START), {})
        servos.fail(3, 1 << 5)
        with pytest.raises(RobotStoppedError, match="servo 3 has a hardware error: overload"):
            drive(robot, 1000)
        assert robot.observe()["joint_position"].shape == (6,)  # the others still show where the arm is
        time.sleep(0.2)
        assert servos.motors[3].get(reg.HARDWARE_ERROR) == 1 << 5  # nobody cleared it meanwhile
        robot.clear()
        assert servos.motors[3].get(reg.HARDWARE_ERROR) == 0
        assert servos.motors[3].get(reg.TORQUE_ENABLE) == 1
        drive(robot, 2)


def test_a_servo_that_is_faulty_from_the_start_leaves_the_arm_stopped(tmp_path: Path) -> None:
    with emulator(tmp_path) as servos:
        servos.fail(2, 1 << 2)
        robot = servo_arm.build(Config(port=str(servos.link), **PATIENT))
        try:
            with pytest.raises(RobotStoppedError, match="servo 2 has a hardware error: overheating"):
                robot.apply(Command(STILL, 1))
            assert servos.goals == []
            robot.clear()
            drive(robot, 2)
        finally:
            robot.close()


def test_a_servo_that_restarted_stops_the_arm(tmp_path: Path) -> None:
    with arm(tmp_path) as (robot, servos):
        drive(robot, 1, STILL)
        servos.motors[5].boot()  # a loose power plug
        with pytest.raises(RobotStoppedError, match="servo 5 has restarted"):
            drive(robot, 1000, STILL)
        robot.clear()
        drive(robot, 1, STILL)


def test_a_noisy_bus_is_asked_again(tmp_path: Path) -> None:
    with arm(tmp_path) as (robot, servos):
        robot.reset(np.array(START), {})
        servos.inject(corrupt=40, drop=53, babble=3)
        drive(robot, 10)
        assert robot.timing()["bus_repeats"] > 0
        np.testing.assert_allclose(robot.observe()["joint_effort"], 0, atol=1.5)


def test_a_jammed_joint_neither_winds_up_nor_goes_unnoticed(tmp_path: Path) -> None:
    with arm(tmp_path, lead=0.02) as (robot, servos):
        robot.reset(np.array(START), {})
        for ident in IDS[:6]:
            servos.motors[ident].jammed = True
        reference = robot.observe()["tool_pose"]
        with pytest.raises(RobotStoppedError, match="joint torque"):
            drive(robot, 100)
        ahead = CHAIN.pose(robot._loop.aim()[:6])[:3] - reference[:3]
        assert np.linalg.norm(ahead) <= 0.02


def test_stale_epochs_are_refused_after_a_restart_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = str(tmp_path / "fence")
    with arm(tmp_path, fence=fence) as (robot, _):
        robot.apply(Command(STILL, 6))
        with pytest.raises(StaleEpochError, match="epoch 6 holds"):
            robot.apply(Command(STILL, 5))
    with arm(tmp_path, fence=fence) as (robot, _):
        with pytest.raises(StaleEpochError, match="epoch 6 holds"):
            robot.apply(Command(STILL, 5))
        robot.apply(Command(STILL, 6))
    site = tmp_path / "site.yaml"
    site.write_text(f"robots: {{desk: {{driver: servo_arm, host: {{port: /dev/ttyUSB0, fence: {fence}}}}}}}")
    monkeypatch.setenv("ROBOLEARN_SITE", str(site))
    assert servo_arm.seen_epoch("desk") == 6
    assert servo_arm.seen_epoch("usb1") == 0


def test_an_arm_that_is_parked_out_of_range_stays_until_it_is_told_to_move(tmp_path: Path) -> None:
    parked = 2048 + round(1.78 / reg.RAD_PER_TICK)  # the shoulder ends at 1.8, less the margin of 0.05
    with Emulator(tmp_path / "arm", dict.fromkeys(IDS, 2048) | {2: parked}) as servos:
        robot = servo_arm.build(Config(port=str(servos.link), **PATIENT))
        until(lambda: len(servos.goals) > 25)
        assert {goal[2] for _, goal in servos.goals} == {parked}
        robot.close()


def test_a_port_has_one_user(tmp_path: Path) -> None:
    with arm(tmp_path) as (robot, servos), pytest.raises(BusError, match="free of other programs"):
        servo_arm.build(Config(port=str(servos.link)))
    assert isinstance(robot, ServoArm)


def test_closing_frees_the_port_and_leaves_the_arm_stopped(tmp_path: Path) -> None:
    with emulator(tmp_path) as servos:
        for _ in range(2):
            robot = servo_arm.build(Config(port=str(servos.link), **PATIENT))
            drive(robot, 2)
            robot.close()
            robot.close()
            assert servos.speed() < 0.1
            with pytest.raises(RobotStoppedError, match="closed"):
                robot.apply(Command(STILL, 1))
            with pytest.raises(RobotStoppedError, match="closed"):
                robot.clear()


HOST = """
import sys
from robolearn.hal.drivers import servo_arm
from robolearn.core.types import Command
import numpy as np
robot = servo_arm.build(servo_arm.Config(port=sys.argv[1], bus_watchdog_s=0.2, feedback_s=0.8))
while True:
    robot.apply(Command(np.array([0, 0.006, 0, 0, 0, 0.05, 0.0]), 1))
    print("moved", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_host_process_stops_the_servos(tmp_path: Path, how: signal.Signals) -> None:
    with emulator(tmp_path) as servos:
        command = [sys.executable, "-c", HOST, str(servos.link)]
        host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            assert host.stdout is not None
            for _ in range(3):
                assert host.stdout.readline() == "moved\n"
            assert servos.speed() > 0.0
            host.send_signal(how)
            until(lambda: servos.tripped() == set(IDS))
            for motor in servos.motors.values():  # on the emulator's own clock, whatever this machine was busy with
                assert motor.trips[-1] - servos.heard == pytest.approx(0.2, abs=0.01)
            until(lambda: servos.speed() < 1e-3)
            rest = servos.positions()
            if how is signal.SIGSTOP:  # when it comes back, the servos do not listen to it any more
                sent = len(servos.goals)
                host.send_signal(signal.SIGCONT)
                assert host.wait(timeout=60) != 0
                assert len(servos.goals) == sent
            assert servos.positions() == pytest.approx(rest, abs=1e-3)
        finally:
            host.kill()
            host.wait()
            if host.stdout is not None:
                host.stdout.close()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"ids": (1, 2, 3)}, "ids: expected 6 numbers"),
        ({"ids": (1, 2, 3, 4, 5, 5)}, "another id"),
        ({"gripper": 6}, "another id"),
        ({"directions": (1, 1, 1, 1, 1, 0)}, "1 or -1"),
        ({"zeros": (2048, 2048, 2048, 2048, 2048, 5000)}, "0 to 4095"),
        ({"baud": 12345}, "one of 9600"),
        ({"gripper_open": 2048}, "another reading"),
        ({"share": 1.5}, "at most 1"),
        ({"loop_hz": 1000.0}, "25 to 200"),
        ({"bus_watchdog_s": 5.0}, "2.54"),
        ({"max_translation": float("nan")}, "finite"),
        ({"margin": -0.1}, "0 or more"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Config(**wrong)  # type: ignore[arg-type]


def test_joint_ranges_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with emulator(tmp_path) as servos, pytest.raises(ConfigError, match="must be below"):
        servo_arm.build(Config(port=str(servos.link), margin=3.0))
    with pytest.raises(ConfigError, match="unknown arm 'servo7'"):
        servo_arm.build(Config(model="servo7"))
    with pytest.raises(ConfigError, match="no cameras"):
        servo_arm.build(Config(), cameras=("wrist",))


def test_an_unknown_servo_and_an_absent_port_are_named(tmp_path: Path) -> None:
    with emulator(tmp_path) as servos, pytest.raises(BusError, match="servo 9") as caught:
        servo_arm.build(Config(port=str(servos.link), ids=(1, 2, 3, 4, 5, 9), timeout_s=0.01))
    assert "\n" not in str(caught.value)
    with pytest.raises(BusError, match="is it plugged in"):
        servo_arm.build(Config(port=str(tmp_path / "nothing")))


def test_a_servo_set_up_for_something_else_is_named(tmp_path: Path) -> None:
    with emulator(tmp_path) as servos:
        servos.motors[4].write(reg.DRIVE_MODE.address, b"\x01")
        robot = servo_arm.build(Config(port=str(servos.link)))
        with pytest.raises(RobotStoppedError, match="servo 4: expected drive mode 0"):
            robot.observe()
        robot.close()


def test_without_the_sdk_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dynamixel_sdk", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'robolearn\[devices\]'") as caught:
        servo_arm.build(Config())
    assert "\n" not in str(caught.value)


def test_check_looks_over_an_arm_without_touching_it(tmp_path: Path) -> None:
    with emulator(tmp_path) as servos:
        good = servo_arm.check(str(servos.link))
        assert passed([finding for finding in good if finding.name != "joint feedback"])
        assert servos.goals == []
        assert not any(motor.get(reg.TORQUE_ENABLE) for motor in servos.motors.values())
        servos.fail(6, 1 << 5)
        servos.inject(silent=frozenset({2}))
        assert {finding.name for finding in failures(servo_arm.check(str(servos.link)))} == {
            "servo 2",
            "servo 6 hardware",
        }
    assert [finding.name for finding in failures(servo_arm.check(str(tmp_path / "nothing")))] == ["serial port"]


def test_instances_are_paths_short_names_and_entries_of_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "robots:\n  left:\n    driver: servo_arm\n    simulated: false\n"
        "    host: {port: /dev/serial/by-id/left, zeros: [2048, 2048, 2048, 2048, 2048, 2000]}\n"
    )
    monkeypatch.setenv("ROBOLEARN_SITE", str(site))
    assert servo_arm.of_instance("left").zeros[-1] == 2000
    assert servo_arm.of_instance("left").port == "/dev/serial/by-id/left"
    assert servo_arm.of_instance("usb0").port == "/dev/ttyUSB0"
    assert servo_arm.of_instance("acm1").port == "/dev/ttyACM1"
    assert servo_arm.of_instance("/dev/ttyUSB3").port == "/dev/ttyUSB3"
    with pytest.raises(ConfigError, match="did you mean 'left'"):
        servo_arm.of_instance("lef")
