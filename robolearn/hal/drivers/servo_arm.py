"""A desktop arm of serial servos (Dynamixel X series, Protocol 2.0) through the maker's Python SDK.

A thread talks to the servos 50 times a second: it moves a jerk-limited joint reference, brakes when commands cease, and
latches a stop when a servo fails. Should this process fall silent, the servos' own bus watchdog stops them.

Neither ``wrench`` nor ``peak_force`` is shown: with geared servos the current says too little about contact. Hence a
force limit has no effect here; joint torques are bounded instead (``effort_share``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import ConfigError, StaleEpochError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Command, RobotSpec
from robolearn.hal import geometry
from robolearn.hal.chain import Chain
from robolearn.hal.host.fence import EpochFence
from robolearn.hal.motion import AxisLimits
from robolearn.hal.servo import registers as reg
from robolearn.hal.servo.bus import require_sdk
from robolearn.hal.servo.config import JOINTS, Config, of_instance, simulated
from robolearn.hal.servo.follower import Follower
from robolearn.hal.servo.joints import Joints
from robolearn.hal.servo.loop import Loop

if TYPE_CHECKING:
    from robolearn.hal.check import Finding

__all__ = ["Config", "ServoArm", "build", "check", "of_instance", "seen_epoch", "simulated"]

_GRIPPER_LIMITS = (3.0, 20.0, 600.0)
"""Largest velocity, acceleration and jerk of the gripper's servo [rad, s]."""
_SLACK = 0.05
"""See ``Follower`` [rad]."""
_EXACT = 1e-8
"""Tolerance of inverse kinematics [m, rad]: below what counts as having sent something else."""
_SAMPLES = 20
_SETTLE_S = 3.0
_PATIENCE = 3.0
"""``reset`` may take this many times as long as planned, and ``_SETTLE_S`` [s]: a busy machine delays the loop."""
_SETTLED = 0.03
"""Speed below which a joint stands still [rad/s]; the servos' unit is 0.024 rad/s."""


def build(config: Config, *, scene: object = None, cameras: tuple[str, ...] = (), realtime: bool = True) -> ServoArm:
    """Connect to an arm, which then holds where it is. It is always in real time, whatever ``realtime`` says.

    Raises:
        ConfigError: cameras are asked for, or the model does not fit.
        MissingDependencyError: the SDK is not installed.
        BusError: the port cannot be opened, or a servo does not answer.
    """
    if cameras:
        raise ConfigError(f"the servo arm has no cameras of its own, got {cameras}")
    require_sdk()
    return ServoArm(config, MonotonicClock())


def check(instance: str) -> list[Finding]:
    """Look an arm over without moving it: servos, firmware, errors, voltage, temperature, speed of the bus."""
    from robolearn.hal.servo.checking import findings

    return findings(of_instance(instance))


def seen_epoch(instance: str) -> int:
    """Highest lease epoch this arm has been driven with; 0 where no ``fence`` file keeps it."""
    fence = of_instance(instance).fence
    return max(0, EpochFence(Path(fence).expanduser()).epoch) if fence else 0


def _spec(config: Config, joints: int) -> RobotSpec:
    sizes = {
        "joint_position": (joints, "rad"),
        "joint_velocity": (joints, "rad/s"),
        "joint_effort": (joints, "N m; estimated from the motor current"),
        "tcp_pose": (7, "m, quaternion wxyz; base frame"),
        "tcp_twist": (6, "m/s, rad/s; base frame"),
        "tool_pose": (7, "m, quaternion wxyz; tip in the base frame"),
        "tool_twist": (6, "m/s, rad/s; tip, in tip axes"),
        "tool_reference": (4, "quaternion wxyz; commanded orientation in the base frame"),
        "action": (7, "last executed action, as sent"),
    }
    observation = {name: ArraySpec(name, (size,), "float64", unit) for name, (size, unit) in sizes.items()}
    observation["gripper"] = ArraySpec("gripper", (1,), "float64", "opening fraction", 0.0, 1.0)
    t, r = config.max_translation, config.max_rotation
    unit = "tip displacement m, m, m, rad, rad, rad in tip axes; gripper opening fraction"
    action = ArraySpec("action", (7,), "float64", unit, (-t, -t, -t, -r, -r, -r, 0.0), (t, t, t, r, r, r, 1.0))
    return RobotSpec("servo_arm", observation, action, config.control_hz)


class ServoArm:
    """See the module. An action's displacement turns and moves the commanded tip, which persists from step to step."""

    def __init__(self, config: Config, clock: Clock) -> None:
        """Connect and hold; raises as ``build`` does."""
        whole = Chain.load(config.model)
        if len(whole.joints) != JOINTS:
            raise ConfigError(f"servo arm: model '{config.model}' has {len(whole.joints)} joints, expected {JOINTS}")
        self.spec = _spec(config, JOINTS)
        self._config, self._clock = config, clock
        self._span = abs(config.gripper_open - config.gripper_closed) * reg.RAD_PER_TICK
        grip = config.gripper is not None
        scaled = whole.limits.scaled(config.share, config.share, config.share)
        joints = Joints(
            config,
            np.append(scaled.velocity, _GRIPPER_LIMITS[0])[: JOINTS + grip],
            np.append(scaled.acceleration, _GRIPPER_LIMITS[1])[: JOINTS + grip],
        )
        lowest, highest = (ends[:JOINTS] for ends in joints.reachable())
        limits = replace(
            scaled,
            lower=np.maximum(scaled.lower, lowest) + config.margin,
            upper=np.minimum(scaled.upper, highest) - config.margin,
        )
        self._chain = replace(whole, limits=limits)
        self._tip = self._chain.with_tip(config.tip)
        axes = _with_gripper(limits, self._span) if grip else limits
        slack = np.append(np.full(JOINTS, _SLACK), [math.inf] * grip)
        torque = np.append(config.effort_share * whole.torque, [math.inf] * grip)
        self._fence = EpochFence(Path(config.fence).expanduser() if config.fence else None)
        self._loop = Loop(config, joints, Follower(axes, 1 / config.loop_hz, slack), torque, clock)
        self._executed = np.zeros(7)
        self._deadline_ns: int | None = None
        self._loop.start()

    def timing(self) -> dict[str, float]:
        """Cycles of the loop that came a period late, and bus transactions that had to be repeated, so far."""
        return {"loop_overruns": float(self._loop.overruns), "bus_repeats": float(self._loop.repeats)}

    def observe(self) -> dict[str, Array]:
        """The newest observation, at most ``feedback_s`` old; see ``spec``.

        Raises:
            RobotStoppedError: there is none: the servos cannot be reached.
        """
        reading = self._loop.latest()
        q, velocity = reading.position[:JOINTS], reading.velocity[:JOINTS]
        tcp, jacobian = self._chain.pose_and_jacobian(q)
        tip, tip_jacobian = self._tip.pose_and_jacobian(q)
        twist = tip_jacobian @ velocity
        return {
            "joint_position": q.copy(),
            "joint_velocity": velocity.copy(),
            "joint_effort": reading.effort[:JOINTS].copy(),
            "tcp_pose": tcp,
            "tcp_twist": np.asarray(jacobian @ velocity),
            "tool_pose": tip,
            "tool_twist": (twist.reshape(2, 3) @ geometry.to_matrix(tip[3:])).ravel(),
            "tool_reference": self._tip.pose(self._loop.aim()[:JOINTS])[3:],
            "action": self._executed.copy(),
            "gripper": np.array([self._opening(reading.position)]),
        }

    def apply(self, command: Command) -> Array:
        """Execute one control period; return (7,) what was really sent.

        Where joints end, the arm cannot get or it lags too far behind, less is sent than was asked for.

        Raises:
            SpecError: the action is not finite or out of bounds.
            StaleEpochError: the command's epoch is older than one already seen.
            RobotStoppedError: a stop is latched, or comes meanwhile.
        """
        self.take(command.epoch)
        self._loop.refuse_if_stopped()
        action = np.array(self.spec.action.validate(command.action), dtype=np.float64)
        period = 1 / self.spec.control_hz
        start = self._loop.aim()
        aim, sent = self._plan(start, action, period)
        self._loop.go(aim, period, self._config.silence_s)
        self._executed = sent
        self._pace(int(1e9 * period))
        return sent.copy()

    def take(self, epoch: int) -> None:
        """Be driven under the lease of this epoch; raises StaleEpochError for an older one."""
        if not self._fence.admits(epoch):
            raise StaleEpochError(f"epoch {epoch} is too old: epoch {self._fence.epoch} holds the robot now")

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        """Travel to a pose, straight in joint space and slowly, and stand still there. The gripper stays as it is.

        Args:
            tcp_pose: (7,) pose of the TCP in the base frame.
            scene: empty; bodies cannot be placed in the real world.

        Raises:
            ConfigError: a scene is given, the pose is out of reach, or the way leads below ``floor``.
            RobotStoppedError: a stop is latched, comes on the way, or the arm does not arrive.
        """
        self._loop.refuse_if_stopped()
        if scene:
            raise ConfigError(f"reset: a real arm cannot place bodies, expected an empty scene, got {sorted(scene)}")
        pose = ArraySpec("tcp_pose", (7,), "float64").validate(tcp_pose)
        start = self._loop.aim()
        goal = self._solve(pose, start[:JOINTS])
        duration = self._travel_time(start[:JOINTS], goal)
        patience = _PATIENCE * duration + _SETTLE_S
        self._loop.go(np.append(goal, start[JOINTS:]), duration, patience)
        self._deadline_ns = None
        self._settle(pose, patience)
        self._executed = np.append(np.zeros(6), self._opening(start))

    def stop(self, reason: str) -> None:
        """Brake, hold and latch; idempotent, the first reason stays."""
        self._loop.stop(reason)

    def clear(self) -> None:
        """Clear a latched stop. Reconnects where the bus was lost, and restarts servos with hardware errors: these are
        limp for a moment, so support the arm.

        Raises:
            RobotStoppedError: the arm still moves, or what stopped it is still there.
        """
        self._loop.clear()

    def close(self) -> None:
        """Brake, let the servos hold, and free the port; idempotent."""
        self._loop.close()

    def _plan(self, start: Array, action: Array, period: float) -> tuple[Array, Array]:
        """Joint goal (n,) for an action from the joint goal ``start`` (n,), and the action that this really is."""
        here = self._tip.pose(start[:JOINTS])
        turn = geometry.to_matrix(here[3:])
        wanted = np.concatenate([here[:3] + turn @ action[:3], geometry.turn(here[3:], action[3:6])])
        aim, sent = start.copy(), np.zeros(7)
        if not self._leads_too_far(here, wanted):
            solved = self._tip.solve(
                wanted, start[:JOINTS], iterations=20, position_tolerance=_EXACT, rotation_tolerance=_EXACT
            )
            step = solved.q - start[:JOINTS]
            most = float((np.abs(step) / (self._chain.limits.velocity * period)).max())
            aim[:JOINTS] += step / max(1.0, most)
            there = self._tip.pose(aim[:JOINTS])
            error = geometry.pose_error(here, there)  # in base axes
            sent[:6] = (error.reshape(2, 3) @ turn).ravel()
        bounds = np.array([self.spec.action.low, self.spec.action.high])
        clipped = np.clip(sent, bounds[0], bounds[1])
        if np.abs(clipped - sent).max() > 1e-6:  # near a singularity the nearest solution may go elsewhere: hold
            aim, clipped = start.copy(), np.zeros(7)
        if self._config.gripper is not None:
            aim[JOINTS] = action[6] * self._span
            clipped[6] = action[6]
        return aim, clipped

    def _leads_too_far(self, here: Array, wanted: Array) -> bool:
        """Whether a step takes the commanded tip farther from the measured one than it may be, and not back to it."""
        measured = self._tip.pose(self._loop.latest().position[:JOINTS])
        before, after = (geometry.pose_error(measured, pose) for pose in (here, wanted))
        for part, limit in ((slice(0, 3), self._config.lead), (slice(3, 6), self._config.rotation_lead)):
            now, then = float(np.linalg.norm(before[part])), float(np.linalg.norm(after[part]))
            if then > limit and then > now:
                return True
        return False

    def _solve(self, pose: Array, start: Array) -> Array:
        """(6,) joint angles for a TCP pose; ConfigError when it is out of reach."""
        limits = self._chain.limits
        for guess in (start, self._chain.home):
            solved = self._chain.solve(pose, np.clip(guess, limits.lower, limits.upper))
            if solved.converged:
                return solved.q
        off = f"{1e3 * solved.position_error:.0f} mm and {solved.rotation_error:.2f} rad off"
        raise ConfigError(f"reset: the arm cannot reach {np.round(pose, 3).tolist()} ({off} at best)")

    def _travel_time(self, start: Array, goal: Array) -> float:
        """Time [s] for the straight way in joint space; ConfigError when the tip gets too low on it."""
        points = [self._tip.pose(start + (goal - start) * s)[:3] for s in np.linspace(0, 1, _SAMPLES + 1)]
        floor = min(self._config.floor, points[0][2], points[-1][2]) - 1e-3
        lowest = min(float(point[2]) for point in points)
        if lowest < floor:
            raise ConfigError(
                f"reset: the way leads down to {lowest:.3f} m, below the floor at {self._config.floor:g} m; "
                "move the arm by teleoperation to where the way is free"
            )
        longest = max(float(np.linalg.norm(b - a)) for a, b in pairwise(points))
        by_joints = float((np.abs(goal - start) / (0.5 * self._chain.limits.velocity)).max())
        return max(_SAMPLES * longest / self._config.reset_speed, by_joints, 1 / self.spec.control_hz)

    def _settle(self, pose: Array, patience_s: float) -> None:
        """Wait until the arm has arrived and stands still, and see that it is where it should be."""
        end = self._clock.now_ns() + int(1e9 * patience_s)
        quiet = 0
        while quiet < 3 and self._clock.now_ns() < end:
            self._loop.wait_until(self._clock.now_ns() + int(2e9 / self._config.loop_hz))
            reading = self._loop.latest()
            still = self._loop.arrived and np.abs(reading.velocity[:JOINTS]).max() < _SETTLED
            near = np.abs(reading.position - self._loop.aim())[:JOINTS].max() < _SLACK
            quiet = quiet + 1 if still and near else 0
        off = float(np.linalg.norm(self._chain.pose(self._loop.latest().position[:JOINTS])[:3] - pose[:3]))
        if quiet < 3 or off > self._config.arrival_m:
            self.stop(f"reset ended {1e3 * off:.0f} mm off; is something in the way?")
            self._loop.refuse_if_stopped()

    def _opening(self, position: Array) -> float:
        """Opening fraction of the gripper; 0 without one."""
        if self._config.gripper is None:
            return 0.0
        return min(1.0, max(0.0, float(position[JOINTS]) / self._span))

    def _pace(self, period_ns: int) -> None:
        """Return at the absolute deadline of this control period, or raise as soon as a stop is latched."""
        now = self._clock.now_ns()
        start = self._deadline_ns
        if start is None or not 0 <= now - start <= period_ns:
            start = now  # the first step, or too late to catch up
        self._deadline_ns = start + period_ns
        self._loop.wait_until(self._deadline_ns)


def _with_gripper(limits: AxisLimits, span: float) -> AxisLimits:
    """The limits of the joints and of a gripper that opens by ``span`` [rad]."""
    velocity, acceleration, jerk = _GRIPPER_LIMITS
    return AxisLimits(
        np.append(limits.lower, 0.0),
        np.append(limits.upper, span),
        np.append(limits.velocity, velocity),
        np.append(limits.acceleration, acceleration),
        np.append(limits.jerk, jerk),
    )
