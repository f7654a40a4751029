"""The servos as joints: set up, read and commanded in rad, rad/s and N m."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import RobolearnError
from robolearn.core.spec import Array
from robolearn.hal.servo import registers as reg
from robolearn.hal.servo.bus import Bus, BusError
from robolearn.hal.servo.config import Config

_FIRST, _LAST = reg.BUS_WATCHDOG, reg.PRESENT_POSITION
_SPAN = _LAST.address + _LAST.size - _FIRST.address
_FENCE = 1.5
"""The servos' own profile limits, by the limits of the reference: what no wrong goal can exceed."""
_BOOT_TRIES = 20


class ServoFaultError(RobolearnError):
    """A servo is not fit to move: it has a hardware error, or is set up for something else."""


@dataclass(frozen=True)
class Reading:
    """State of joints and, last, the gripper where there is one.

    Attributes:
        position, velocity, effort: (n,) rad, rad/s, N m (estimated from the current).
        fault: what is wrong with a servo; empty when all is well.
    """

    position: Array
    velocity: Array
    effort: Array
    fault: str = ""


class Joints:
    """All servos of an arm. Not for several threads at once."""

    def __init__(self, config: Config, velocity: Array, acceleration: Array) -> None:
        """Prepare for an arm whose reference keeps within ``velocity`` and ``acceleration`` (n,) [rad/s, rad/s^2]."""
        self._config, self._ids = config, config.all_ids
        middle = [] if config.gripper is None else [config.gripper_closed]
        self._zeros = np.array([*config.zeros, *middle], dtype=np.float64)
        sign = 1 if config.gripper_open > config.gripper_closed else -1
        self._signs = np.array([*config.directions, *[sign for _ in middle]], dtype=np.float64)
        self._velocity, self._acceleration = velocity, acceleration
        self._watchdog = round(config.bus_watchdog_s / reg.WATCHDOG_UNIT_S)
        self._bus: Bus | None = None

    @property
    def bus(self) -> Bus:
        """The open bus; raises BusError when it is closed."""
        if self._bus is None:
            raise BusError(f"servo bus {self._config.port} is closed")
        return self._bus

    @property
    def repeats(self) -> int:
        """Transactions on the open bus that had to be repeated."""
        return 0 if self._bus is None else self._bus.lost

    def connect(self) -> None:
        """Open the port, where it is not open, and see that every servo answers."""
        if self._bus is None:
            self._bus = Bus(self._config.port, self._config.baud, self._config.timeout_s)
        for ident in self._ids:
            self._bus.ping(ident)

    def disconnect(self) -> None:
        """Close the port; idempotent. The servos go on holding and stop listening once their watchdog trips."""
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def arm(self) -> Reading:
        """Make every servo hold where it is, with its own limits and its bus watchdog; return the state.

        Raises:
            BusError: a servo does not answer or refuses.
            ServoFaultError: a servo has a hardware error, or is set up for something else.
        """
        for ident in self._ids:
            self._refuse_unfit(ident)
        for index, ident in enumerate(self._ids):
            self._arm(index, ident)
        for ident in self._ids:
            self.bus.write(ident, reg.BUS_WATCHDOG, self._watchdog)
        reading = self.read()
        if reading.fault:
            raise ServoFaultError(reading.fault)
        return reading

    def read(self) -> Reading:
        """The state of all servos, and what is wrong with one; BusError when one did not answer when asked again."""
        found, alerts = self.bus.sync_read(self._ids, _FIRST.address, _SPAN)
        return Reading(
            self._signs * reg.RAD_PER_TICK * (self._column(found, reg.PRESENT_POSITION) - self._zeros),
            self._signs * reg.VELOCITY_UNIT * self._column(found, reg.PRESENT_VELOCITY),
            self._signs * reg.CURRENT_UNIT * self._config.torque_constant * self._column(found, reg.PRESENT_CURRENT),
            self._fault(found, alerts),
        )

    def command(self, position: Array) -> None:
        """Send goal positions (n,) [rad]."""
        self.bus.sync_write(reg.GOAL_POSITION, dict(zip(self._ids, self.ticks(position), strict=True)))

    def ticks(self, position: Array) -> list[int]:
        """Encoder ticks of positions (n,) [rad], within a turn."""
        raw = np.rint(self._zeros + self._signs * position / reg.RAD_PER_TICK)
        return [int(value) for value in np.clip(raw, 0, reg.TICKS - 1)]

    def reachable(self) -> tuple[Array, Array]:
        """(n,) lowest and highest position that the encoders can be sent to [rad]."""
        ends = np.stack([-self._zeros, reg.TICKS - 1 - self._zeros]) * reg.RAD_PER_TICK * self._signs
        return ends.min(axis=0), ends.max(axis=0)

    def revive(self) -> Reading:
        """On behalf of a person: reconnect, restart servos with hardware errors, and arm. Raises as ``arm`` does."""
        try:
            self.connect()
        except BusError:
            self.disconnect()
            self.connect()
        for ident in self._ids:
            if self.bus.read(ident, reg.HARDWARE_ERROR):
                self.bus.reboot(ident)
                self._wait_for(ident)
        return self.arm()

    def _arm(self, index: int, ident: int) -> None:
        bus = self.bus
        bus.write(ident, reg.BUS_WATCHDOG, 0)  # ends the stop of an earlier silence
        if bus.read(ident, reg.OPERATING_MODE) != reg.POSITION_MODE:
            bus.write(ident, reg.TORQUE_ENABLE, 0)
            bus.write(ident, reg.OPERATING_MODE, reg.POSITION_MODE)
        fastest, hardest = _FENCE * self._velocity[index], _FENCE * self._acceleration[index]
        bus.write(ident, reg.PROFILE_VELOCITY, max(1, round(fastest / reg.VELOCITY_UNIT)))
        bus.write(ident, reg.PROFILE_ACCELERATION, max(1, round(hardest / reg.ACCELERATION_UNIT)))
        if not bus.read(ident, reg.TORQUE_ENABLE):
            bus.write(ident, reg.GOAL_POSITION, bus.read(ident, reg.PRESENT_POSITION))
            bus.write(ident, reg.TORQUE_ENABLE, 1)

    def _fault(self, found: dict[int, bytes], alerts: set[int]) -> str:
        for ident in sorted(alerts):
            status = self.bus.read(ident, reg.HARDWARE_ERROR)
            return f"servo {ident} has a hardware error: {reg.hardware_errors(status)}"
        for ident, data in found.items():
            watchdog = reg.BUS_WATCHDOG.decode(data, _FIRST.address)
            if watchdog == reg.WATCHDOG_TRIPPED:
                return f"servo {ident} stopped by itself: it heard nothing for {self._config.bus_watchdog_s:g} s"
            if watchdog != self._watchdog:
                return f"servo {ident} has restarted (bus watchdog {watchdog}); check its power"
        return ""

    def _refuse_unfit(self, ident: int) -> None:
        status = self.bus.read(ident, reg.HARDWARE_ERROR)
        if status:
            raise ServoFaultError(
                f"servo {ident} has a hardware error: {reg.hardware_errors(status)}; mend the cause, support the arm, "
                "then clear the stop (the servo restarts limp)"
            )
        if self.bus.read(ident, reg.DRIVE_MODE):
            raise ServoFaultError(
                f"servo {ident}: expected drive mode 0; set it with the maker's tool, see `directions`"
            )

    def _wait_for(self, ident: int) -> None:
        for _ in range(_BOOT_TRIES - 1):
            try:
                self.bus.ping(ident)
                return
            except BusError:
                continue
        self.bus.ping(ident)

    @staticmethod
    def _column(found: dict[int, bytes], register: reg.Register) -> Array:
        return np.array([register.decode(data, _FIRST.address) for data in found.values()], dtype=np.float64)
