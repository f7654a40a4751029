"""The servo bus: framing, noise, late answers; and the reference that goes out on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("dynamixel_sdk", reason="the servo SDK is an extra: pip install 'robolearn[devices]'")
import dynamixel_sdk as sdk

from robolearn.core.errors import ConfigError
from robolearn.hal.motion import AxisLimits
from robolearn.hal.servo import packets
from robolearn.hal.servo import registers as reg
from robolearn.hal.servo.bus import Bus, BusError
from robolearn.hal.servo.emulator import Emulator
from robolearn.hal.servo.follower import Follower
from robolearn.hal.servo.motor import Motor

IDS = (1, 2, 3)


@given(st.binary(max_size=80))
def test_our_crc_is_the_makers(data: bytes) -> None:
    assert packets.crc16(data) == sdk.PacketHandler(2.0).updateCRC(0, data, len(data))


@given(st.binary(max_size=60), st.binary(max_size=30), st.integers(1, 200))
def test_packets_are_found_in_noise_and_broken_ones_dropped(parameters: bytes, noise: bytes, at: int) -> None:
    body = bytes([packets.WRITE]) + parameters.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")
    raw = packets.HEADER + bytes([7]) + (len(body) + 2).to_bytes(2, "little") + body
    raw += packets.crc16(raw).to_bytes(2, "little")
    buffer = bytearray(noise.replace(b"\xff", b"") + raw)
    assert packets.take(buffer) == packets.Packet(7, packets.WRITE, parameters)
    broken = bytearray(raw)
    broken[4 + at % (len(raw) - 4)] ^= 0x10
    assert packets.take(broken) is None


def test_the_makers_own_port_handler_talks_to_the_emulator(tmp_path: Path) -> None:
    with Emulator(tmp_path / "arm", dict.fromkeys(IDS, 2048)) as servos:
        port, handler = sdk.PortHandler(str(servos.link)), sdk.PacketHandler(2.0)
        assert port.openPort()
        assert port.setBaudRate(1_000_000)
        assert handler.ping(port, 3) == (1020, 0, 0)
        port.closePort()


def test_answers_that_look_like_a_header_arrive_whole(tmp_path: Path) -> None:
    """Velocity -1 (FF FF FF FF) before a position of 0x..FD: the packet has to be stuffed."""
    with Emulator(tmp_path / "arm", dict.fromkeys(IDS, 2048)) as servos:
        bus = Bus(str(servos.link), 1_000_000, 0.034)
        motor = servos.motors[1]
        motor.table[128:136] = b"\xff\xff\xff\xff\xfd\x07\x00\x00"
        motor.advance = lambda now: None  # type: ignore[method-assign]  # keep what was put there
        data = bus.sync_read((1,), 126, 10)[0][1]
        assert (reg.PRESENT_VELOCITY.decode(data, 126), reg.PRESENT_POSITION.decode(data, 126)) == (-1, 0x7FD)
        bus.close()


def test_a_late_answer_is_not_taken_for_another(tmp_path: Path) -> None:
    with Emulator(tmp_path / "arm", dict.fromkeys(IDS, 2048)) as servos:
        bus = Bus(str(servos.link), 1_000_000, 0.005)
        servos.inject(delay_s=0.05)
        with pytest.raises(BusError):
            bus.read_block(1, 64, 35)
        servos.inject()
        for _ in range(20):
            data = bus.sync_read((1,), 126, 10)[0][1]
            assert reg.PRESENT_POSITION.decode(data, 126) == 2048
        bus.close()


def test_a_write_is_sent_once_and_read_back_when_its_answer_is_lost(tmp_path: Path) -> None:
    with Emulator(tmp_path / "arm", dict.fromkeys(IDS, 2048)) as servos:
        bus = Bus(str(servos.link), 1_000_000, 0.034)
        servos.inject(corrupt=2)
        for value in (0, 1, 0, 1):
            bus.write(2, reg.TORQUE_ENABLE, value)
            assert servos.motors[2].get(reg.TORQUE_ENABLE) == value
        assert bus.lost > 0
        servos.inject(silent=frozenset({2}))
        with pytest.raises(BusError, match="servo 2"):
            bus.write(2, reg.TORQUE_ENABLE, 0)
        bus.close()


def test_endless_noise_ends(tmp_path: Path) -> None:
    with Emulator(tmp_path / "arm", dict.fromkeys(IDS, 2048)) as servos:
        bus = Bus(str(servos.link), 1_000_000, 0.01)
        servos.inject(babble=3000, corrupt=1)
        with pytest.raises(BusError):
            bus.sync_read(IDS, 126, 10)
        servos.inject()
        assert bus.ping(1) == 1020
        bus.close()


def test_the_bus_watchdog_keeps_its_time() -> None:
    motor = Motor(1)
    motor.start(100.0)
    motor.write(reg.TORQUE_ENABLE.address, b"\x01")
    motor.write(reg.BUS_WATCHDOG.address, b"\x05")
    motor.hear(100.05)
    motor.write(reg.GOAL_POSITION.address, (3000).to_bytes(4, "little"))
    motor.advance(100.149)
    assert motor.trips == []
    motor.advance(101.0)
    assert motor.trips == [pytest.approx(100.15, abs=0.005)]
    assert motor.write(reg.GOAL_POSITION.address, (2048).to_bytes(4, "little")) == 4
    assert abs(motor.velocity) < 1e-6
    motor.write(reg.BUS_WATCHDOG.address, b"\x00")
    assert motor.write(reg.GOAL_POSITION.address, (2048).to_bytes(4, "little")) == 0


def test_a_servo_keeps_its_profile() -> None:
    motor = Motor(1)
    motor.write(reg.PROFILE_VELOCITY.address, (40).to_bytes(4, "little"))
    motor.write(reg.PROFILE_ACCELERATION.address, (10).to_bytes(4, "little"))
    motor.write(reg.TORQUE_ENABLE.address, b"\x01")
    motor.write(reg.GOAL_POSITION.address, (3000).to_bytes(4, "little"))
    fastest = 0.0
    for step in range(1500):
        motor.advance(step * 0.002)
        fastest = max(fastest, motor.velocity)
    assert fastest == pytest.approx(40 * reg.VELOCITY_UNIT, rel=0.05)
    assert motor.get(reg.PRESENT_POSITION) == pytest.approx(3000, abs=1)


_ORDERS = st.lists(
    st.tuples(st.sampled_from(["go", "brake", "blocked"]), st.floats(-3, 3), st.floats(0, 0.5), st.integers(1, 12)),
    max_size=25,
)


@settings(deadline=None)
@given(_ORDERS)
def test_the_reference_keeps_its_limits(orders: list[tuple[str, float, float, int]]) -> None:
    dt = 0.02
    one = np.ones(2)
    limits = AxisLimits(-1.2 * one, 1.2 * one, 1.5 * one, 7.5 * one, 200 * one)
    follower = Follower(limits, dt, np.array([0.05, np.inf]))
    follower.seed(np.zeros(2))
    path = [np.zeros(2)] * 4
    for kind, aim, duration, steps in orders:
        if kind == "go":
            follower.go(np.array([aim, -aim]), duration)
        else:
            follower.brake()
        for _ in range(steps):
            measured = np.array([aim, aim]) if kind == "blocked" else path[-1]
            path.append(follower.step(measured))
    q = np.array(path)
    assert (np.abs(q) <= 1.2 + 1e-9).all()
    for order, bound in ((1, 1.5), (2, 7.5), (3, 200.0)):
        assert np.abs(np.diff(q, order, axis=0)).max() <= bound * dt**order * (1 + 1e-6)


def test_a_blocked_reference_yields_but_a_grip_does_not() -> None:
    one = np.ones(2)
    follower = Follower(AxisLimits(-one, one, one, 10 * one, 300 * one), 0.02, np.array([0.05, np.inf]))
    follower.seed(np.zeros(2))
    follower.go(np.array([0.5, 0.5]), 0.5)
    for _ in range(60):
        follower.step(np.zeros(2))
    follower.brake()
    for _ in range(100):
        at = follower.step(np.zeros(2))
    np.testing.assert_allclose(at, [0.0, 0.5], atol=1e-6)


def test_the_emulator_runs_by_itself(tmp_path: Path) -> None:
    link = tmp_path / "arm"
    command = [sys.executable, "-m", "robolearn.hal.servo.emulator", str(link), "--ids", "4", "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator:
        try:
            assert emulator.stdout is not None
            assert emulator.stdout.readline().startswith("emulated servos [4, 9]")
            bus = Bus(str(link), 1_000_000, 0.1)
            assert bus.ping(9) == 1020
            bus.close()
            emulator.terminate()
            assert emulator.wait(timeout=30) == 0
        finally:
            emulator.kill()
    assert not link.is_symlink()


def test_the_emulator_takes_no_file_away(tmp_path: Path) -> None:
    (tmp_path / "arm").write_text("precious")
    with pytest.raises(ConfigError, match="is no link"):
        Emulator(tmp_path / "arm", dict.fromkeys(IDS, 2048))
    assert (tmp_path / "arm").read_text() == "precious"
