"""How the reference gets to its goal: jerk-limited in the tool pose and, for joint profiles, in the joints too."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from robolearn.core.spec import Array
from robolearn.hal import geometry
from robolearn.hal.chain import Chain
from robolearn.hal.host.config import HostConfig
from robolearn.hal.motion import AxisLimits, Limiter
from robolearn.hal.pose_motion import CartesianLimits, PoseLimiter

_REACH_M, _REACH_RAD = 0.025, 0.2
_LAG_M, _LAG_RAD = 0.015, 0.1
_THERE_M, _THERE_RAD = 0.002, 0.01
_POSE_SHARE, _SPEED_SHARE, _BOX_M = 0.45, 0.5, 5e-4
"""Joints that brake each in its own time may stop cancelling each other, and the tip gets faster for a moment: so much
of its speed is used by joint profiles. Their TCP may leave its box by so much [m] while it brakes."""
_POSTURE_RAD_S = 0.05
"""How fast the posture that a redundant arm is drawn to goes from where it was engaged to home."""


@dataclass(frozen=True)
class Setpoint:
    """What is published in one tick.

    Attributes:
        pose: (7,) reference of the tip in the base frame.
        twist: (6,) its twist in base axes [m/s, rad/s].
        joints: (n,) joint reference [rad] of the joint profiles, else None.
        gripper: opening fraction; None while none has been commanded.
    """

    pose: Array
    twist: Array
    joints: Array | None
    gripper: float | None


class Shaper:
    """The reference of one arm.

    It never runs further ahead of the arm than ``_REACH``: an arm that does not follow (its own protective stop, an
    obstacle) is waited for, and does not snap when it is released. Joint profiles follow the pose reference by inverse
    kinematics; the pose waits for the joints, and the joints brake where going on would take the TCP out of its box
    or the tip beyond its speed.

    Attributes:
        goal: (7,) pose of the tip the reference goes to.
        gripper: opening fraction that is commanded; None before the first command.
        engaged: there is a reference; without one nothing is published.
    """

    def __init__(self, config: HostConfig, chain: Chain) -> None:
        motion, self._dt = config.motion, 1.0 / config.rate_hz
        jointed = config.profile.startswith("joint")
        self._velocity = motion.velocity
        self._limits = CartesianLimits(
            velocity=(_POSE_SHARE if jointed else 1.0) * motion.velocity,
            acceleration=motion.acceleration,
            jerk=motion.jerk,
            turn_velocity=motion.turn_velocity,
            turn_acceleration=motion.turn_acceleration,
            turn_jerk=motion.turn_jerk,
        )
        box, pad = config.limits(), float(np.linalg.norm(config.tip))
        self._low, self._high = np.array(box.low), np.array(box.high)
        # The box is the TCP's; the tip is within its own length of that. Actions are held to the box itself.
        self._tip_box = self._low - pad, self._high + pad
        self._limiter = PoseLimiter(self._limits, *self._tip_box, self._dt)
        self._chain, self._offset = chain, np.array(config.tip)
        self._drifts = config.profile == "cartesian_twist"
        self._joint_limits = joint_limits(config, chain) if jointed else None
        self._joints: Limiter | None = None
        self._posture = chain.home
        self.goal = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
        self.gripper: float | None = None
        self.engaged = self._seeded = False
        self._held: Array | None = None

    @property
    def pose(self) -> Array:
        """(7,) the reference now."""
        return self._limiter.pose

    @property
    def joints(self) -> Array | None:
        """(n,) the joint reference of a joint profile."""
        return None if self._joints is None else self._joints.position

    @property
    def at_rest(self) -> bool:
        """True when the reference does not move, or there is none."""
        return not self.engaged or (self._limiter.at_rest and (self._joints is None or self._joints.at_rest))

    def engage(self, tip: Array, joints: Array) -> None:
        """Start from where the arm is; while it is engaged already the reference goes on from where it was."""
        self._held = None
        if self.engaged:
            if self._drifts:  # nobody publishes where this reference is, only how fast it goes
                self._limiter.shift(tip)
            return
        self.engaged = True
        if self._still_there(tip, joints):
            return
        # An arm that starts outside must not be drawn in by the clipping of goals: orders bring it in, or nothing does.
        low, high = np.minimum(self._tip_box[0], tip[:3]), np.maximum(self._tip_box[1], tip[:3])
        self._limiter = PoseLimiter(self._limits, low, high, self._dt)
        self._limiter.seed(tip)
        if self._joint_limits is not None:
            known = self._joint_limits
            widened = replace(known, lower=np.minimum(known.lower, joints), upper=np.maximum(known.upper, joints))
            self._joints = Limiter(widened, self._dt)
            self._joints.seed(joints)
            self._posture = joints.copy()
        self.goal, self._seeded = tip.copy(), True

    def _still_there(self, tip: Array, joints: Array) -> bool:
        """The arm is where the last reference left it: that goes on, since the arm's controller still has it."""
        if not self._seeded or not self._limiter.at_rest:
            return False
        off = geometry.pose_error(self._limiter.pose, tip)
        near = float(np.linalg.norm(off[:3])) < _THERE_M and float(np.linalg.norm(off[3:])) < _THERE_RAD
        if self._joints is None:
            return near
        return near and self._joints.at_rest and float(np.abs(self._joints.position - joints).max()) < _THERE_RAD

    def release(self) -> None:
        """Have no reference any more."""
        self.engaged = False

    def hold(self, tip: Array, joints: Array | None) -> None:
        """Go to this pose (7,) and these joints (n,), from rest; None: the joint reference stays where it is.

        A held arm gets joints, not a pose: through the inverse kinematics its elbow would go on moving.
        """
        self.goal = tip.copy()
        if self._drifts:
            self._limiter.shift(tip)
        if self._joints is not None:
            self._held = self._joints.position if joints is None else joints.copy()

    def advance(self, measured: Array | None) -> Setpoint:
        """One tick towards the goal; ``measured`` is the tip's pose (7,), None while it is not known."""
        if self._lags():
            return self._setpoint(self._limiter.brake())
        goal = self.goal if measured is None or self._drifts else _within_reach(self.goal, measured)
        return self._setpoint(self._limiter.step(goal))

    def brake(self) -> Setpoint:
        """One tick of deceleration."""
        return self._setpoint(self._limiter.brake(), braking=True)

    def _lags(self) -> bool:
        """The joints are behind the pose they should give."""
        if self._joints is None or self._held is not None:
            return False
        off = geometry.pose_error(self._chain.pose(self._joints.position), self._limiter.pose)
        return float(np.linalg.norm(off[:3])) > _LAG_M or float(np.linalg.norm(off[3:])) > _LAG_RAD

    def _setpoint(self, pose: Array, *, braking: bool = False) -> Setpoint:
        joints = None if self._joints is None else self._advance_joints(self._joints, pose, braking)
        return Setpoint(pose, self._limiter.twist, joints, self.gripper)

    def _advance_joints(self, joints: Limiter, pose: Array, braking: bool) -> Array:
        if braking:
            return joints.brake()
        now, goal = joints.position, self._held
        if goal is None:
            drift = _POSTURE_RAD_S * self._dt
            self._posture += np.clip(self._chain.home - self._posture, -drift, drift)
            goal = self._chain.step_towards(now, pose, posture=self._posture)[0]
        trial = joints.fork()
        following = trial.step(goal)
        speed = float(np.linalg.norm(self._chain.pose(following)[:3] - self._chain.pose(now)[:3])) / self._dt
        slow = speed <= _SPEED_SHARE * self._velocity
        if slow and self._outside(trial.rest) <= max(self._outside(joints.rest), _BOX_M):
            self._joints = trial
            return following
        return joints.brake()

    def _outside(self, joints: Array) -> float:
        """How far the TCP is outside its box with these joints (n,) [m]; 0 within."""
        pose = self._chain.pose(joints)
        tcp = pose[:3] - geometry.to_matrix(pose[3:]) @ self._offset
        return float(np.maximum(np.maximum(self._low - tcp, tcp - self._high), 0.0).max())


def _within_reach(goal: Array, measured: Array) -> Array:
    """The goal (7,), or what lies on the way to it no further from the measured pose than a reference may be."""
    way = goal[:3] - measured[:3]
    length = math.sqrt(float(way @ way))
    ahead = geometry.to_rotvec(geometry.multiply(geometry.conjugate(measured[3:]), goal[3:]))
    angle = math.sqrt(float(ahead @ ahead))
    if length <= _REACH_M and angle <= _REACH_RAD:
        return goal
    near = goal.copy()
    if length > _REACH_M:
        near[:3] = measured[:3] + way * (_REACH_M / length)
    if angle > _REACH_RAD:
        near[3:] = geometry.turn(measured[3:], ahead * (_REACH_RAD / angle))
    return near


def joint_limits(config: HostConfig, chain: Chain) -> AxisLimits:
    """The arm's joint limits, less the margin, velocities scaled by the configured share."""
    margin = config.motion.joint_margin
    within = replace(chain.limits, lower=chain.limits.lower + margin, upper=chain.limits.upper - margin)
    return within.scaled(velocity=config.motion.joint_scale)
