"""The thread that talks to the servos: reads, supervises, sends the next goals; many times per policy step."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import numpy as np

from robolearn.core.clock import Clock
from robolearn.core.errors import RobotStoppedError
from robolearn.core.spec import Array
from robolearn.hal.servo.bus import BusError
from robolearn.hal.servo.config import Config
from robolearn.hal.servo.follower import Follower
from robolearn.hal.servo.joints import Joints, Reading, ServoFaultError

_REST_S = 3.0
"""How long braking may take at most."""
_REST_SPEED = 0.05
"""Speed that still counts as rest [rad/s]; the servos' unit is 0.024 rad/s."""
_STRAINED = 5
"""Readings in a row with too much torque that stop the robot."""


class Loop:
    """Keeps the servos company. Every method may be called from any thread.

    When commands cease the reference brakes and holds. When something is wrong the stop latches: the reference brakes
    as long as servos listen, and where they cannot be reached their own bus watchdog stops them.

    Attributes:
        overruns: cycles that began a period or more late.
    """

    def __init__(self, config: Config, joints: Joints, follower: Follower, torque: Array, clock: Clock) -> None:
        """``torque`` (n,): largest effort [N m] of each servo, infinite for none."""
        self._config, self._joints, self._follower, self._clock = config, joints, follower, clock
        self._torque, self._strained = torque, 0
        self._state = threading.Condition()
        self._bus = threading.Lock()
        self._stopped = ""
        self._unfit = False  # servos have to be set up anew before the stop can be cleared
        self._deaf = False  # nothing can be read or sent
        self._reading: Reading | None = None
        self._stamp_ns = self._fresh_until_ns = 0
        self._quit = False
        self.overruns = 0
        self._thread = threading.Thread(target=self._run, name="servo-arm", daemon=True)

    def start(self) -> None:
        """Connect and hold. Servos with hardware errors leave the robot stopped, for a person to clear.

        Raises:
            BusError: the port cannot be opened, or a servo does not answer.
        """
        try:
            self._joints.connect()
            self._begin(self._joints.arm())
        except ServoFaultError as error:
            self._fail(str(error), deaf=True)
        except BaseException:
            self._joints.disconnect()
            raise
        self._thread.start()

    @property
    def repeats(self) -> int:
        """Bus transactions that had to be repeated."""
        return self._joints.repeats

    @property
    def stopped(self) -> str:
        """Why a stop is latched; empty while there is none."""
        with self._state:
            return self._stopped

    def refuse_if_stopped(self) -> None:
        """Raise RobotStoppedError while a stop is latched."""
        if self.stopped:
            raise RobotStoppedError(f"the robot is stopped ({self.stopped}); a person has to clear it")

    def latest(self) -> Reading:
        """The newest reading; when there is none that still counts, a stop latches and RobotStoppedError is raised."""
        with self._state:
            age = 1e-9 * (self._clock.now_ns() - self._stamp_ns)
            if self._reading is None or age > self._config.feedback_s:
                self._fail(f"the servos have not answered for {age:.2f} s", deaf=False)
                raise RobotStoppedError(f"the robot cannot be observed ({self._stopped}); a person has to clear it")
            return self._reading

    @property
    def arrived(self) -> bool:
        """The reference stands still where it was told to go."""
        with self._state:
            return self._follower.at_rest

    def aim(self) -> Array:
        """(n,) where the reference is going to be."""
        with self._state:
            return self._follower.aim

    def go(self, aim: Array, duration_s: float, valid_s: float) -> None:
        """Go to ``aim`` (n,) within ``duration_s``; hold unless more follows within ``valid_s``.

        Raises:
            RobotStoppedError: a stop is latched.
        """
        with self._state:
            self.refuse_if_stopped()
            self._follower.go(aim, duration_s)
            self._fresh_until_ns = self._clock.now_ns() + int(1e9 * valid_s)

    def wait_until(self, deadline_ns: int) -> None:
        """Return at a time; RobotStoppedError as soon as a stop is latched before."""
        with self._state:
            while not self._stopped and (left := deadline_ns - self._clock.now_ns()) > 0:
                self._state.wait(1e-9 * left)
            self.refuse_if_stopped()

    def stop(self, reason: str) -> None:
        """Latch a stop and brake; idempotent, the first reason stays."""
        with self._state:
            self._stopped = self._stopped or reason or "stopped"
            self._follower.brake()
            self._state.notify_all()

    def clear(self) -> None:
        """Clear a stop, on behalf of a person; servos with hardware errors restart and are limp for a moment.

        Raises:
            RobotStoppedError: the arm still moves, or what stopped it is still there.
        """
        if not self.stopped:
            return
        if self._quit:
            raise RobotStoppedError("not cleared: the robot is closed")
        if not self._at_rest():
            raise RobotStoppedError("not cleared: the arm is still moving")
        with self._bus:
            if self._unfit:
                try:
                    self._begin(self._joints.revive())
                except (BusError, ServoFaultError) as error:
                    raise RobotStoppedError(f"not cleared: {error}") from error
            with self._state:
                self._stopped, self._unfit, self._deaf, self._strained = "", False, False, 0

    def close(self) -> None:
        """Brake, hold, and let go of the port; idempotent."""
        self.stop("the robot is closed")
        if self._quit:
            return
        self._at_rest()
        self._quit = True
        if self._thread.ident is not None:
            self._thread.join()
        with self._bus:
            self._joints.disconnect()

    def _at_rest(self) -> bool:
        """Wait for the reference and the arm to come to rest; False when they do not. A deaf arm is not waited for."""
        end = self._clock.now_ns() + int(1e9 * _REST_S)
        with self._state:
            while not (rest := self._deaf or self._standing()) and self._clock.now_ns() < end:
                self._state.wait(1 / self._config.loop_hz)
            return rest

    def _standing(self) -> bool:
        reading = self._reading
        slow = reading is not None and float(np.abs(reading.velocity).max()) <= _REST_SPEED
        return slow and self._follower.at_rest

    def _run(self) -> None:
        with suppress(OSError, AttributeError):  # where it is permitted, this thread goes before those that learn
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        period = int(1e9 / self._config.loop_hz)
        deadline = self._clock.now_ns()
        while not self._quit:
            with self._bus:
                if not self._deaf:
                    try:
                        self._cycle()
                    except Exception as error:  # noqa: BLE001 (whatever it is, the arm must not go on unsupervised)
                        self._fail(f"{type(error).__name__}: {error}", deaf=True)
            deadline += period
            if self._clock.now_ns() - deadline > period:
                self.overruns += 1
                deadline = self._clock.now_ns()
            self._clock.sleep_until_ns(deadline)

    def _cycle(self) -> None:
        """Read, supervise, send."""
        try:
            self._take(self._joints.read())
        except BusError as error:
            self._lost(error)
        with self._state:
            if self._deaf or self._reading is None:
                return
            if self._clock.now_ns() > self._fresh_until_ns:
                self._follower.brake()
            position = self._follower.step(self._reading.position)
            self._state.notify_all()
        try:
            self._joints.command(position)
        except BusError as error:
            self._lost(error)

    def _begin(self, reading: Reading) -> None:
        """Hold where the arm is."""
        with self._state:
            self._reading, self._stamp_ns = reading, self._clock.now_ns()
            self._follower.seed(reading.position)

    def _take(self, reading: Reading) -> None:
        with self._state:
            self._reading, self._stamp_ns = reading, self._clock.now_ns()
        if reading.fault:
            self._fail(reading.fault, deaf=False)
        self._strained = self._strained + 1 if (np.abs(reading.effort) > self._torque).any() else 0
        if self._strained >= _STRAINED:
            self.stop(f"joint torque {np.abs(reading.effort).max():.1f} N m is above what the arm may exert")

    def _lost(self, error: BusError) -> None:
        """A cycle without an answer: fail when the port is gone or the last reading is too old."""
        age = 1e-9 * (self._clock.now_ns() - self._stamp_ns)
        if error.__cause__ is not None or age > self._config.feedback_s:
            self._fail(str(error), deaf=True)

    def _fail(self, reason: str, *, deaf: bool) -> None:
        """Stop; the servos have to be set up anew before anything moves. Deaf servos are left to their watchdog."""
        self.stop(reason)
        with self._state:
            self._unfit, self._deaf = True, self._deaf or deaf
            self._state.notify_all()
