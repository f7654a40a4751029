"""The part of the control table of Dynamixel X-series servos that an arm needs, and its units.

Source: the maker's e-Manual, pages of the XM430-W350 and XL430-W250 ("Control Table"). Multi-byte values are little
endian; those that can be negative are two's complement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TICKS = 4096
"""Encoder ticks in a turn."""
RAD_PER_TICK = 2 * math.pi / TICKS
VELOCITY_UNIT = 0.229 * 2 * math.pi / 60
"""Of Present Velocity, Profile Velocity [rad/s] (0.229 rev/min)."""
ACCELERATION_UNIT = 214.577 * 2 * math.pi / 3600
"""Of Profile Acceleration [rad/s^2] (214.577 rev/min^2)."""
CURRENT_UNIT = 2.69e-3
"""Of Present Current [A]; X servos without current sensing (XL430, XC430) show load in 0.1 % there."""
WATCHDOG_UNIT_S = 0.02
"""Of Bus Watchdog [s]."""
WATCHDOG_TRIPPED = 0xFF
"""Bus Watchdog reads -1 once it has stopped the servo; goals are read-only until 0 is written."""
ALERT = 0x80
"""Bit of a status packet's error field: Hardware Error Status is not 0."""
POSITION_MODE = 3
"""Operating Mode: position control within one turn."""


@dataclass(frozen=True)
class Register:
    """Address and size [bytes] of a value; ``signed`` when it can be negative."""

    address: int
    size: int
    signed: bool = False

    def decode(self, data: bytes, start: int = 0) -> int:
        """The value, from bytes whose first has the address ``start``."""
        at = self.address - start
        return int.from_bytes(data[at : at + self.size], "little", signed=self.signed)

    def encode(self, value: int) -> bytes:
        """The bytes of a value, which wraps where it does not fit."""
        return (value % (1 << 8 * self.size)).to_bytes(self.size, "little")


MODEL_NUMBER = Register(0, 2)
FIRMWARE = Register(6, 1)
DRIVE_MODE = Register(10, 1)
OPERATING_MODE = Register(11, 1)
MIN_VOLTAGE_LIMIT = Register(34, 2)
TORQUE_ENABLE = Register(64, 1)
HARDWARE_ERROR = Register(70, 1)
BUS_WATCHDOG = Register(98, 1)
PROFILE_ACCELERATION = Register(108, 4)
PROFILE_VELOCITY = Register(112, 4)
GOAL_POSITION = Register(116, 4, signed=True)
PRESENT_CURRENT = Register(126, 2, signed=True)
PRESENT_VELOCITY = Register(128, 4, signed=True)
PRESENT_POSITION = Register(132, 4, signed=True)
INPUT_VOLTAGE = Register(144, 2)
TEMPERATURE = Register(146, 1)

HARDWARE_ERRORS = {0: "input voltage", 2: "overheating", 3: "encoder", 4: "electrical shock", 5: "overload"}
"""Bit of Hardware Error Status -> what it means."""


def hardware_errors(status: int) -> str:
    """Hardware Error Status in words."""
    words = [HARDWARE_ERRORS.get(bit, f"bit {bit}") for bit in range(8) if status & 1 << bit]
    return ", ".join(words) or "no error"
