"""How a servo arm is set up: plain data, refused when it cannot be right."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path

from robolearn.core import config as typed
from robolearn.core.errors import ConfigError, suggest
from robolearn.hal.servo import registers as reg

BAUD_RATES = (9600, 57600, 115200, 1_000_000, 2_000_000, 3_000_000, 4_000_000)
JOINTS = 6


@dataclass(frozen=True)
class Config:
    """An arm of six joints and, perhaps, a gripper: X-series servos on one serial bus.

    Attributes:
        port: serial port, best by the name that stays: ``/dev/serial/by-id/...``.
        baud: rate the servos are set to.
        model: kinematics and limits, ``hal/arms/<model>.yaml``.
        ids: servo of each joint, base first.
        zeros: encoder reading of each joint at its zero [ticks].
        directions: 1, or -1 where the joint turns against its servo.
        gripper: id of the gripper's servo; None for none (the seventh number of an action then has no effect).
        gripper_closed, gripper_open: its encoder reading when closed and open [ticks].
        tip: tool tip in the TCP frame [m].
        control_hz: rate of policy actions.
        loop_hz: rate of the loop that talks to the servos, 25 to 200.
        share: share of the model's joint velocity, acceleration and jerk limits that is used, above 0 to 1.
        reset_speed: speed of the tip on the way to the start of an episode [m/s].
        floor: height that the tip keeps above on that way [m].
        margin: distance kept from the joints' ends [rad].
        max_translation, max_rotation: largest displacement of one action, per axis [m, rad].
        lead, rotation_lead: how far the commanded tip may run ahead of the measured one [m, rad].
        stale_s: silence of commands after which the arm brakes and holds [s]; 0 for two control periods.
        bus_watchdog_s: silence on the bus after which the servos stop by themselves [s], 0.04 to 2.54.
        feedback_s: oldest reading that still counts; after that the robot is stopped [s].
        timeout_s: time limit of an answer, apart from its bytes [s]; USB adapters with a latency timer of 16 ms need
            0.034, with one of 1 ms 0.01 will do.
        effort_share: share of the model's joint torques, estimated from the current, above which the robot is stopped.
        torque_constant: torque of a servo by its current [N m/A]; 1.78 is the XM430-W350's.
        arrival_m: how far from the start of an episode ``reset`` may end [m].
        fence: file that keeps the newest lease epoch beyond this process; empty to keep it in memory.

    Raises:
        ConfigError: a value is out of range, or two servos have one id.
    """

    port: str = "/dev/ttyUSB0"
    baud: int = 1_000_000
    model: str = "servo6"
    ids: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    zeros: tuple[int, ...] = (2048, 2048, 2048, 2048, 2048, 2048)
    directions: tuple[int, ...] = (1, 1, 1, 1, 1, 1)
    gripper: int | None = 7
    gripper_closed: int = 2048
    gripper_open: int = 2900
    tip: tuple[float, float, float] = (0.0, 0.0, 0.0)
    control_hz: float = 10.0
    loop_hz: float = 50.0
    share: float = 0.5
    reset_speed: float = 0.15
    floor: float = 0.0
    margin: float = 0.05
    max_translation: float = 0.008
    max_rotation: float = 0.1
    lead: float = 0.04
    rotation_lead: float = 0.4
    stale_s: float = 0.0
    bus_watchdog_s: float = 0.1
    feedback_s: float = 0.15
    timeout_s: float = 0.034
    effort_share: float = 1.0
    torque_constant: float = 1.78
    arrival_m: float = 0.01
    fence: str = ""

    def __post_init__(self) -> None:
        for name in ("ids", "zeros", "directions"):
            self._require(len(getattr(self, name)) == JOINTS, name, f"{JOINTS} numbers")
        used = [*self.ids, *([] if self.gripper is None else [self.gripper])]
        self._require(all(0 <= ident <= 252 for ident in used), "ids", "servo ids from 0 to 252")
        self._require(len(set(used)) == len(used), "ids", "another id for every servo, the gripper's as well")
        self._require(all(0 <= zero < reg.TICKS for zero in self.zeros), "zeros", "ticks from 0 to 4095")
        self._require(all(d in (1, -1) for d in self.directions), "directions", "1 or -1 for every joint")
        for name in ("gripper_closed", "gripper_open"):
            self._require(0 <= getattr(self, name) < reg.TICKS, name, "ticks from 0 to 4095")
        self._require(self.gripper_closed != self.gripper_open, "gripper_open", "another reading than gripper_closed")
        self._require(self.baud in BAUD_RATES, "baud", f"one of {', '.join(map(str, BAUD_RATES))}")
        self._require(25 <= self.loop_hz <= 200, "loop_hz", "25 to 200 Hz")
        self._require(0 < self.control_hz <= self.loop_hz / 2, "control_hz", "above 0, at most half of loop_hz")
        self._require(0.04 <= self.bus_watchdog_s <= 127 * reg.WATCHDOG_UNIT_S, "bus_watchdog_s", "0.04 to 2.54 s")
        self._require(self.bus_watchdog_s >= 2 / self.loop_hz, "bus_watchdog_s", "at least two periods of the loop")
        self._require(0 < self.share <= 1, "share", "above 0, at most 1")
        self._require(math.isfinite(self.floor), "floor", "a finite height")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and field.name not in ("stale_s", "margin", "floor"):
                self._require(math.isfinite(value) and value > 0, field.name, "a finite number above 0")
        self._require(math.isfinite(self.margin) and self.margin >= 0, "margin", "a finite number, 0 or more")
        self._require(math.isfinite(self.stale_s) and self.stale_s >= 0, "stale_s", "a finite number, 0 or more")

    @property
    def all_ids(self) -> tuple[int, ...]:
        """Ids of the joints and, last, the gripper."""
        return self.ids if self.gripper is None else (*self.ids, self.gripper)

    @property
    def silence_s(self) -> float:
        """Silence of commands after which the arm brakes [s]."""
        return self.stale_s or 2 / self.control_hz

    def _require(self, right: bool, name: str, expected: str) -> None:
        if not right:
            raise ConfigError(f"servo arm: {name}: expected {expected}, got {getattr(self, name)}")


def of_instance(instance: str) -> Config:
    """The configuration of a named arm.

    Args:
        instance: a path such as ``/dev/ttyUSB0``; a name of the site file, whose ``host`` mapping then holds fields of
            ``Config``; or ``usb0`` for ``/dev/ttyUSB0``, ``acm1`` for ``/dev/ttyACM1``.

    Raises:
        ConfigError: a name that is none of these, or a wrong value in the site file.
    """
    from robolearn.hal import site

    robots = {name: robot for name, robot in site.load().robots.items() if robot.driver == "servo_arm"}
    for name, robot in robots.items():
        if instance in (name, robot.instance):
            data = dict(robot.host or {})
            if robot.instance.startswith("/"):
                data.setdefault("port", robot.instance)
            if "port" not in data:
                raise ConfigError(f"robots.{name}.host.port: missing, expected the serial port of the arm")
            return typed.from_dict(Config, data, path=f"robots.{name}.host")
    if instance.startswith("/"):
        return Config(port=instance)
    short = re.fullmatch(r"(usb|acm)(\d+)", instance, re.IGNORECASE)
    if short is None:
        raise ConfigError(f"servo arm: unknown instance '{instance}'; give a path or usbN{suggest(instance, robots)}")
    return Config(port=f"/dev/tty{short[1].upper()}{short[2]}")


def simulated(instance: str) -> bool:
    """True for an emulated arm: its port is a pseudo terminal."""
    return Path(of_instance(instance).port).resolve().parent == Path("/dev/pts")
