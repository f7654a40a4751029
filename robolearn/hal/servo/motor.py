"""One emulated X-series servo: its control table, profile generator, motor and bus watchdog."""

from __future__ import annotations

import math

from robolearn.hal.servo import registers as reg
from robolearn.hal.servo.registers import Register

STEP_S = 0.002
"""Integration step [s]."""
STIFFNESS, DAMPING = 40.0**2, 2 * 40.0
"""Position controller on the inertia, critically damped: 1/s^2 and 1/s (bandwidth 40 rad/s)."""
INERTIA = 0.02
"""At the horn [kg m^2]."""
NEWTON_METRES_PER_AMPERE = 1.78
"""Stall torque by stall current of an XM430-W350 at 12 V (4.1 N m, 2.3 A)."""
READ_ONLY_FROM, READ_ONLY_TO = reg.PRESENT_CURRENT.address, 147
RANGE_ERROR, LIMIT_ERROR, ACCESS_ERROR = 4, 6, 7
"""Error numbers of a status packet."""
_GOALS = range(100, 104), range(104, 108), range(116, 120)


class Motor:
    """A servo on the bus. All times are seconds on the emulator's clock.

    Attributes:
        position, velocity: of the horn [rad, rad/s]; position 0 is tick 0.
        load: torque of the world on the horn [N m].
        jammed: the horn cannot turn.
        trips: times at which the bus watchdog stopped the servo [s].
    """

    def __init__(self, ident: int, ticks: int = reg.TICKS // 2) -> None:
        self.ident = ident
        self.table = bytearray(256)
        self.position, self.velocity = ticks * reg.RAD_PER_TICK, 0.0
        self.load, self.jammed = 0.0, False
        self.trips: list[float] = []
        self._now, self._heard = 0.0, 0.0
        self._plan, self._speed = self.position, 0.0
        self._put(reg.MODEL_NUMBER, 1020)
        self._put(reg.FIRMWARE, 45)
        self._put(Register(7, 1), ident)
        self._put(reg.OPERATING_MODE, reg.POSITION_MODE)
        self._put(reg.MIN_VOLTAGE_LIMIT, 95)
        self.boot()

    def boot(self) -> None:
        """What power-on and the reboot instruction do: RAM back to its start values, torque off, errors gone."""
        self.table[64:] = bytes(len(self.table) - 64)
        self._put(reg.INPUT_VOLTAGE, 120)
        self._put(reg.TEMPERATURE, 35)
        self._put(reg.GOAL_POSITION, round(self.position / reg.RAD_PER_TICK))
        self._plan, self._speed = self.position, 0.0
        self._show()

    def get(self, register: Register) -> int:
        """A value of the control table."""
        return register.decode(bytes(self.table[register.address :]), register.address)

    def fail(self, status: int) -> None:
        """Raise hardware errors; the torque goes off, as with Shutdown(63) set for them."""
        self._put(reg.HARDWARE_ERROR, self.get(reg.HARDWARE_ERROR) | status)
        self._put(reg.TORQUE_ENABLE, 0)

    def read(self, address: int, size: int) -> bytes:
        """(size,) bytes of the control table."""
        return bytes(self.table[address : address + size])

    def write(self, address: int, data: bytes) -> int:
        """Write as the protocol does; return the error number, 0 for none."""
        span = range(address, address + len(data))
        if address + len(data) > len(self.table) or any(READ_ONLY_FROM <= at < READ_ONLY_TO for at in span):
            return ACCESS_ERROR
        if address < 64 and self.get(reg.TORQUE_ENABLE):
            return ACCESS_ERROR  # EEPROM is locked while the torque is on
        tripped = self.get(reg.BUS_WATCHDOG) == reg.WATCHDOG_TRIPPED
        if tripped and any(at in goal for at in span for goal in _GOALS):
            return RANGE_ERROR
        if address == reg.GOAL_POSITION.address and not 0 <= int.from_bytes(data, "little", signed=True) < reg.TICKS:
            return LIMIT_ERROR
        if address == reg.TORQUE_ENABLE.address:
            if data[0] and self.get(reg.HARDWARE_ERROR):
                return 0  # the servo stays limp until it is rebooted
            if data[0] and not self.get(reg.TORQUE_ENABLE):
                self._plan, self._speed = self.position, 0.0
                self._put(reg.GOAL_POSITION, round(self.position / reg.RAD_PER_TICK))
        self.table[address : address + len(data)] = data
        return 0

    def hear(self, now: float) -> None:
        """An instruction packet passed on the bus."""
        self.advance(now)
        self._heard = now

    def advance(self, now: float) -> None:
        """Let time pass: the bus watchdog, the profile and the motor."""
        while now - self._now >= STEP_S:
            self._now += STEP_S
            limit = self.get(reg.BUS_WATCHDOG)
            armed = self.get(reg.TORQUE_ENABLE) and 0 < limit < 128
            if armed and self._now - self._heard > limit * reg.WATCHDOG_UNIT_S:
                self._put(reg.BUS_WATCHDOG, reg.WATCHDOG_TRIPPED)
                self._put(reg.GOAL_POSITION, round(self.position / reg.RAD_PER_TICK))
                self._plan, self._speed = self.position, 0.0
                self.trips.append(self._now)
            self._step()
        self._show()

    def start(self, now: float) -> None:
        """Set the clock without letting time pass."""
        self._now = self._heard = now

    def _step(self) -> None:
        if not self.get(reg.TORQUE_ENABLE):
            self._plan, self._speed = self.position, 0.0
            push = -DAMPING * self.velocity
        else:
            self._follow_goal()
            push = STIFFNESS * (self._plan - self.position) + DAMPING * (self._speed - self.velocity)
        push += self.load / INERTIA
        torque = INERTIA * push - self.load
        if self.jammed:
            self.velocity = 0.0
        else:
            self.velocity += push * STEP_S
            self.position += self.velocity * STEP_S
        limp = not self.get(reg.TORQUE_ENABLE)
        amperes = 0.0 if limp else torque / NEWTON_METRES_PER_AMPERE
        self._put(reg.PRESENT_CURRENT, max(-1193, min(1193, round(amperes / reg.CURRENT_UNIT))))

    def _follow_goal(self) -> None:
        """Trapezoidal profile towards the goal; 0 in a profile register means no limit."""
        goal = self.get(reg.GOAL_POSITION) * reg.RAD_PER_TICK
        top = self.get(reg.PROFILE_VELOCITY) * reg.VELOCITY_UNIT or math.inf
        push = self.get(reg.PROFILE_ACCELERATION) * reg.ACCELERATION_UNIT or math.inf
        error = goal - self._plan
        wanted = math.copysign(min(top, abs(error) / STEP_S), error)
        if math.isfinite(push):
            wanted = math.copysign(min(abs(wanted), math.sqrt(2 * push * abs(error))), error)
            wanted = max(self._speed - push * STEP_S, min(self._speed + push * STEP_S, wanted))
        self._speed = wanted
        self._plan += wanted * STEP_S

    def _show(self) -> None:
        self._put(reg.PRESENT_POSITION, round(self.position / reg.RAD_PER_TICK))
        self._put(reg.PRESENT_VELOCITY, round(self.velocity / reg.VELOCITY_UNIT))

    def _put(self, register: Register, value: int) -> None:
        self.table[register.address : register.address + register.size] = register.encode(value)
