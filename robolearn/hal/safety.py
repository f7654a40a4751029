"""SafeRobot: the only thing that reaches a robot.

A software stop is no safety-rated emergency stop: this layer reduces risk, the hardware safety chain protects people.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from robolearn.core.errors import ConfigError, RobotStoppedError, SpecError, StaleEpochError
from robolearn.core.protocols import Robot
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.types import Command, RobotSpec
from robolearn.hal.guard import SAME, ActionGuard, BoundsGuard, check_placement, check_start, check_unit, parse_action
from robolearn.hal.limits import BoundsOnly, CartesianDelta, SafetyLimits

__all__ = ["BoundsOnly", "CartesianDelta", "SafeRobot", "SafetyLimits"]

OnEvent = Callable[[str, Mapping[str, Any]], None]

_CARTESIAN_DELTA = CartesianDelta()


class SafeRobot:
    """A robot under limits: checks, alters, counts, and fails closed.

    An action passes: shape and finiteness (else the robot holds), the robot's own bounds, the per-step bound, tilt, the
    workspace box, the driver. Whatever goes wrong in the driver stops the robot and latches.

    Attributes:
        counts: how often each thing happened: ``applied``, ``rejected``, ``clipped``, ``step``, ``tilt``,
            ``workspace``, ``driver`` (the driver sent something else), ``force``, ``bad_observation``, ``stopped``.
        last_altered: the last action was changed by this layer.
        last_rejected: the last action was refused and the robot held still instead.
    """

    def __init__(
        self,
        robot: Robot,
        limits: SafetyLimits | BoundsOnly,
        *,
        epoch: int,
        on_event: OnEvent | None = None,
        layout: CartesianDelta = _CARTESIAN_DELTA,
    ) -> None:
        """Take a robot under guard.

        Args:
            epoch: epoch of the lease; goes with every command.
            on_event: told what happened: stops, rejections and, once an episode for each, every other alteration.
            layout: of action and observation; of no meaning where the limits are ``BoundsOnly``.

        Raises:
            ConfigError: the robot does not fit the layout, or ``BoundsOnly`` is all there is for a robot that is not
                harmless.
        """
        self.spec: RobotSpec = robot.spec
        self.limits, self.epoch = limits, epoch
        self.layout: CartesianDelta | None = None
        self._guard: ActionGuard | BoundsGuard
        if isinstance(limits, SafetyLimits):
            layout.check(robot.spec)
            self.layout, self._guard = layout, ActionGuard(robot.spec.action, limits, layout)
        elif getattr(robot, "harmless", False) is True:
            self._guard = BoundsGuard(robot.spec.action)
        else:
            raise ConfigError(f"{robot.spec.name} can do harm: it needs SafetyLimits, bounds on its action are too few")
        self.counts: Counter[str] = Counter()
        self.last_altered = self.last_rejected = False
        self._robot, self._on_event = robot, on_event
        self._numbers = [name for name, spec in self.spec.observation.items() if np.dtype(spec.dtype).kind == "f"]
        self._executed = ArraySpec(f"{self.spec.name} executed", robot.spec.action.shape, "float64")
        self._pose: Array | None = None
        self._grip: float | None = None
        self._stopped = ""
        self._fenced = False
        self._told: set[str] = set()

    @property
    def places_bodies(self) -> bool:
        """The robot's world can be rearranged by ``reset``; false for real arms."""
        return bool(getattr(self._robot, "places_bodies", True))

    def timing(self) -> dict[str, float]:
        """What the driver measures of its own timing [ms]; empty where it measures nothing."""
        measure = getattr(self._robot, "timing", None)
        return dict(measure()) if measure is not None else {}

    @property
    def stopped(self) -> str:
        """Why a stop is latched; empty while there is none."""
        return self._stopped

    def observe(self) -> dict[str, Array]:
        """The robot's observation. A contact force above the limit stops and latches; the observation is returned.

        Raises:
            SpecError: a key is missing, misshapen or not finite; the robot is stopped.
        """
        try:
            raw = self._robot.observe()
            self._check_observation(raw)
        except BaseException as error:
            if isinstance(error, SpecError):
                self._note("bad_observation", problem=str(error))
            self._fail(error)
            raise
        if self.layout is None or isinstance(self.limits, BoundsOnly):
            self._pose = np.zeros(0)  # seen; there is nothing to guard
            return raw
        self._pose = np.array(raw[self.layout.pose], dtype=np.float64)
        if self._grip is None and "gripper" in raw:
            self._grip = float(raw["gripper"][0])
        force = self._force(raw, self.layout)
        if self.limits.force is not None and force > self.limits.force and not self._stopped:
            self._note("force", force_n=force)
            self.stop(f"contact force {force:.1f} N is above the limit of {self.limits.force:g} N")
        return raw

    def apply(self, action: object) -> Array:
        """Execute one action for one control period; return (A,) what was really sent.

        Args:
            action: (A,) in the robot's units. Anything else (another shape, not finite, not numbers) is rejected: zero
                motion is sent with the gripper as it was.

        Raises:
            RobotStoppedError: a stop is latched.
            StaleEpochError: somebody else holds the robot now; nothing more is sent through this object.
        """
        self._refuse_if_stopped()
        if self._pose is None:
            self.observe()
            self._refuse_if_stopped()
        self.last_altered = self.last_rejected = False
        wanted = self._accept(action)
        safe = self._hold() if wanted is None else self._limit(wanted)
        try:
            self._refuse_if_stopped()
            executed = self._robot.apply(Command(safe.astype(self.spec.action.dtype), self.epoch))
            self._executed.validate(executed)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._pose = None
        self.counts["applied"] += 1
        if np.abs(executed - safe).max() > SAME:
            self._note("driver", sent=executed.tolist(), asked=safe.tolist())
        if self.layout is not None and self.layout.gripper is not None:
            self._grip = float(executed[self.layout.gripper])
        return executed

    def take(self, epoch: int) -> None:
        """Go on under another lease of the same robot; raises StaleEpochError for an older one."""
        self._robot.take(epoch)
        self.epoch = epoch

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        """Bring the robot to the start of an episode, within the limits.

        Args:
            tcp_pose: (7,) position [m] and unit quaternion (w, x, y, z) in the base frame.
            scene: body name -> (7,) pose, screw name -> (1,) angle [rad]; see ``Robot.reset``. What a harmless robot
                takes is its own business.

        Raises:
            SpecError: a pose is not (7,) finite numbers with a unit quaternion, or an angle not (1,).
            ConfigError: the pose is outside the workspace or tilted too far.
            RobotStoppedError: a stop is latched.
        """
        self._refuse_if_stopped()
        if isinstance(self.limits, SafetyLimits):
            tcp_pose = check_start(tcp_pose, self.limits)
            scene = {name: check_placement(name, value) for name, value in scene.items()}
        self._pose, self._grip = None, None
        self._told.clear()
        try:
            self._robot.take(self.epoch)
            self._robot.reset(tcp_pose, scene)
        except ConfigError:
            raise  # refused before anything moved
        except BaseException as error:
            self._fail(error)
            raise

    def stop(self, reason: str) -> None:
        """Stop now and latch; idempotent, the first reason stays. Every call reaches the robot while it is ours."""
        first, self._stopped = not self._stopped, self._stopped or reason or "stopped"
        try:
            if not self._fenced:
                self._robot.stop(reason)
        finally:
            if first:
                self.counts["stopped"] += 1
                self._tell("stop", reason=self._stopped)

    def clear(self, person: str = "") -> None:
        """Clear a latched stop on behalf of a person.

        Args:
            person: who decided it; must be named.

        Raises:
            ConfigError: nobody is named.
            StaleEpochError: somebody else holds the robot now.
        """
        if not person.strip():
            raise ConfigError("only a person clears a stop: say who, for example clear('Ada')")
        if self._fenced:
            raise StaleEpochError(f"cannot clear: {self._stopped}")
        self._robot.clear()
        reason, self._stopped, self._pose = self._stopped, "", None
        self._tell("clear", person=person, reason=reason)

    def close(self) -> None:
        """Release the hardware; idempotent."""
        self._robot.close()

    def _accept(self, action: object) -> Array | None:
        """The action as float64 (A,), or None when it is rejected."""
        wanted = parse_action(action, self.spec.action.shape)
        if not isinstance(wanted, str):
            return wanted
        self.last_altered = self.last_rejected = True
        self._note("rejected", problem=wanted)
        return None

    def _hold(self) -> Array:
        """Zero motion, gripper as last commanded (or as it is)."""
        action = np.zeros(self.spec.action.shape)
        if self.layout is not None and self.layout.gripper is not None:
            action[self.layout.gripper] = self._grip or 0.0
        return np.clip(action, self._guard.low, self._guard.high)

    def _limit(self, wanted: Array) -> Array:
        """The nearest action within all limits."""
        if self._pose is None:
            raise RobotStoppedError("the pose of the robot is unknown")
        action, changes = self._guard.limit(wanted, self._pose)
        for change in changes:
            self.last_altered = True
            self._note(change.kind, asked=change.asked.tolist(), allowed=change.allowed.tolist())
        return action

    def _check_observation(self, raw: Observation) -> None:
        if missing := sorted(self.spec.observation.keys() - raw.keys()):
            raise SpecError(f"{self.spec.name}: the observation lacks {missing}")
        for name, spec in self.spec.observation.items():
            if raw[name].shape != spec.shape:
                raise SpecError(f"{self.spec.name}: {name}: expected shape {spec.shape}, got {raw[name].shape}")
        if not np.isfinite(np.concatenate([raw[name].ravel() for name in self._numbers])).all():
            bad = {name: raw[name].tolist() for name in self._numbers if not np.isfinite(raw[name]).all()}
            raise SpecError(f"{self.spec.name}: expected finite numbers, got {bad}")
        if self.layout is not None:
            check_unit(self.layout.pose, raw[self.layout.pose])

    @staticmethod
    def _force(raw: Observation, layout: CartesianDelta) -> float:
        """Largest contact force the observation speaks of [N]."""
        force = 0.0
        if layout.wrench in raw:
            force = math.hypot(*raw[layout.wrench][:3].tolist())
        if layout.peak_force in raw:
            force = max(force, float(raw[layout.peak_force][0]))
        return force

    def _fail(self, error: BaseException) -> None:
        """Fail closed. A robot that somebody else holds now is left alone."""
        self._pose = None
        if isinstance(error, StaleEpochError):
            self._fenced = True
        self.stop(f"{type(error).__name__}: {error}")

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise RobotStoppedError(f"the robot is stopped ({self._stopped}); a person has to clear it")

    def _note(self, kind: str, **values: Any) -> None:
        self.counts[kind] += 1
        if kind not in self._told:
            self._told.add(kind)
            self._tell(kind, **values)

    def _tell(self, kind: str, **values: Any) -> None:
        if self._on_event is not None:
            self._on_event(kind, values)
