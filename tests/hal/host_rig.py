"""A robot host's core on a bench: its own clock, an arm that follows, and everything published kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.hal import geometry
from robolearn.hal.chain import Chain
from robolearn.hal.host.config import HostConfig, preset
from robolearn.hal.host.core import RobotHost, Tick
from robolearn.hal.host.feedback import Reading
from robolearn.hal.host.fence import EpochFence
from robolearn.hal.host.shaping import Setpoint, joint_limits
from robolearn.hal.host.wire import Order, OrderKind, Report

TICK_NS = 5_000_000
START = np.array([0.5, 0.0, 0.15, 0.0, 1.0, 0.0, 0.0])
"""Tip pose well within the workspace of ``fr3_sim``, tool down."""


def config(**changes: Any) -> HostConfig:
    return replace(preset("fr3_sim"), **changes)


def chain_of(settings: HostConfig) -> Chain:
    return Chain.load(settings.model, settings.tip)


class Rig:
    """Host, arm and clock.

    Attributes:
        runs: published setpoints, one list for each engagement.
        events: (kind, values) the host told.
        follows: share of the distance to the setpoint that the arm goes in one tick; 0: it is stuck.
        feeds: readings are fresh; False: the last one stays.
    """

    def __init__(self, settings: HostConfig | None = None, *, fence: Path | None = None, tip: Any = START) -> None:
        self.config = settings or config()
        self.chain = chain_of(self.config)
        self.fence_path = fence
        self.q = self.chain.solve(np.asarray(tip, dtype=float), self.chain.home).q
        self.velocity = np.zeros(7)
        self.now = 10**12
        self.follows, self.feeds = 0.2, True
        self.stamp_offset = 0
        self.wrench = np.zeros(6)
        self.changes: dict[str, Any] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.runs: list[list[Setpoint]] = []
        self.reports: list[Report] = []
        self.sequence = 0
        self.start_host()
        self.reading = self._fresh()

    def start_host(self) -> None:
        """A new host process; the arm is where it was."""
        self.host = RobotHost(
            self.config, self.chain, EpochFence(self.fence_path), on_event=lambda k, v: self.events.append((k, dict(v)))
        )
        self.reports.clear()

    def _fresh(self) -> Reading:
        reading = Reading(self.q, self.velocity, self.now + self.stamp_offset, self.now, self.wrench, self.now)
        return replace(reading, **self.changes)

    @property
    def tip(self) -> np.ndarray:
        return self.chain.pose(self.q)

    @property
    def report(self) -> Report:
        return self.reports[-1]

    @property
    def published(self) -> list[Setpoint]:
        return self.runs[-1]

    def tick(self, *orders: Order) -> Tick:
        self.now += TICK_NS
        if self.feeds:
            self.reading = self._fresh()
        engaged, gaps = self.host._shaper.engaged, self.host.counts["gap"]
        tick = self.host.tick(self.now, self.reading, orders)
        if tick.report is not None:
            self.reports.append(tick.report)
        before = self.q
        if tick.setpoint is not None:
            if not engaged or self.host.counts["gap"] > gaps or not self.runs:
                self.runs.append([])
            self.runs[-1].append(tick.setpoint)
            self._follow(tick.setpoint)
        self.velocity = (self.q - before) / (TICK_NS * 1e-9)
        return tick

    def _follow(self, setpoint: Setpoint) -> None:
        if not self.follows:
            return
        target = setpoint.joints
        if target is None:
            target = self.chain.step_towards(self.q, setpoint.pose, damping=1e-3, pull=0.0)[0]
        self.q = self.q + self.follows * (target - self.q)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1e9 / TICK_NS)):
            self.tick()

    def next_report(self) -> Report:
        """Let time pass until the host reports."""
        count = len(self.reports)
        for _ in range(1000):
            self.tick()
            if len(self.reports) > count:
                return self.report
        raise AssertionError("no report for 5 s")

    def order(self, kind: OrderKind = OrderKind.DELTA, values: Any = None, **changes: Any) -> Order:
        """The next order of the one sender, answering the newest report."""
        self.sequence += 1
        values = np.zeros(7) if values is None else np.asarray(values, dtype=float)
        number = self.reports[-1].number if self.reports else -1
        return replace(Order(kind, 1, 7, self.sequence, number, 0.001, values), **changes)

    def delta(
        self, x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: Any = (0.0, 0.0, 0.0), **changes: Any
    ) -> Order:
        return self.order(OrderKind.DELTA, [x, y, z, *turn, 0.2], **changes)

    def goto(self, pose: Any, **changes: Any) -> Order:
        return self.order(OrderKind.GOTO, pose, **changes)

    def drive(self, seconds: float, x: float = 0.008, **changes: Any) -> None:
        """Answer every report with the same action for a while; on the way from the last answer at the end."""
        end = self.now + int(seconds * 1e9)
        while self.now < end:
            self.next_report()
            self.tick(self.delta(x, **changes))

    def go(self, pose: Any, seconds: float = 5.0, **changes: Any) -> bool:
        """GOTO, again and again; whether it settled."""
        end = self.now + int(seconds * 1e9)
        while self.now < end:
            self.next_report()
            if self.report.settled:
                return True
            self.tick(self.goto(pose, **changes))
        return False

    def count(self, name: str) -> int:
        return self.host.counts[name]


def ready(settings: HostConfig | None = None, **more: Any) -> Rig:
    """A rig whose host has reported once."""
    rig = Rig(settings, **more)
    rig.next_report()
    return rig


def speeds(run: Sequence[Setpoint], dt: float = TICK_NS * 1e-9) -> tuple[np.ndarray, np.ndarray]:
    """(k, 3) velocity and angular velocity (in the reference's own axes) between published poses."""
    poses = np.array([setpoint.pose for setpoint in run])
    linear = np.diff(poses[:, :3], axis=0) / dt
    turns = [
        geometry.to_rotvec(geometry.multiply(geometry.conjugate(a), b))
        for a, b in zip(poses[:-1, 3:], poses[1:, 3:], strict=True)
    ]
    return linear, np.array(turns).reshape(-1, 3) / dt


def bounds_broken(run: Sequence[Setpoint], settings: HostConfig, dt: float = TICK_NS * 1e-9) -> list[str]:
    """Which bounds of ``config.motion`` the finite differences of one engagement break; from rest at the start."""
    if len(run) < 2:
        return []
    if run[0].joints is not None:
        return _joint_bounds_broken(run, settings, dt)
    motion, problems = settings.motion, []
    linear, angular = speeds(run, dt)
    orders = (1, 2, 3)
    if settings.profile == "cartesian_twist":  # only the twist is published; where the reference is, nobody knows
        twists = np.array([setpoint.twist for setpoint in run])
        linear, angular, orders = twists[:, :3], twists[:, 3:], (1, 2)
    for name, values, limits in (
        ("translation", linear, (motion.velocity, motion.acceleration, motion.jerk)),
        ("rotation", angular, (motion.turn_velocity, motion.turn_acceleration, motion.turn_jerk)),
    ):
        for order, bound in zip(orders, limits, strict=False):
            size = np.linalg.norm(np.diff(values, n=order - 1, axis=0) / dt ** (order - 1), axis=1)
            if size.size and size.max() > bound * (1 + 1e-6) + 1e-6:
                problems.append(f"{name}: derivative {order} reaches {size.max():g}, the bound is {bound:g}")
    return problems


def _joint_bounds_broken(run: Sequence[Setpoint], settings: HostConfig, dt: float) -> list[str]:
    limits = joint_limits(settings, chain_of(settings))
    joints = np.array([setpoint.joints for setpoint in run])
    problems = []
    for order, bound in enumerate((limits.velocity, limits.acceleration, limits.jerk), start=1):
        excess = np.abs(np.diff(joints, n=order, axis=0)) / dt**order / bound
        if excess.size and excess.max() > 1 + 1e-6:
            problems.append(f"joints: derivative {order} reaches {excess.max():g} of its bound")
    slack = 1e-3  # an arm may start beyond its margin; its first step is published, where it started is not
    low, high = np.minimum(limits.lower, joints[0] - slack), np.maximum(limits.upper, joints[0] + slack)
    if (joints < low - 1e-9).any() or (joints > high + 1e-9).any():
        problems.append("joints: beyond a position limit")
    chain = chain_of(settings)
    tips = np.array([chain.pose(q) for q in joints])
    speed = np.linalg.norm(np.diff(tips[:, :3], axis=0), axis=1) / dt
    if speed.max() > settings.motion.velocity:
        problems.append(f"joints: the tip reaches {speed.max():g} m/s, the bound is {settings.motion.velocity:g}")
    tcps = np.array([tip[:3] - geometry.to_matrix(tip[3:]) @ np.array(settings.tip) for tip in tips])
    box = settings.workspace
    outside = np.maximum(np.maximum(np.array(box.low) - tcps, tcps - np.array(box.high)), 0.0).max(axis=1)
    if outside.max() > outside[0] + BOX_M:
        problems.append(f"joints: the TCP gets {outside.max():g} m out of its box, from {outside[0]:g}")
    return problems


BOX_M = 1e-3
"""How far a joint profile may leave the box while it brakes [m]."""


def tcp_of(rig: Rig, tip: np.ndarray) -> np.ndarray:
    return tip[:3] - geometry.to_matrix(tip[3:]) @ np.array(rig.config.tip)


def rest_time(run: Sequence[Setpoint], start: int) -> float:
    """Seconds from setpoint ``start`` to the first one that stands still: twist zero, joints as before."""
    for k in range(max(start, 1), len(run)):
        joints, before = run[k].joints, run[k - 1].joints
        moved = 0.0 if joints is None else float(np.abs(joints - before).max())
        if np.abs(run[k].twist).max() < 1e-6 and moved < 1e-9:
            return (k - start) * TICK_NS * 1e-9
    return math.inf
