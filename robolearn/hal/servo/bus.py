"""The servo bus: serial port, time limits, retries and checks around the maker's SDK (``dynamixel-sdk``).

The SDK frames packets and checks their CRC. It opens ports without a limit on writing, measures time with the wall
clock and polls without pause; ``Port`` takes the place of its port handler.
"""

from __future__ import annotations

import importlib
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from robolearn.core.errors import ConfigError, MissingDependencyError, RobolearnError
from robolearn.hal.servo import registers as reg
from robolearn.hal.servo.registers import Register

READ_TRIES = 3
"""Attempts of a reading; writes are never repeated."""
_POLL_S = 0.002
_WRITE_LIMIT_S = 0.25
_PORT_ERRORS = (OSError, termios.error)
"""What pyserial raises when a port vanishes."""
_T = TypeVar("_T")


class BusError(RobolearnError):
    """The servo bus did not do as it was asked."""


def require_sdk() -> Any:
    """The SDK and pyserial, or MissingDependencyError saying what to install."""
    try:
        return importlib.import_module("dynamixel_sdk"), importlib.import_module("serial")
    except ImportError as error:
        what = f"servo arm: cannot import {error.name or 'dynamixel_sdk'}"
        raise MissingDependencyError(f"{what}; install it with: pip install 'robolearn[devices]'") from None


class Port:
    """A serial port with the methods that the SDK's packet handler calls (hence their names)."""

    def __init__(self, name: str, baud: int, timeout_s: float) -> None:
        """Open a port for this process alone.

        Raises:
            BusError: it does not exist, may not be opened, or another process has it.
        """
        _, serial = require_sdk()
        self._write_timeout: type[Exception] = serial.SerialTimeoutException
        self.name, self.baud, self.is_using = name, baud, False
        self._timeout_s, self._end = timeout_s, 0.0
        try:
            self._serial = serial.Serial(
                name, baud, timeout=_POLL_S, write_timeout=_WRITE_LIMIT_S, exclusive=True, rtscts=False, dsrdtr=False
            )
        except (*_PORT_ERRORS, ValueError) as error:
            hint = "is it plugged in, yours to use (group dialout) and free of other programs?"
            raise BusError(f"servo bus {name}: cannot open it at {baud} baud ({error}); {hint}") from None
        try:
            self._serial.set_low_latency_mode(True)
            self.low_latency = True
        except (*_PORT_ERRORS, ValueError, NotImplementedError):
            self.low_latency = False  # not every adapter can; a pseudo terminal cannot

    def close(self) -> None:
        """Close; idempotent."""
        self._serial.close()

    def clearPort(self) -> None:  # noqa: N802
        """Forget what came in."""
        self._serial.reset_input_buffer()

    def writePort(self, packet: Sequence[int]) -> int:  # noqa: N802
        """Send; return how many bytes went out."""
        try:
            return int(self._serial.write(bytes(packet)))
        except self._write_timeout:
            raise TimeoutError("the port takes nothing") from None

    def readPort(self, length: int) -> bytes:  # noqa: N802
        """At most ``length`` bytes, waiting briefly. Endless noise ends here."""
        if self.is_using and time.monotonic() > self._end + self._timeout_s:
            raise TimeoutError("nothing but noise")
        return bytes(self._serial.read(length)) if length > 0 else b""

    def setPacketTimeout(self, length: float) -> None:  # noqa: N802
        """Start the time limit of an answer of ``length`` bytes."""
        self._end = time.monotonic() + self._timeout_s + 10 * length / self.baud

    def isPacketTimeout(self) -> bool:  # noqa: N802
        """Whether that time has passed."""
        return time.monotonic() > self._end


class Bus:
    """Servos on a port. Not for several threads at once.

    An attempt ends within ``2 * timeout_s`` and the time its bytes take on the wire.
    """

    def __init__(self, port: str, baud: int, timeout_s: float) -> None:
        """Open the port; raises as ``Port`` does."""
        sdk, _ = require_sdk()
        self._sdk, self._handler = sdk, sdk.PacketHandler(2.0)
        self._port = Port(port, baud, timeout_s)
        self.low_latency = self._port.low_latency
        self.lost = 0

    def close(self) -> None:
        """Close the port; idempotent."""
        self._port.close()

    def ping(self, ident: int) -> int:
        """Model number of a servo."""

        def once() -> int:
            model, result, _ = self._handler.ping(self._port, ident)
            self._check(result, f"looking for servo {ident}")
            return int(model)

        return self._retry(once)

    def read(self, ident: int, register: Register) -> int:
        """A register of one servo."""
        return register.decode(self.read_block(ident, register.address, register.size), register.address)

    def read_block(self, ident: int, address: int, size: int) -> bytes:
        """(size,) bytes of one servo's table."""

        def once() -> bytes:
            self._check(self._handler.readTx(self._port, ident, address, size), f"asking servo {ident}")
            return self._answer(ident, size)[0]

        return self._retry(once)

    def sync_read(self, idents: Sequence[int], address: int, size: int) -> tuple[dict[int, bytes], set[int]]:
        """The same bytes of several servos in one round, and the ids of those with a hardware error."""

        def once() -> tuple[dict[int, bytes], set[int]]:
            sent = self._handler.syncReadTx(self._port, address, size, list(idents), len(idents), False)
            self._check(sent, "asking all servos")
            data, alerts = {}, set()
            for ident in idents:
                data[ident], error = self._answer(ident, size)
                if error & reg.ALERT:
                    alerts.add(ident)
            return data, alerts

        return self._retry(once)

    def write(self, ident: int, register: Register, value: int) -> None:
        """Write a register of one servo, once; where its answer is lost, the register is read.

        Raises:
            BusError: the servo refuses, or does not hold the value afterwards.
        """
        data = list(register.encode(value))

        def once() -> tuple[int, int]:
            result, error = self._handler.writeTxRx(self._port, ident, register.address, register.size, data)
            return int(result), int(error) & ~reg.ALERT

        result, error = self._guard(once)
        if error:
            why = self._handler.getRxPacketError(error).removeprefix("[RxPacketError] ")
            raise BusError(f"{self._name}: servo {ident} refuses {value} in register {register.address}: {why}")
        if result != self._sdk.COMM_SUCCESS:
            self.lost += 1
            if list(self.read_block(ident, register.address, register.size)) != data:
                self._check(result, f"writing register {register.address} of servo {ident}")

    def sync_write(self, register: Register, values: Mapping[int, int]) -> None:
        """Write a register of several servos at once; the servos do not answer."""
        data = [byte for ident, value in values.items() for byte in (ident, *register.encode(value))]

        def once() -> None:
            sent = self._handler.syncWriteTxOnly(self._port, register.address, register.size, data, len(data))
            self._check(sent, "writing to all servos")

        self._guard(once)

    def reboot(self, ident: int) -> None:
        """Restart a servo: clears hardware errors; its torque goes off."""
        self._guard(lambda: self._check(self._handler.reboot(self._port, ident)[0], f"rebooting servo {ident}"))

    @property
    def _name(self) -> str:
        return f"servo bus {self._port.name}"

    def _answer(self, ident: int, size: int) -> tuple[bytes, int]:
        """Parameters and error field of one status packet, which must be of this servo and this size."""
        packet, result = self._handler.rxPacket(self._port, False)
        self._check(result, f"waiting for servo {ident}")
        got = packet[5] + 256 * packet[6] - 4
        if packet[4] != ident or got != size:
            raise BusError(f"{self._name}: expected {size} bytes of servo {ident}, got {got} of servo {packet[4]}")
        if packet[8] & ~reg.ALERT:
            why = self._handler.getRxPacketError(packet[8]).removeprefix("[RxPacketError] ")
            raise BusError(f"{self._name}: servo {ident} answers: {why}")
        return bytes(packet[9 : 9 + size]), int(packet[8])

    def _check(self, result: int, doing: str) -> None:
        if result != self._sdk.COMM_SUCCESS:
            why = self._handler.getTxRxResult(result).removeprefix("[TxRxResult] ")
            raise BusError(f"{self._name}, {doing}: {why} Check power, cable, id and baud rate")

    def _guard(self, call: Callable[[], _T]) -> _T:
        """Do one transaction; whatever the port raises becomes a BusError."""
        try:
            return call()
        except TimeoutError as error:
            raise BusError(f"{self._name}: {error}; check the adapter") from None
        except _PORT_ERRORS as error:
            raise BusError(f"{self._name} fails: {error}; check the cable and the adapter") from error
        finally:
            self._port.is_using = False

    def _retry(self, call: Callable[[], _T]) -> _T:
        for _ in range(READ_TRIES - 1):
            try:
                return self._guard(call)
            except BusError as error:
                if error.__cause__ is not None:  # the port itself has failed
                    raise
                self.lost += 1
        return self._guard(call)


def require_baud(baud: int) -> None:
    """Raise ConfigError for a rate that X-series servos do not have."""
    rates = (9600, 57600, 115200, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 4_500_000)
    if baud not in rates:
        raise ConfigError(f"servo arm: baud must be one of {', '.join(map(str, rates))}, got {baud}")
