"""Looks an arm over without moving it or switching its torque."""

from __future__ import annotations

import time

from robolearn.core.errors import RobolearnError
from robolearn.hal.check import Finding
from robolearn.hal.servo import registers as reg
from robolearn.hal.servo.bus import Bus, BusError
from robolearn.hal.servo.config import Config

_OLDEST_FIRMWARE = 38
"""The first with a bus watchdog."""
_HOT_C = 65
_ROUNDS = 50
_SHARE = 0.7
"""Share of a loop period that reading may take."""


def findings(config: Config) -> list[Finding]:
    """What was found at the arm of this configuration; the robot must not be in use."""
    try:
        bus = Bus(config.port, config.baud, config.timeout_s)
    except RobolearnError as error:
        return [Finding("serial port", False, str(error), "a port that opens", "plug it in, or end what uses it")]
    try:
        found = [Finding("serial port", True, f"{config.port} at {config.baud} baud"), _adapter(bus, config)]
        present = []
        for ident in config.all_ids:
            servo, answers = _servo(bus, ident)
            found += servo
            if answers:
                present.append(ident)
        if len(present) == len(config.all_ids):
            found.append(_speed(bus, config))
        return found
    finally:
        bus.close()


def _adapter(bus: Bus, config: Config) -> Finding:
    fast = bus.low_latency
    return Finding(
        "adapter latency",
        True if fast else None,
        "low-latency mode on" if fast else "cannot be set",
        "low-latency mode",
        "" if fast else f"echo 1 | sudo tee /sys/bus/usb-serial/devices/{config.port.split('/')[-1]}/latency_timer",
    )


def _servo(bus: Bus, ident: int) -> tuple[list[Finding], bool]:
    name = f"servo {ident}"
    try:
        model = bus.ping(ident)
        firmware, status = bus.read(ident, reg.FIRMWARE), bus.read(ident, reg.HARDWARE_ERROR)
        mode, volts = bus.read(ident, reg.DRIVE_MODE), bus.read(ident, reg.INPUT_VOLTAGE) / 10
        least, celsius = bus.read(ident, reg.MIN_VOLTAGE_LIMIT) / 10, bus.read(ident, reg.TEMPERATURE)
    except BusError as error:
        return [Finding(name, False, str(error), "an answer", "check power, cable, id and baud rate")], False
    clear = "mend the cause, support the arm, then clear the robot's stop"
    return [
        Finding(name, True, f"model {model}, firmware {firmware}"),
        Finding(
            f"{name} bus watchdog",
            firmware >= _OLDEST_FIRMWARE,
            f"firmware {firmware}",
            f"firmware {_OLDEST_FIRMWARE} or newer, which stops when the host falls silent",
            "" if firmware >= _OLDEST_FIRMWARE else "update the servo with the maker's tool",
        ),
        Finding(f"{name} hardware", status == 0, reg.hardware_errors(status), "no error", clear if status else ""),
        Finding(f"{name} drive mode", mode == 0, str(mode), "0", "see directions in Config" if mode else ""),
        Finding(f"{name} voltage", volts >= least, f"{volts:.1f} V", f"at least {least:.1f} V", ""),
        Finding(f"{name} temperature", celsius < _HOT_C, f"{celsius} C", f"below {_HOT_C} C", ""),
    ], True


def _speed(bus: Bus, config: Config) -> Finding:
    """How long it takes to read all servos, with what was lost."""
    address, size = reg.BUS_WATCHDOG.address, reg.PRESENT_POSITION.address + 4 - reg.BUS_WATCHDOG.address
    bus.lost, start = 0, time.monotonic()
    try:
        for _ in range(_ROUNDS):
            bus.sync_read(config.all_ids, address, size)
    except BusError as error:
        return Finding("joint feedback", False, str(error), "every reading arrives", "check cable and termination")
    each = (time.monotonic() - start) / _ROUNDS
    fine = each <= _SHARE / config.loop_hz and bus.lost == 0
    return Finding(
        "joint feedback",
        fine,
        f"{1 / each:.0f} Hz, {bus.lost} of {_ROUNDS} asked again",
        f"at least {config.loop_hz / _SHARE:.0f} Hz, none lost",
        "" if fine else "lower the servos' return delay time and the adapter's latency timer, or loop_hz",
    )
