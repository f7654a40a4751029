"""What every robot driver must do, as a test class that driver authors inherit.

    from robolearn.hal.contract import RobotContract

    class TestMyArm(RobotContract):
        def make_robot(self):
            return my_arm.build(my_arm.Config())

pytest collects the inherited tests. Nothing here imports pytest.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from robolearn.core.errors import RobotStoppedError, SpecError, StaleEpochError
from robolearn.core.protocols import Robot
from robolearn.core.spec import Array, validate_all
from robolearn.core.types import Command
from robolearn.hal import geometry

_STEPS = 5


class ContractError(AssertionError):
    """A driver breaks the contract."""


def expect(condition: bool, message: str) -> None:
    """Raise ContractError unless the condition holds."""
    if not condition:
        raise ContractError(message)


def expect_raises(error: type[Exception], call: Callable[[], object], what: str) -> None:
    """Raise ContractError unless ``call`` raises ``error``."""
    try:
        call()
    except error:
        return
    raise ContractError(f"{what}: expected {error.__name__}, nothing was raised")


class RobotContract:
    """The contract. Override ``make_robot`` and, where they do not fit, the rest.

    Attributes:
        deterministic: two robots given the same calls show the same observations, bit for bit.
        independent: several robots can exist at once (simulators, fakes).
        start: (7,) pose within reach for ``reset``; position [m], quaternion (w, x, y, z), base frame.
        scene: bodies for ``reset``.
        position_tolerance: how well ``reset`` reaches a position [m].
        rotation_tolerance: how well it reaches an orientation [rad].
        stopped_from_threads: ``stop`` may be called while another thread is in ``apply``.
        rest_s: how long the robot may take to come to rest once commands cease or it is stopped [s].
        rest_tolerance: how far the TCP may wander in a control period and count as at rest [m].
        patience_s: how much longer than two control periods a single ``apply`` may take on a busy machine [s].
    """

    deterministic: bool = False
    independent: bool = True
    start: tuple[float, ...] = (0.45, 0.05, 0.3, 0.0, 1.0, 0.0, 0.0)
    scene: Mapping[str, Array] = {}
    position_tolerance: float = 1e-3
    rotation_tolerance: float = 1e-2
    stopped_from_threads: bool = True
    rest_s: float = 3.0
    rest_tolerance: float = 5e-4
    patience_s: float = 2.0

    def make_robot(self) -> Robot:
        """A new robot, ready to move."""
        raise NotImplementedError("override make_robot")

    @contextmanager
    def ready(self) -> Iterator[Robot]:
        """A robot at the start pose; closed afterwards."""
        robot = self.make_robot()
        try:
            robot.reset(np.array(self.start), self.scene)
            yield robot
        finally:
            robot.close()

    def still(self, robot: Robot) -> Array:
        """Zero motion with an open or closed gripper, within the bounds."""
        return robot.spec.action.clip(np.zeros(robot.spec.action.shape))

    def actions(self, robot: Robot, count: int) -> list[Array]:
        """Small reproducible actions around zero motion, within the bounds."""
        rng, spec = np.random.default_rng(0), robot.spec.action
        low, high = np.broadcast_to(spec.low, spec.shape), np.broadcast_to(spec.high, spec.shape)
        return [spec.clip(0.2 * rng.uniform(low, high)) for _ in range(count)]

    def motion(self) -> float | None:
        """How fast the robot moves, seen from outside (any unit, 0 at rest); None where nobody else can tell.

        A simulated counterpart of the hardware can: it still sees the arm when the driver is closed.
        """
        return None

    def comes_to_rest(self, look: Callable[[], Array], wait_s: float) -> bool:
        """Whether what ``look`` returns settles within ``rest_s``: to ``rest_tolerance`` from one look to the next."""
        end, before = time.monotonic() + self.rest_s, look()
        while time.monotonic() < end:
            time.sleep(wait_s)
            after = look()
            if float(np.abs(after - before).max()) <= self.rest_tolerance:
                return True
            before = after
        return False

    def test_is_a_robot(self) -> None:
        """It has every method of the protocol."""
        with self.ready() as robot:
            expect(isinstance(robot, Robot), f"{type(robot).__name__} lacks a method of the Robot protocol")
            expect(robot.spec.control_hz > 0, "control_hz must be above 0")

    def test_spec_is_consistent(self) -> None:
        """Keys name their specs, and the action has finite bounds that allow zero motion."""
        with self.ready() as robot:
            for key, spec in robot.spec.observation.items():
                expect(key == spec.name, f"observation key '{key}' holds the spec of '{spec.name}'")
            bounds = np.array([robot.spec.action.low, robot.spec.action.high], dtype=object)
            flat = np.concatenate([np.atleast_1d(np.asarray(b, dtype=np.float64)) for b in bounds])
            expect(bool(np.isfinite(flat).all()), "action bounds must be finite")

    def test_observation_fits_the_spec(self) -> None:
        """Every observation has exactly the keys, shapes, types and bounds of the spec."""
        with self.ready() as robot:
            for action in self.actions(robot, _STEPS):
                validate_all(robot.spec.observation, robot.observe())
                robot.apply(Command(action, 1))
            validate_all(robot.spec.observation, robot.observe())

    def test_observations_are_the_callers(self) -> None:
        """An observation does not change when the robot goes on, nor the robot when its observation is changed."""
        with self.ready() as robot:
            first = robot.observe()
            kept = {key: value.copy() for key, value in first.items()}
            for action in self.actions(robot, _STEPS):
                robot.apply(Command(action, 1))
            for key, value in first.items():
                expect(np.array_equal(value, kept[key]), f"'{key}' of an earlier observation changed")
            second = robot.observe()
            kept = {key: value.copy() for key, value in second.items()}
            for value in second.values():
                value[...] = 0
            third = robot.observe()
            validate_all(robot.spec.observation, third)
            if self.deterministic:
                for key, value in third.items():
                    expect(np.array_equal(value, kept[key]), f"writing to '{key}' of an observation changed the robot")

    def test_what_was_sent_is_within_bounds(self) -> None:
        """``apply`` returns what was really sent: finite, within the bounds, not the caller's array."""
        with self.ready() as robot:
            for action in self.actions(robot, _STEPS):
                before = action.copy()
                sent = robot.apply(Command(action, 1))
                robot.spec.action.validate(sent)
                sent[...] = 0
                expect(np.array_equal(action, before), "apply changed the caller's action")

    def test_bad_actions_are_refused(self) -> None:
        """A driver refuses NaN, infinities, another shape and values out of bounds, and does not move."""
        with self.ready() as robot:
            good = self.still(robot)
            before = robot.observe()["tcp_pose"] if "tcp_pose" in robot.spec.observation else None
            high = np.broadcast_to(np.asarray(robot.spec.action.high), good.shape)
            bad = {
                "NaN": np.full_like(good, np.nan),
                "infinity": np.full_like(good, np.inf),
                "a shape too long": np.append(good, good[:1]),
                "out of bounds": (high + 1.0).astype(good.dtype),
            }
            for what, action in bad.items():
                expect_raises(SpecError, lambda action=action: robot.apply(Command(action, 1)), what)  # type: ignore[misc]
            if before is not None:
                moved = float(np.abs(robot.observe()["tcp_pose"] - before).max())
                noise = 0.0 if self.deterministic else self.rest_tolerance
                expect(moved <= noise, f"a refused action moved the robot by {moved:g}")
            robot.apply(Command(good, 1))

    def test_an_older_epoch_is_refused(self) -> None:
        """A newer epoch takes the robot; the older one never gets it back."""
        with self.ready() as robot:
            still = self.still(robot)
            robot.apply(Command(still, 5))
            expect_raises(StaleEpochError, lambda: robot.apply(Command(still, 4)), "epoch 4 after 5")
            robot.apply(Command(still, 5))
            robot.apply(Command(still, 7))
            expect_raises(StaleEpochError, lambda: robot.apply(Command(still, 5)), "epoch 5 after 7")

    def test_the_epoch_outlives_a_reset_and_a_stop(self) -> None:
        """Neither an episode's start nor a cleared stop lets an older holder back in."""
        with self.ready() as robot:
            still = self.still(robot)
            robot.apply(Command(still, 5))
            robot.reset(np.array(self.start), self.scene)
            expect_raises(StaleEpochError, lambda: robot.apply(Command(still, 4)), "epoch 4 after a reset")
            robot.stop("contract")
            robot.clear()
            expect_raises(StaleEpochError, lambda: robot.apply(Command(still, 4)), "epoch 4 after a stop")

    def test_a_lease_is_taken_before_anything_moves(self) -> None:
        """``take`` fences resets too: an older lease cannot be taken, and what is taken refuses older commands."""
        with self.ready() as robot:
            robot.take(5)
            expect_raises(StaleEpochError, lambda: robot.take(4), "taking epoch 4 after 5")
            expect_raises(StaleEpochError, lambda: robot.apply(Command(self.still(robot), 4)), "epoch 4 after 5")
            robot.take(5)
            robot.apply(Command(self.still(robot), 5))

    def test_a_stop_latches(self) -> None:
        """After a stop nothing moves until it is cleared; stopping and clearing twice is harmless."""
        with self.ready() as robot:
            still = self.still(robot)
            robot.stop("contract")
            robot.stop("contract, again")
            expect_raises(RobotStoppedError, lambda: robot.apply(Command(still, 1)), "apply after a stop")
            expect_raises(RobotStoppedError, lambda: robot.apply(Command(still, 9)), "a new epoch after a stop")
            expect_raises(RobotStoppedError, lambda: robot.reset(np.array(self.start), self.scene), "reset, stopped")
            validate_all(robot.spec.observation, robot.observe())
            robot.clear()
            robot.clear()
            robot.apply(Command(still, 9))

    def test_a_stop_from_another_thread_ends_apply(self) -> None:
        """A stop that comes while commands are being applied ends them, soon, and latches."""
        if not self.stopped_from_threads:
            return
        with self.ready() as robot:
            ended, begun = threading.Event(), threading.Event()

            def drive() -> None:
                still = self.still(robot)
                try:
                    while True:
                        robot.apply(Command(still, 1))
                        begun.set()
                except RobotStoppedError:
                    ended.set()

            thread = threading.Thread(target=drive, daemon=True)
            thread.start()
            limit = 2 / robot.spec.control_hz + self.patience_s
            expect(begun.wait(limit), f"apply did not return within {limit:.2f} s")
            robot.stop("contract")
            expect(ended.wait(limit), f"apply went on for {limit:.2f} s after a stop, or did not raise")
            thread.join()
            validate_all(robot.spec.observation, robot.observe())

    def test_apply_returns_in_time(self) -> None:
        """Two control periods are enough for a command: a driver never waits for hardware without a limit."""
        with self.ready() as robot:
            took = []
            for action in self.actions(robot, _STEPS):
                start = time.monotonic()
                robot.apply(Command(action, 1))
                took.append(time.monotonic() - start)
            limit = 2 / robot.spec.control_hz
            expect(statistics.median(took) <= limit, f"apply takes {statistics.median(took):.3f} s > {limit:.3f} s")
            expect(max(took) <= limit + self.patience_s, f"an apply took {max(took):.3f} s")

    def test_silence_stops(self) -> None:
        """When commands cease the robot comes to rest by itself, without a stop, and takes the next command."""
        with self.ready() as robot:
            if "tcp_pose" not in robot.spec.observation:
                return
            for action in self.actions(robot, _STEPS):
                robot.apply(Command(action, 1))
            rest = self.comes_to_rest(lambda: robot.observe()["tcp_pose"][:3], 1 / robot.spec.control_hz)
            expect(rest, f"the robot still moves {self.rest_s:g} s after the last command")
            robot.apply(Command(self.still(robot), 1))

    def test_a_stop_ends_motion(self) -> None:
        """A stop amid motion brings the robot to rest, and it can still be observed."""
        with self.ready() as robot:
            if "tcp_pose" not in robot.spec.observation:
                return
            for action in self.actions(robot, _STEPS):
                robot.apply(Command(action, 1))
            robot.stop("contract")
            rest = self.comes_to_rest(lambda: robot.observe()["tcp_pose"][:3], 1 / robot.spec.control_hz)
            expect(rest, f"the robot still moves {self.rest_s:g} s after a stop")

    def test_close_amid_motion_stops(self) -> None:
        """Closing a moving robot leaves it at rest; where somebody else can tell (``motion``)."""
        with self.ready() as robot:
            for action in self.actions(robot, _STEPS):
                robot.apply(Command(action, 1))
            robot.close()
            end = time.monotonic() + self.rest_s
            while (speed := self.motion()) is not None and speed > self.rest_tolerance:
                expect(time.monotonic() < end, f"the robot still moves {self.rest_s:g} s after close (speed {speed:g})")
                time.sleep(0.02)

    def test_reset_reaches_the_pose(self) -> None:
        """After ``reset`` the TCP is where it was asked to be, also after having been elsewhere."""
        with self.ready() as robot:
            if "tcp_pose" not in robot.spec.observation:
                return
            for action in self.actions(robot, _STEPS):
                robot.apply(Command(action, 1))
            wanted = np.array(self.start)
            robot.reset(wanted, self.scene)
            pose = robot.observe()["tcp_pose"]
            off = float(np.linalg.norm(pose[:3] - wanted[:3]))
            expect(off <= self.position_tolerance, f"reset ended {1e3 * off:.2f} mm off")
            turn = geometry.to_matrix(wanted[3:]).T @ geometry.to_matrix(pose[3:])
            angle = float(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
            expect(angle <= self.rotation_tolerance, f"reset ended {angle:.4f} rad off")

    def test_close_is_idempotent(self) -> None:
        """Closing twice is harmless."""
        with self.ready() as robot:
            robot.close()

    def test_two_robots_are_independent(self) -> None:
        """What one robot does, another does not see."""
        if not self.independent:
            return
        with self.ready() as one, self.ready() as other:
            before = other.observe()
            for action in self.actions(one, _STEPS):
                one.apply(Command(action, 9))
            one.stop("contract")
            after = other.observe()
            for key, value in before.items():
                expect(np.array_equal(value, after[key]), f"'{key}' changed when another robot moved")
            other.apply(Command(self.still(other), 1))

    def test_determinism(self) -> None:
        """Same calls, same observations, bit for bit; where declared. A second episode equals the first."""
        if not self.deterministic:
            return
        with self.ready() as one, self.ready() as other:
            first = [self._replay(one), self._replay(other)]
            one.reset(np.array(self.start), self.scene)
            first.append(self._replay(one))
            for again in first[1:]:
                for step, (a, b) in enumerate(zip(first[0], again, strict=True)):
                    for key, value in a.items():
                        expect(np.array_equal(value, b[key]), f"'{key}' differs at step {step}")

    def _replay(self, robot: Robot) -> list[dict[str, Array]]:
        seen = [robot.observe()]
        for action in self.actions(robot, _STEPS):
            robot.apply(Command(action, 1))
            seen.append(robot.observe())
        return seen
