"""A chain of emulated servos behind a pseudo terminal: what a driver sees of an arm, without the arm.

    python -m robolearn.hal.servo.emulator /tmp/servo-arm

leaves a link at that path which opens like a serial port. Any software that speaks the servos' protocol can use it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import threading
import time
import tty
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from robolearn.core.errors import ConfigError
from robolearn.hal.servo import packets
from robolearn.hal.servo import registers as reg
from robolearn.hal.servo.motor import Motor
from robolearn.hal.servo.packets import Packet

_POLL_S = 0.02
_STARVED_S = 0.05
"""Longer between two looks at the clock than the thread ever waits: it was not scheduled."""


@dataclass(frozen=True)
class Faults:
    """What is wrong with the bus.

    Attributes:
        corrupt: status packets whose CRC is broken: every n-th; 0 for none.
        drop: status packets that never come: every n-th; 0 for none.
        delay_s: how late each answer is [s].
        babble: noise that follows each answer [bytes].
        silent: ids that answer nothing (a loose plug).
    """

    corrupt: int = 0
    drop: int = 0
    delay_s: float = 0.0
    babble: int = 0
    silent: frozenset[int] = frozenset()


class Emulator:
    """Servos on a bus, served by a thread.

    Attributes:
        motors: id -> servo.
        goals: (time [s], id -> goal [ticks]) of every goal position that arrived.
        heard: time of the last instruction packet [s]; 0 before the first.
    """

    def __init__(self, link: Path, ticks: Mapping[int, int]) -> None:
        """Put servos on a new bus.

        Args:
            link: where the port shall appear (a symbolic link to the pseudo terminal).
            ticks: id -> encoder reading at the start.

        Raises:
            ConfigError: something that is no link is already there.
        """
        if link.exists() and not link.is_symlink():
            raise ConfigError(f"emulated servos: {link} exists and is no link; give a path that is free")
        self.link = link
        self.motors = {ident: Motor(ident, at) for ident, at in ticks.items()}
        self.goals: list[tuple[float, dict[int, int]]] = []
        self.heard = 0.0
        self._faults, self._count, self._powered = Faults(), 0, True
        self._lock = threading.RLock()
        self._looked, self._missed = time.monotonic(), 0.0
        self._changed = threading.Condition(self._lock)
        self._wanted = True
        self._master = self._slave = -1
        self._wake, self._waker = os.pipe()
        self._quit = False
        for motor in self.motors.values():
            motor.start(self.now())
        with self._lock:
            self._connect()
        self._thread = threading.Thread(target=self._serve, name="servo-emulator", daemon=True)
        self._thread.start()

    def now(self) -> float:
        """The emulator's clock [s]. It stands still while a busy machine keeps this process waiting, which is no
        silence on the bus."""
        with self._lock:
            real = time.monotonic()
            self._missed += max(0.0, real - self._looked - _STARVED_S)
            self._looked = real
            return real - self._missed

    def plug(self) -> None:
        """Plug the cable in; harmless when it is."""
        self._want(plugged=True)

    def unplug(self) -> None:
        """Pull the cable: the port is gone for whoever has it open; the servos keep their power."""
        self._want(plugged=False)

    def power(self, on: bool) -> None:
        """Switch the servos' supply; without it nothing answers and the horns are limp."""
        with self._locked():
            for motor in self.motors.values():
                motor.boot()
                motor.load = 0.0
            self._powered = on

    def fail(self, ident: int, status: int) -> None:
        """Give a servo hardware errors (see ``registers.HARDWARE_ERRORS``)."""
        with self._locked():
            self.motors[ident].fail(status)

    def inject(self, **faults: object) -> None:
        """Change what is wrong with the bus: fields of Faults; none at all heals it."""
        with self._lock:
            self._faults = replace(self._faults, **faults) if faults else Faults()  # type: ignore[arg-type]

    def positions(self) -> dict[int, float]:
        """Id -> where the horn is now [rad from tick 0]."""
        with self._locked():
            return {ident: motor.position for ident, motor in self.motors.items()}

    def speed(self) -> float:
        """The fastest horn's speed now [rad/s]."""
        with self._locked():
            return max(abs(motor.velocity) for motor in self.motors.values())

    def tripped(self) -> set[int]:
        """Ids whose bus watchdog has stopped them."""
        with self._locked():
            found = {i for i, m in self.motors.items() if m.get(reg.BUS_WATCHDOG) == reg.WATCHDOG_TRIPPED}
        return found

    def close(self) -> None:
        """Stop serving and remove the port; idempotent."""
        if self._quit:
            return
        self._quit = True
        os.write(self._waker, b".")
        self._thread.join()
        os.close(self._wake)
        os.close(self._waker)

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            now = self.now()
            for motor in self.motors.values():
                motor.advance(now)
            yield

    def _want(self, *, plugged: bool) -> None:
        """Have the thread plug or unplug, for it alone uses the descriptors, and wait until it has."""
        with self._changed:
            self._wanted = plugged
            os.write(self._waker, b".")
            self._changed.wait_for(lambda: (self._master >= 0) is plugged or not self._thread.is_alive(), timeout=10.0)

    def _serve(self) -> None:
        buffer = bytearray()
        while not self._quit:
            ready, _, _ = select.select([self._wake, *([self._master] if self._master >= 0 else [])], [], [], _POLL_S)
            if self._wake in ready:
                os.read(self._wake, 64)
            with self._locked():
                if self._wanted != (self._master >= 0):
                    buffer.clear()
                    self._connect() if self._wanted else self._disconnect()
                elif self._master in ready:
                    with contextlib.suppress(BlockingIOError):
                        buffer += os.read(self._master, 4096)
                    while (packet := packets.take(buffer)) is not None:
                        self._handle(packet)
        self._disconnect()

    def _connect(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        spare = self.link.with_name(self.link.name + ".new")
        spare.unlink(missing_ok=True)
        spare.symlink_to(os.ttyname(self._slave))
        os.replace(spare, self.link)
        self._changed.notify_all()

    def _disconnect(self) -> None:
        self.link.unlink(missing_ok=True)
        for descriptor in (self._master, self._slave):
            if descriptor >= 0:
                os.close(descriptor)
        with self._changed:
            self._master = self._slave = -1
            self._changed.notify_all()

    def _handle(self, packet: Packet) -> None:
        now = self.heard = self.now()
        if not self._powered:
            return
        for motor in self.motors.values():
            motor.hear(now)
        if packet.instruction == packets.SYNC_READ:
            at, size = (int.from_bytes(packet.parameters[i : i + 2], "little") for i in (0, 2))
            for ident in packet.parameters[4:]:
                if ident in self.motors:
                    self._answer(ident, 0, self.motors[ident].read(at, size))
        elif packet.instruction == packets.SYNC_WRITE:
            self._sync_write(now, packet.parameters)
        elif packet.ident in self.motors:
            self._answer(packet.ident, *self._single(packet, self.motors[packet.ident]))

    def _single(self, packet: Packet, motor: Motor) -> tuple[int, bytes]:
        """Error number and parameters with which a servo answers an instruction of its own."""
        given = packet.parameters
        at = int.from_bytes(given[:2], "little")
        if packet.instruction == packets.PING:
            return 0, motor.read(reg.MODEL_NUMBER.address, 2) + motor.read(reg.FIRMWARE.address, 1)
        if packet.instruction == packets.READ:
            return 0, motor.read(at, int.from_bytes(given[2:4], "little"))
        if packet.instruction == packets.WRITE:
            return motor.write(at, given[2:]), b""
        if packet.instruction == packets.REBOOT:
            motor.boot()
            return 0, b""
        return 2, b""  # instruction error

    def _sync_write(self, now: float, given: bytes) -> None:
        at, size = (int.from_bytes(given[i : i + 2], "little") for i in (0, 2))
        goals = {}
        for start in range(4, len(given) - size, size + 1):
            motor, data = self.motors.get(given[start]), given[start + 1 : start + 1 + size]
            if motor is not None and motor.write(at, data) == 0 and at == reg.GOAL_POSITION.address:
                goals[motor.ident] = reg.GOAL_POSITION.decode(data, at)
        if goals:
            self.goals.append((now, goals))

    def _answer(self, ident: int, error: int, parameters: bytes) -> None:
        faults = self._faults
        self._count += 1
        if ident in faults.silent or (faults.drop and self._count % faults.drop == 0):
            return
        alert = reg.ALERT if self.motors[ident].get(reg.HARDWARE_ERROR) else 0
        raw = bytearray(packets.status(ident, error | alert, parameters))
        if faults.corrupt and self._count % faults.corrupt == 0:
            raw[-1] ^= 0x5A
        if faults.delay_s:
            time.sleep(faults.delay_s)
        with contextlib.suppress(BlockingIOError):  # nobody reads: the bytes are lost, as on a wire
            os.write(self._master, bytes(raw) + b"\xff" * faults.babble)


def main(arguments: list[str] | None = None) -> int:
    """Serve an emulated arm until interrupted."""
    parser = argparse.ArgumentParser(description="Emulated arm of six servos and a gripper on a pseudo terminal.")
    parser.add_argument("link", type=Path, help="where the port shall appear")
    parser.add_argument("--ids", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 7], help="ids on the bus")
    options = parser.parse_args(arguments)
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with Emulator(options.link, dict.fromkeys(options.ids, reg.TICKS // 2)):
        sys.stdout.write(f"emulated servos {options.ids} at {options.link}; end with Ctrl+C\n")
        sys.stdout.flush()
        done.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
