"""An arm behind a robot host: ``--robot ros2:/fr3_1`` is the one in namespace ``/fr3_1``.

The same for a simulated and a real arm. The host keeps time: it reports once a control period, ``apply`` answers the
newest report and returns with the next one, which says what was executed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from robolearn.core.errors import ConfigError, RobolearnError, RobotStoppedError, SpecError, StaleEpochError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Command, RobotSpec
from robolearn.hal import geometry
from robolearn.hal.host.observing import UNITS, action_spec
from robolearn.hal.host.wire import Mode, OrderKind, Report

if TYPE_CHECKING:
    from robolearn.hal.check import Finding
    from robolearn.ros.client import HostClient

_ANSWER_PERIODS = 5.0
_GOTO_S, _STATUS_S = 20.0, 0.25
_REFUSED_S, _REMEMBERED_S = 1.0, 2.0
_LATENCIES = 4096
_AGAIN_S = 0.05
_PASSING_M = 0.005


@dataclass(frozen=True)
class Config:
    """Which arm, and how episodes start.

    Attributes:
        namespace: of the robot host.
        travel: height above the start pose at which the tool travels to it [m].
        domain: ROS domain; None: ``ROS_DOMAIN_ID``.
        patience_s: how long a silent host is waited for [s].
        image_size: width and height of the cameras' images [px].
        compressed: take compressed images, for cameras on another machine.
    """

    namespace: str = "/fr3_1"
    travel: float = 0.01
    domain: int | None = None
    patience_s: float = 5.0
    image_size: int = 128
    compressed: bool = False


def of_instance(instance: str) -> Config:
    """``/fr3_1`` of ``ros2:/fr3_1``."""
    if not instance.strip("/"):
        raise ConfigError("robot 'ros2' needs the namespace of a robot host, for example ros2:/fr3_1")
    return Config(namespace="/" + instance.strip("/"))


def simulated(instance: str) -> bool:
    """Whether the arm of a namespace is simulated; its host is asked, at most every other second.

    Raises:
        HostSilentError: there is no host.
    """
    return _simulated(instance, int(time.monotonic() / _REMEMBERED_S))


@lru_cache(maxsize=16)
def _simulated(instance: str, _time: int) -> bool:
    from robolearn.ros.client import HostClient

    with HostClient(of_instance(instance).namespace) as client:
        return client.simulated


def seen_epoch(instance: str) -> int:
    """Highest lease epoch the host of a namespace has let in; raises HostSilentError when there is no host."""
    from robolearn.ros.client import HostClient

    with HostClient(of_instance(instance).namespace) as client:
        return max(0, client.report.epoch)


def build(
    config: Config,
    *,
    scene: object = None,
    cameras: tuple[str, ...] = (),
    realtime: bool = True,
) -> Ros2Robot:
    """The arm of a namespace. The scene is the simulated arm's own business; cameras are topics of the namespace.

    Raises:
        MissingDependencyError: no usable rclpy.
        HostSilentError: there is no robot host in the namespace.
    """
    from robolearn.ros.client import HostClient

    client = HostClient(config.namespace, domain=config.domain)
    try:
        return Ros2Robot(config, client, cameras)
    except BaseException:
        client.close()
        raise


def check(instance: str) -> list[Finding]:
    """Is this arm fit to be driven? See ``ros.checks``."""
    from robolearn.ros.checks import check_host

    return check_host(of_instance(instance).namespace)


class Ros2Robot:
    """See the module."""

    def __init__(self, config: Config, client: HostClient, cameras: tuple[str, ...]) -> None:
        self._config, self._client = config, client
        self.places_bodies = client.simulated
        self._hz = float(client.status["control_hz"])
        self._epoch = -1
        self._stopped = ""
        self.unanswered = 0
        """Orders that were lost on their way."""
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._report = client.report
        self._eyes: Any = None
        if cameras:
            from robolearn.ros.camera_eyes import Eyes

            self._eyes = Eyes(client.node, cameras, size=config.image_size, compressed=config.compressed)
        self.spec = self._spec(cameras)

    def take(self, epoch: int) -> None:
        """Drive under the lease of this epoch from now on; raises StaleEpochError for an older one."""
        newest = max(self._epoch, self._client.report.epoch)
        if epoch < newest:
            raise StaleEpochError(f"epoch {epoch} is older than {newest}, which holds {self._config.namespace} now")
        newer, self._epoch = epoch > self._epoch, epoch
        if newer:  # the host learns it now, so that an earlier holder moves nothing before our first action
            sequence = self._client.send(OrderKind.HOLD, np.zeros(0), epoch=epoch)
            self._report = self._client.wait(self._client.answered(sequence, epoch), _ANSWER_PERIODS / self._hz)
            self._client.check_epoch(self._report, epoch)

    def observe(self) -> dict[str, Array]:
        """The newest observation; one that is older than two control periods is waited for.

        Raises:
            HostSilentError: the host has fallen silent.
            BlindError: a camera shows nothing usable.
        """
        images = self._eyes.look() if self._eyes is not None else {}  # first: it may wait, and the state must not age
        if self._client.age_s > 2.0 / self._hz:
            self._report = self._client.wait(self._client.later(), self._config.patience_s)
        else:
            self._report = self._client.report
        shown = {key: value.copy() for key, value in self._report.observation.items() if key in self.spec.observation}
        return shown | images

    def apply(self, command: Command) -> Array:
        """Have one action executed and return (7,) what was, when the host reports the period's end.

        Raises:
            SpecError: the action is not finite or out of bounds.
            StaleEpochError: somebody else holds the robot now.
            RobotStoppedError: a stop is latched, here or at the host.
            HostSilentError: the host does not answer; it holds the arm by itself.
        """
        self._admit(command.epoch)
        action = np.array(self.spec.action.validate(command.action), dtype=np.float64)
        sequence = self._client.send(OrderKind.DELTA, action, epoch=command.epoch, answers=self._report)
        if (report := self._answer(sequence)) is None:
            self.unanswered += 1
            return self._held()
        self._report = report
        self._heed(report)
        if np.isfinite(self._report.latency_s):
            self._latencies.append(self._report.latency_s)
        return self._report.executed.copy()

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        """Drive to the start of an episode: straight up, over, down; the bodies of a simulated scene move meanwhile.

        Raises:
            ConfigError: bodies are to be placed and the arm is real.
            RobotStoppedError: a stop is latched.
            RobolearnError: the arm does not arrive.
        """
        if self._stopped:
            raise RobotStoppedError(f"the robot is stopped ({self._stopped}); a person has to clear it")
        if scene and not self.places_bodies:
            raise ConfigError(f"{self._config.namespace} is a real arm and cannot place {', '.join(scene)}")
        offset = np.fromstring(self._client.status["tip"], sep=" ")
        goal = np.array(tcp_pose, dtype=np.float64)
        goal[:3] += geometry.to_matrix(goal[3:]) @ offset
        lift, over = self._inside(self.observe()["tool_pose"], offset), goal.copy()
        lift[2] = over[2] = max(lift[2], goal[2] + self._config.travel)
        self._go(lift, passing=True)
        for body, pose in scene.items():
            self._client.place(body, np.asarray(pose, dtype=np.float64))
        self._go(over, passing=True)
        self._go(goal)

    def stop(self, reason: str) -> None:
        """Stop and latch, here and at the host; idempotent, the first reason stays.

        Raises:
            HostSilentError: the host did not confirm it. It stops by itself when orders cease.
        """
        self._stopped = self._stopped or reason or "stopped"
        self._client.stop(reason)

    def clear(self) -> None:
        """Clear a latched stop at the host and here; raises RobotStoppedError when the host refuses."""
        self._client.clear()
        self._stopped = ""
        new = self._client.later(2)  # one may have been on its way, and what answers an observation from before is void
        self._report = self._client.wait(new, _ANSWER_PERIODS / self._hz)

    def close(self) -> None:
        """Leave; idempotent. The host holds the arm as soon as orders cease."""
        self._client.close()

    def timing(self) -> dict[str, float]:
        """Observation-to-application latency without policy time [ms], and the host's own jitter [ms]."""
        known = {key: float(value) for key, value in self._client.status.items() if key.startswith("jitter_")}
        known |= {"missed_deadlines": float(self._client.status.get("missed_deadlines", 0))}
        known["unanswered"] = float(self.unanswered)
        if self._latencies:
            p50, p99 = np.percentile(self._latencies, [50, 99])
            known |= {"apply_p50_ms": round(1e3 * float(p50), 2), "apply_p99_ms": round(1e3 * float(p99), 2)}
        return known

    def _answer(self, sequence: int) -> Report | None:
        """The report that answers an order, or None for an order that was lost on its way.

        Raises:
            HostSilentError: no reports come at all, for ``patience`` seconds. The host holds the arm meanwhile.
        """
        from robolearn.ros.client import HostSilentError

        answered, deadline = self._client.answered(sequence, self._epoch), time.monotonic() + self._config.patience_s
        while True:
            try:
                return self._client.wait(answered, _ANSWER_PERIODS / self._hz)
            except HostSilentError:
                if self._client.age_s < _ANSWER_PERIODS / self._hz:
                    self._report = self._client.report
                    return None
                if time.monotonic() > deadline:
                    raise

    def _ordered(self, tip: Array) -> Report:
        """The report that answers a GOTO. It is sent again meanwhile, so that the host does not take us for silent.

        Raises:
            HostSilentError: no reports come for ``patience_s``.
        """
        from robolearn.ros.client import HostSilentError

        answered = self._client.answered(self._client.send(OrderKind.GOTO, tip, epoch=self._epoch), self._epoch)
        deadline = time.monotonic() + self._config.patience_s
        while True:
            try:
                return self._client.wait(answered, _AGAIN_S)
            except HostSilentError:
                if time.monotonic() > deadline:
                    raise
                self._client.send(OrderKind.GOTO, tip, epoch=self._epoch)

    def _held(self) -> Array:
        """(7,) the action of an arm that was not told anything."""
        action = np.zeros(self.spec.action.shape)
        action[6] = float(self._report.observation["gripper"][0])
        return action

    def _inside(self, tip: Array, offset: Array) -> Array:
        """The tip pose, moved so that the TCP is in the workspace: an arm may start outside of it."""
        low, high = (np.fromstring(self._client.status[f"workspace_{end}"], sep=" ") for end in ("low", "high"))
        tool = geometry.to_matrix(tip[3:]) @ offset
        moved = tip.copy()
        moved[:3] = np.clip(tip[:3] - tool, low, high) + tool
        return moved

    def _go(self, tip: Array, *, passing: bool = False) -> None:
        """Order the tip to a pose until the host says it has arrived, or until it passes near enough.

        A refusal may pass (the report that was answered is too old); a pause is no fault and waited for.
        """
        deadline, bear_s, refused = time.monotonic() + _GOTO_S, _REFUSED_S, 0.0
        while time.monotonic() < deadline:
            self._report = report = self._ordered(tip)
            self._heed(report)
            if report.rejected:
                refused = refused or time.monotonic()
                time.sleep(_STATUS_S)
                if self._client.status.get("paused"):
                    bear_s = _REFUSED_S + self._config.patience_s
                if time.monotonic() < refused + bear_s:
                    deadline = time.monotonic() + _GOTO_S
                    continue
                why = self._client.status.get("refusal", "")
                raise RobolearnError(f"{self._config.namespace} does not go to {tip[:3].round(4).tolist()}: {why}")
            refused, bear_s = 0.0, _REFUSED_S
            near = float(np.linalg.norm(report.observation["tool_pose"][:3] - tip[:3])) < _PASSING_M
            if report.settled or (passing and near):
                return
        off = float(np.linalg.norm(self._report.observation["tool_pose"][:3] - tip[:3]))
        raise RobolearnError(
            f"{self._config.namespace} did not arrive within {_GOTO_S:g} s: {1e3 * off:.1f} mm away; "
            f"{self._client.status.get('trouble') or 'is something in its way?'}"
        )

    def _admit(self, epoch: int) -> None:
        self.take(epoch)
        if self._stopped:
            raise RobotStoppedError(f"the robot is stopped ({self._stopped}); a person has to clear it")

    def _heed(self, report: Report) -> None:
        """What a report means for whoever sends orders."""
        self._client.check_epoch(report, self._epoch)
        if report.mode is Mode.STOPPED:
            self._stopped = self._client.status.get("reason") or "stopped at the host"
            raise RobotStoppedError(f"{self._config.namespace} is stopped: {self._stopped}; a person has to clear it")

    def _spec(self, cameras: tuple[str, ...]) -> RobotSpec:
        status, shown = self._client.status, self._report.observation
        if unknown := sorted(shown.keys() - UNITS.keys()):
            raise SpecError(f"{self._config.namespace}: its host shows {unknown}, which this robolearn does not know")
        observation = {key: ArraySpec(key, value.shape, "float64", UNITS[key]) for key, value in shown.items()}
        observation["gripper"] = ArraySpec("gripper", (1,), "float64", UNITS["gripper"], 0.0, 1.0)
        if self._eyes is not None:
            observation |= self._eyes.specs()
        action = action_spec(float(status["max_translation"]), float(status["max_rotation"]))
        return RobotSpec(f"ros2:{self._config.namespace}", observation, action, self._hz)
