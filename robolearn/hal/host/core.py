"""The robot host's loop body: from orders and readings to one setpoint a tick, failing closed.

A tick passes: is the feedback true, is the force bearable, which orders are valid (shape, numbers, epoch, age, mode),
what of them is allowed (bounds, step, tilt, workspace), and how the reference gets there (jerk-limited, braking in
time). Silence decelerates and holds the measured pose; a stop latches and only a person clears it, at rest. The clock
is the caller's, so every rule can be tested tick by tick.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robolearn.core.errors import RobotStoppedError, SpecError
from robolearn.core.spec import Array
from robolearn.hal import geometry
from robolearn.hal.chain import Chain
from robolearn.hal.guard import parse_action
from robolearn.hal.host.aim import Aim
from robolearn.hal.host.config import HostConfig
from robolearn.hal.host.feedback import Feedback, Reading
from robolearn.hal.host.fence import EpochFence
from robolearn.hal.host.observing import Observer
from robolearn.hal.host.shaping import Setpoint, Shaper
from robolearn.hal.host.wire import Mode, Order, OrderKind, Report

OnEvent = Callable[[str, Mapping[str, Any]], None]

_SECOND = 1e-9
_REST_SPEED, _REST_TURN = 0.003, 0.02
_REST_JOINT_SPEED = 0.02
_SETTLED_JOINT_SPEED = 0.1
_ARRIVED = (1e-4, 1e-3, 5e-3, 5e-2)
"""A GOTO has arrived: reference and arm are this near to the goal [m, rad, m, rad]."""
_COASTING = 0.1
"""An arm that moves faster than this [rad/s] while nobody drives it is left alone."""
_JUMP_M = 0.03
_FENCED = ("stale_epoch", "stale_sender")
"""Refusals that are not answered: their senders do not drive."""
_STRAIN_M, _STRAIN_RAD = 0.003, 0.05
_REMEMBERED = 8
_SENDERS = 1024


@dataclass(frozen=True)
class Tick:
    """What one tick gives: a setpoint to publish (None: stay silent) and, once a control period, a report."""

    setpoint: Setpoint | None
    report: Report | None


@dataclass
class _Answer:
    """What has become of the last order."""

    sender: int = -1
    sequence: int = -1
    executed: Array | None = None
    altered: bool = False
    rejected: bool = False
    latency_s: float = math.nan


class RobotHost:
    """Decides, tick by tick, what an arm is told.

    Attributes:
        counts: how often each thing happened: ``applied``, ``rejected``, ``stale_epoch``, ``old``, ``repeated``,
            ``refused`` (stopped, paused or no feedback), ``unwritten`` (the fence's file),
            ``stale_sender`` (another process of the same lease took over), ``moving`` (the arm moved by itself),
            ``clipped``, ``step``, ``tilt``, ``workspace``, ``lead``, ``stale`` (went silent), ``gap`` (this process
            was not run), ``force``, ``stopped``, ``feedback``.
        mode: what it is doing.
        reason: why it is stopped or holds; empty otherwise.
        refusal: why the last order that was not carried out was not; empty before the first.
    """

    def __init__(self, config: HostConfig, chain: Chain, fence: EpochFence, *, on_event: OnEvent | None = None) -> None:
        """Set up; nothing is published before the first valid order."""
        self.config, self.chain, self.fence = config, chain, fence
        self.counts: Counter[str] = Counter()
        self.mode, self.reason, self.refusal = Mode.IDLE, "", ""
        self._feedback = Feedback(config.feedback_s, wrench=config.force is not None)
        self._observer = Observer(config, chain)
        self._aim = Aim(config, self._observer)
        self._shaper = Shaper(config, chain)
        self._on_event = on_event
        self._paused = ""
        self._order_ns = 0
        self._kind = OrderKind.HOLD
        self._rotation: Array | None = None
        self._hold_at: Array | None = None
        self._number, self._flushed = -1, 0
        self._next_ns, self._dwell_ns = 0, 0
        self._stamps: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._last: dict[int, int] = {}
        self._driver, self._retired = -1, set[int]()
        self._answer = _Answer()
        self._trouble = ""
        self._tick_ns = 0

    @property
    def feedback_counts(self) -> Counter[str]:
        """What was wrong with readings, see ``Feedback``."""
        return self._feedback.counts

    @property
    def trouble(self) -> str:
        """What is wrong with the feedback now; empty when it can be trusted."""
        return self._trouble

    @property
    def paused(self) -> str:
        """Why orders are refused though nothing is wrong; empty when they are taken."""
        return self._paused

    @property
    def at_rest(self) -> bool:
        """The reference does not move, or nothing is published."""
        return self._shaper.at_rest

    def malformed(self, problem: str) -> None:
        """An order that could not even be read: it is counted, and a driven arm holds."""
        self.counts["rejected"] += 1
        self._tell("rejected", problem=problem)
        if self.mode is Mode.DRIVING:
            self._hold("an order was malformed")

    def tick(self, now_ns: int, reading: Reading, orders: Sequence[Order]) -> Tick:
        """One tick of the loop.

        Args:
            now_ns: monotonic time [ns].
            reading: newest state of the arm.
            orders: what has arrived since the last tick, oldest first.
        """
        self._trouble = self._feedback.judge(reading, now_ns, moving=self._strains())
        before = self._observer.tip
        if self._trouble:
            self.counts["feedback"] += 1
        else:
            known = self._observer.seen
            self._observer.take(reading)
            self._check_gap(now_ns, before if known else self._observer.tip)
            self._check_force()
        self._tick_ns = now_ns
        for order in orders:
            self._take(order, now_ns)
        self._supervise(now_ns)
        setpoint = self._setpoint()
        return Tick(setpoint, self._report(now_ns, reading))

    def stop(self, reason: str) -> None:
        """Latch a stop: decelerate, hold, refuse everything. Idempotent; the first reason stays."""
        if self.mode is Mode.STOPPED:
            return
        self.mode, self.reason, self._hold_at = Mode.STOPPED, reason or "stopped", None
        self.counts["stopped"] += 1
        self._tell("stop", reason=self.reason)

    def reset(self, person: str) -> None:
        """Clear a stop or a pause on behalf of a person. Orders sent before it stay void.

        Raises:
            RobotStoppedError: the arm moves, or what stopped it is still there.
        """
        self._feedback.forget()
        why = self._trouble
        if not why and self._observer.seen and self._observer.joint_speed > _REST_JOINT_SPEED:
            why = "the arm is still moving"
        if not why and not self._shaper.at_rest:
            why = "the arm is still braking"
        if not why and self._too_much_force():
            why = f"the contact force is still {self._observer.force:.1f} N"
        if why:
            raise RobotStoppedError(f"not cleared: {why}")
        if self.mode is Mode.STOPPED or self._paused:
            self._tell("clear", person=person, reason=self.reason)
        self._paused = ""
        self._disengage()
        self._flushed = self._number + 1

    def hold(self, why: str) -> None:
        """Pause: decelerate and hold, refuse orders until ``resume`` or ``reset``; nothing is latched as a fault."""
        self._paused = why or "paused"
        self._flushed = self._number + 1
        if self.mode is Mode.DRIVING:
            self._hold(self._paused)

    def resume(self) -> None:
        """End a pause."""
        self._paused = ""

    def _strains(self) -> bool:
        """The reference is away from the arm, so that a living arm's joint states must change."""
        if not self._shaper.engaged or not self._observer.seen:
            return False
        off = geometry.pose_error(self._shaper.pose, self._observer.tip)
        joints = self._shaper.joints
        strained = joints is not None and float(np.abs(joints - self._observer.position).max()) > _STRAIN_RAD
        return strained or float(np.linalg.norm(off[:3])) > _STRAIN_M or float(np.linalg.norm(off[3:])) > _STRAIN_RAD

    def _check_gap(self, now_ns: int, before: Array) -> None:
        """Start anew after a pause of this process, or a jump of the arm: a suspended machine's clock stands still."""
        silent = self._tick_ns and (now_ns - self._tick_ns) * _SECOND > self.config.stale_s
        jumped = float(np.linalg.norm(self._observer.tip[:3] - before[:3])) > _JUMP_M
        if (silent or jumped) and self._shaper.engaged:
            self.counts["gap"] += 1
            self._tell("gap", why="this process was not run for a while" if silent else "the arm is suddenly elsewhere")
            self._flushed = self._number + 1
            self._shaper.release()
            if self.mode is not Mode.STOPPED:
                self._disengage()

    def _check_force(self) -> None:
        if self.mode is not Mode.STOPPED and self._too_much_force():
            self.counts["force"] += 1
            limit = self.config.force
            self.stop(f"contact force {self._observer.force:.1f} N is above the limit of {limit:g} N")

    def _too_much_force(self) -> bool:
        return self.config.force is not None and self._observer.force > self.config.force

    def _take(self, order: Order, now_ns: int) -> None:
        """Carry out an order, or say that it was refused."""
        refusal = self._refusal(order, now_ns)
        if refusal == "repeated":
            self.counts[refusal] += 1
            return
        self._last.pop(order.sender, None)
        self._last[order.sender] = order.sequence
        if len(self._last) > _SENDERS:
            del self._last[next(iter(self._last))]
        if refusal not in _FENCED:
            self._answer = _Answer(order.sender, order.sequence)
        if not refusal:
            try:
                self._carry_out(order, now_ns)
            except SpecError as error:
                refusal = "rejected"
                self.refusal = str(error)
                self._tell("rejected", problem=str(error))
        if refusal:
            self.counts[refusal] += 1
            if refusal != "rejected":
                self.refusal = self._explain(refusal, order)
            if refusal not in _FENCED:
                self._answer.rejected = True
                if refusal == "rejected" and self.mode is Mode.DRIVING:
                    self._hold("an order was malformed")

    def _refusal(self, order: Order, now_ns: int) -> str:
        """One word why an order is refused; empty when it is valid."""
        if order.sequence <= self._last.get(order.sender, -1):
            return "repeated"
        if order.epoch < self.fence.epoch:
            return "stale_epoch"
        if order.epoch == self.fence.epoch and order.sender in self._retired:
            return "stale_sender"
        if order.kind is not OrderKind.HOLD and self._too_old(order, now_ns):
            return "old"
        if order.kind is not OrderKind.HOLD and isinstance(problem := parse_action(order.values, (7,)), str):
            self.refusal = f"{order.kind.name.lower()}: {problem}"
            self._tell("rejected", problem=self.refusal)
            return "rejected"
        try:
            self._admit(order)
        except OSError as error:  # a lease that would be forgotten by the next host is no lease
            self._tell("rejected", problem=f"the epoch fence {self.fence.path} cannot be written ({error})")
            return "unwritten"
        if self.mode is Mode.STOPPED or self._paused or self._trouble or not self._observer.seen:
            return "refused"
        if not self._shaper.engaged and self._observer.joint_speed > _COASTING and order.kind is not OrderKind.HOLD:
            return "moving"
        return ""

    def _too_old(self, order: Order, now_ns: int) -> bool:
        """It answers what was void or has long changed; where to go is true for longer than how."""
        oldest = 2.0 / self.config.control_hz if order.kind is OrderKind.DELTA else self.config.disengage_s
        return not self._flushed <= order.answers <= self._number or self._age_s(order, now_ns) > oldest

    def _admit(self, order: Order) -> None:
        """Let a sender in: of a newer lease, or a newer process of the same one; the one before is out for good."""
        if order.epoch > self.fence.epoch:
            self.fence.admits(order.epoch)
            self._retired.clear()
        elif order.sender != self._driver and self._driver >= 0:
            self._retired.add(self._driver)
        self._driver = order.sender

    def _explain(self, refusal: str, order: Order) -> str:
        if refusal == "stale_sender":
            return "another process of the same lease drives now"
        if refusal == "moving":
            return f"the arm moves by itself, {self._observer.joint_speed:.2f} rad/s"
        if refusal == "stale_epoch":
            return f"epoch {order.epoch} is older than {self.fence.epoch}"
        if refusal == "old":
            return f"it answers report {order.answers}, the newest is {self._number}"
        if refusal == "unwritten":
            return f"the epoch fence {self.fence.path} cannot be written"
        return self.reason or self._paused or self._trouble or "nothing is known of the arm yet"

    def _age_s(self, order: Order, now_ns: int) -> float:
        stamp = dict(self._stamps).get(order.answers)
        return math.inf if stamp is None else (now_ns - stamp) * _SECOND

    def _carry_out(self, order: Order, now_ns: int) -> None:
        if order.kind is OrderKind.HOLD:
            if self.mode is Mode.DRIVING:
                self._hold("asked to")
            return
        goal = self._delta(order.values) if order.kind is OrderKind.DELTA else self._aim.goto(order.values)
        self._shaper.engage(self._observer.tip, self._observer.position)
        self.mode, self.reason, self._hold_at = Mode.DRIVING, "", None
        self._shaper.goal, self._rotation = goal, goal[3:]
        self._kind, self._order_ns = order.kind, now_ns
        self.counts["applied"] += 1
        if order.kind is OrderKind.DELTA:
            self._answer.latency_s = self._age_s(order, now_ns) - order.policy_s
            self._dwell_ns = now_ns + int(self.config.dwell * self.config.period_ns)

    def _delta(self, values: Array) -> Array:
        """Goal pose of a policy action; what it altered is counted and what is executed is remembered."""
        driving = self.mode is Mode.DRIVING
        aimed = self._aim.delta(values, self._rotation if driving else None)
        self.counts.update(aimed.altered)
        self._shaper.gripper = float(aimed.action[6])
        self._answer.executed, self._answer.altered = aimed.action, bool(aimed.altered)
        return aimed.goal

    def _supervise(self, now_ns: int) -> None:
        """What happens without orders."""
        silent_s = (now_ns - self._order_ns) * _SECOND
        if self.mode is Mode.DRIVING:
            if self._trouble:
                self._hold(self._trouble)
                self._tell("feedback", problem=self._trouble)
            elif silent_s > self.config.stale_s:
                self.counts["stale"] += 1
                self._hold("no orders arrive")
        elif silent_s > self.config.disengage_s and self._shaper.at_rest:
            if self.mode is Mode.HOLDING:
                self._disengage()
            self._shaper.release()  # a stopped arm that a person moves by hand must not be drawn back

    def _hold(self, why: str) -> None:
        self.mode, self.reason, self._hold_at = Mode.HOLDING, why, None

    def _disengage(self) -> None:
        self.mode, self.reason, self._rotation, self._hold_at = Mode.IDLE, "", None, None
        self._shaper.release()

    def _setpoint(self) -> Setpoint | None:
        if not self._shaper.engaged:
            return None
        measured = None if self._trouble else self._observer.tip
        if self.mode is Mode.DRIVING:
            return self._shaper.advance(measured)
        if self._hold_at is None:
            if not self._shaper.at_rest:
                return self._shaper.brake()
            known = not self._trouble
            self._hold_at = self._observer.tip if known else self._shaper.pose
            self._shaper.hold(self._hold_at, self._observer.position if known else None)
        return self._shaper.advance(measured)

    def _report(self, now_ns: int, reading: Reading) -> Report | None:
        period = self.config.period_ns
        if not self._observer.seen or now_ns < self._next_ns or (now_ns < self._dwell_ns):
            return None
        on_time = now_ns - self._next_ns < period // 20
        self._next_ns = (self._next_ns if on_time else now_ns) + period
        self._number += 1
        answer = self._answer  # told again until another order comes: a report may be lost on its way
        executed = answer.executed
        if executed is None:
            executed = np.zeros(7)
            executed[6] = self._observer.opening if self._shaper.gripper is None else self._shaper.gripper
        tip = self._observer.tip
        reference = self._shaper.goal[3:] if self._shaper.engaged else tip[3:]
        stamp = reading.received_ns
        self._stamps.append((self._number, stamp))
        return Report(
            number=self._number,
            stamp_ns=stamp,
            mode=self.mode,
            epoch=self.fence.epoch,
            sender=answer.sender,
            sequence=answer.sequence,
            executed=executed,
            altered=answer.altered,
            rejected=answer.rejected,
            settled=self._settled(),
            fresh=not self._trouble,
            latency_s=answer.latency_s,
            observation=self._observer.report(reference, executed),
        )

    def _settled(self) -> bool:
        """A GOTO has arrived: the reference is there and the arm is at rest."""
        if self.mode is not Mode.DRIVING or self._kind is not OrderKind.GOTO:
            return False
        ahead = geometry.pose_error(self._shaper.pose, self._shaper.goal)
        off = geometry.pose_error(self._observer.tip, self._shaper.goal)
        there = all(
            float(np.linalg.norm(part)) < limit
            for part, limit in zip((ahead[:3], ahead[3:], off[:3], off[3:]), _ARRIVED, strict=True)
        )
        speed, turning = self._observer.tip_speeds
        still = speed < _REST_SPEED and turning < _REST_TURN and self._observer.joint_speed < _SETTLED_JOINT_SPEED
        return there and still

    def _tell(self, kind: str, **values: Any) -> None:
        if self._on_event is not None:
            self._on_event(kind, values)
