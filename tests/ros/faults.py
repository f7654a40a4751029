"""One simulated arm with its robot host for all fault tests, recorders at the arm's side, and drivers.

As a program it is somebody who drives: ``python faults.py goto /faults_1 EPOCH``, see ``main``.
"""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_world import Process, module_command, set_parameter, until

from robolearn.hal import geometry
from robolearn.hal.host.config import preset
from robolearn.hal.host.wire import Mode, Order, OrderKind, Report

SPACE = "/faults_1"
HOST, ARM = "robolearn.ros.robot_host", "robolearn.ros.sim_arm"
NEAR = np.array([0.42, -0.11, 0.16, 0.0, 1.0, 0.0, 0.0])
FAR = np.array([0.60, 0.11, 0.30, 0.0, 1.0, 0.0, 0.0])
START = np.array([0.5, 0.0, 0.2, 0.0, 1.0, 0.0, 0.0])
DT = 1.0 / preset("fr3_sim").rate_hz
MOTION = preset("fr3_sim").motion
TIME_TO_REST_S = 0.150
FAST = 0.2
RESEND_S = 0.04
"""A pose that is wanted is ordered this often: at the pace of the reports a busy machine would let it go stale."""
_KEY = pytest.StashKey["World"]()


@dataclass(frozen=True)
class Taken:
    """A message with the time it was published (wall) [ns], who published it, and its number among that one's."""

    message: Any
    sent_ns: int
    publisher: bytes
    number: int


class Recorder:
    """Every message of a topic, kept by the middleware until asked for."""

    def __init__(self, node: Any, kind: type, topic: str, *, reliable: bool = True) -> None:
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        from robolearn.ros import context

        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        self._inner = context.Newest(node, kind, topic, QoSProfile(depth=5000, reliability=reliability))
        self._kind = kind
        self._kept: list[Taken] = []
        self._lock = threading.Lock()

    def poll(self) -> None:
        """Take over what has come; the middleware drops what a dead process has left there."""
        handle = self._inner._subscription.handle
        with self._lock, handle:
            while (taken := handle.take_message(self._kind, False)) is not None:
                message, info = taken
                gid = bytes(info["publisher_gid"]["data"])
                self._kept.append(Taken(message, info["source_timestamp"], gid, info["publication_sequence_number"]))

    def look(self) -> list[Taken]:
        """The last hundred, which stay."""
        self.poll()
        with self._lock:
            return self._kept[-100:]

    def take(self) -> list[Taken]:
        """What has come since the last call of this."""
        self.poll()
        with self._lock:
            kept, self._kept = self._kept, []
        return kept

    @property
    def publishers(self) -> int:
        return self._inner.publishers


def pose_of(message: Any) -> np.ndarray:
    p, q = message.pose.position, message.pose.orientation
    return np.array([p.x, p.y, p.z, q.w, q.x, q.y, q.z])


def unbroken(taken: list[Taken], gap_s: float = 0.3) -> list[list[np.ndarray]]:
    """Runs of poses one publisher sent one after the other, none lost and no long pause between them."""
    runs: list[list[np.ndarray]] = []
    before: Taken | None = None
    for one in taken:
        follows = (
            before is not None
            and one.publisher == before.publisher
            and one.number == before.number + 1
            and one.sent_ns - before.sent_ns < gap_s * 1e9
        )
        if not follows:
            runs.append([])
        runs[-1].append(pose_of(one.message))
        before = one
    return runs


def broken_bounds(taken: list[Taken]) -> list[str]:
    """Which bounds of the host's motion the published poses break, by finite differences."""
    problems: list[str] = []
    for run in unbroken(taken):
        if len(run) < 5:
            continue
        poses = np.array(run)
        linear = np.diff(poses[:, :3], axis=0) / DT
        pairs = zip(poses[:-1, 3:], poses[1:, 3:], strict=True)
        angular = np.array([_turn(a, b) for a, b in pairs]) / DT
        for name, values, bounds in (
            ("translation", linear, (MOTION.velocity, MOTION.acceleration, MOTION.jerk)),
            ("rotation", angular, (MOTION.turn_velocity, MOTION.turn_acceleration, MOTION.turn_jerk)),
        ):
            for order, bound in enumerate(bounds):
                worst = np.linalg.norm(np.diff(values, n=order, axis=0) / DT**order, axis=1).max()
                if worst > bound * (1 + 1e-6) + 1e-5:
                    problems.append(f"{name}: derivative {order + 1} reaches {worst:g}, the bound is {bound:g}")
    return problems


def _turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return geometry.to_rotvec(geometry.multiply(geometry.conjugate(a), b))


def rest_after(poses: list[Taken], since_ns: int) -> float:
    """Seconds from a wall time to the first pose after it which the next one repeats; inf: there is none."""
    later = [one for one in poses if one.sent_ns >= since_ns]
    for one, following in itertools.pairwise(later):
        if np.abs(pose_of(following.message) - pose_of(one.message)).max() < 1e-9:
            return (one.sent_ns - since_ns) * 1e-9
    return float("inf")


def peak_speed(taken: list[Taken]) -> float:
    """Largest published speed [m/s]."""
    steps = [np.diff(np.array(run)[:, :3], axis=0) for run in unbroken(taken) if len(run) > 1]
    return max((float(np.linalg.norm(step, axis=1).max()) / DT for step in steps), default=0.0)


class World:
    """Simulated arm, robot host and a client of this process.

    Attributes:
        client: a ``HostClient``, for watching and driving.
        poses, orders, reports: recorders at the arm's side.
    """

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        from geometry_msgs.msg import PoseStamped
        from std_msgs.msg import Float64MultiArray

        self.env, self.folder = env, folder
        self._names = itertools.count()
        self._epochs = itertools.count(1)
        self._started: list[Process] = []
        self.arm = self.start(ARM)
        self.host = self.start_host(wait=False)
        self.arm.wait_for("ready")
        self.host.wait_for(" Hz, ")
        from robolearn.ros.client import HostClient

        self.client = HostClient(SPACE, patience_s=20.0)
        self.node = self.client.node
        self.poses = Recorder(self.node, PoseStamped, "target_pose")
        self.orders = Recorder(self.node, Float64MultiArray, "robot_host/command")
        self.reports = Recorder(self.node, Float64MultiArray, "robot_host/observation")
        until("the arm's target is heard", lambda: self.poses.publishers > 0)
        self._over = threading.Event()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self._poller.start()

    def start(self, module: str, **values: object) -> Process:
        """A node; nothing is waited for."""
        return self.run(module_command(module, SPACE, {k.replace("__", "."): v for k, v in values.items()}))

    def run(self, command: list[str], more: dict[str, str] | None = None) -> Process:
        """Any process; killed at the end at the latest."""
        output = self.folder / f"process{next(self._names)}.txt"
        self._started.append(Process(command, {**self.env, **(more or {})}, output))
        return self._started[-1]

    def start_host(self, *, wait: bool = True, **values: object) -> Process:
        """A robot host; the one before must have ended. With ``wait``, what the client knows is of the new one."""
        began = time.monotonic_ns()
        self.host = self.start(HOST, robot="fr3_sim", state_dir=self.folder, **values)
        if wait:
            self.host.wait_for(" Hz, ")
            until("the new host reports", lambda: self.client.report.stamp_ns > began)
            before = self.client.status
            until("the new host tells its status", lambda: self.client.status is not before)
        return self.host

    def driver(self, kind: str, epoch: int, path: Path | None = None) -> Process:
        """Somebody who drives with this epoch, or with a lease of the table at ``path``, as a process."""
        process = self.run([sys.executable, str(Path(__file__)), kind, SPACE, str(path or epoch)])
        process.wait_for("driving")
        return process

    def epoch(self) -> int:
        """A newer epoch than all before."""
        return max(next(self._epochs), self.client.report.epoch + 1)

    def fault(self, name: str, value: object) -> None:
        result = set_parameter(self.node_for_calls(), f"{SPACE}/sim_arm", f"fault.{name}", value)
        assert result.successful, result.reason

    def node_for_calls(self) -> Any:
        return _Spun(self.node)

    def forget(self) -> None:
        """Drop what was recorded so far."""
        for recorder in (self.poses, self.orders, self.reports):
            recorder.take()

    def settle(self) -> None:
        """No faults, no stop, nobody drives; a frozen driver would hold up whoever uses its port of the middleware."""
        for process in self._started:
            if process not in (self.arm, self.host):
                process.kill()
        self.fault("joint_states", "none")
        until("the host can be cleared", self.cleared)
        until("the host is idle", lambda: self.mode is Mode.IDLE)
        self.forget()

    def cleared(self) -> bool:
        """A person clears the host; False when it refuses. What answers a report from before is void."""
        from robolearn.core.errors import RobolearnError

        try:
            self.client.clear()
        except RobolearnError:
            return False
        self.client.wait(self.client.later(2), 5.0)  # one may have been on its way
        return True

    @property
    def mode(self) -> Mode:
        return self.client.report.mode

    def order(self, kind: OrderKind, values: np.ndarray, epoch: int, timeout_s: float = 2.0) -> Report:
        """Send an order and wait for the report that answers it."""
        sequence = self.client.send(kind, values, epoch=epoch)
        return self.client.wait(self.client.answered(sequence, epoch), timeout_s)

    def go(self, tip: np.ndarray, epoch: int | None = None) -> None:
        """Drive the tip to a pose."""
        mine = self.epoch() if epoch is None else epoch

        def there() -> bool:
            self.client.send(OrderKind.GOTO, tip, epoch=mine)
            time.sleep(RESEND_S)
            off = self.client.report.observation["tool_pose"][:3] - tip[:3]
            return self.client.report.settled and float(np.linalg.norm(off)) < 0.01

        until("the arm arrives", there)

    def swing(self, epoch: int, to: np.ndarray = FAR) -> None:
        """Order the tip to a far pose until it is fast, and leave it on the way."""

        def speed() -> bool:
            self.client.send(OrderKind.GOTO, to, epoch=epoch)
            time.sleep(RESEND_S)
            return peak_speed(self.poses.look()) > FAST

        until("the reference is fast", speed, 10.0)

    def _poll(self) -> None:
        while not self._over.wait(0.02):
            for recorder in (self.poses, self.orders, self.reports):
                recorder.poll()

    def close(self) -> None:
        self._over.set()
        self._poller.join()
        self.client.close()
        for process in self._started:
            process.kill()


class _Spun:
    """A node for ``ros_world.call`` while another thread spins the real one: it needs one of its own."""

    def __new__(cls, node: Any) -> Any:
        import rclpy

        key = "_fault_caller"
        if not hasattr(cls, key):
            setattr(cls, key, {})
        known = getattr(cls, key)
        if id(node) not in known:
            known[id(node)] = rclpy.create_node("fault_caller", context=node.context)
        return known[id(node)]


def world_of(request: pytest.FixtureRequest, env: dict[str, str], make: Any) -> World:
    """The world of this test session, made when first asked for."""
    stash = request.config.stash
    if _KEY not in stash:
        stash[_KEY] = World(env, make.mktemp("faults"))
        request.session.addfinalizer(stash[_KEY].close)
    return stash[_KEY]


@pytest.fixture
def world(request: pytest.FixtureRequest, ros_env: dict[str, str], tmp_path_factory: Any) -> Any:
    """The one world, settled before and after a test."""
    pytest.importorskip("rclpy")
    shared = world_of(request, ros_env, tmp_path_factory)
    shared.settle()
    yield shared
    shared.settle()


def last_order(orders: list[Taken], epoch: int) -> Taken:
    """The last order with this epoch."""
    from robolearn.ros.messages import from_message

    mine = [one for one in orders if Order.unpack(from_message(one.message)).epoch == epoch]
    assert mine, f"no order with epoch {epoch} was recorded"
    return mine[-1]


def tell(text: str) -> None:
    """A measured figure, for people (pytest -s)."""
    sys.stdout.write(f"\n  {text}\n")


def main(arguments: list[str]) -> int:
    """Drive until told to end. KIND NAMESPACE EPOCH

    ``goto``: to and fro at full speed. ``push``: the same action again and again. ``hog``: as goto, while four threads
    of this process keep its interpreter busy. ``lease``: as goto, under a lease of the table whose path EPOCH is.
    """
    kind, space = arguments[0], arguments[1]
    epoch = _leased(Path(arguments[2])) if kind == "lease" else int(arguments[2])
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    from robolearn.ros.client import HostClient

    if kind == "hog":
        for _ in range(4):
            threading.Thread(target=_burn, args=(over.is_set,), daemon=True).start()
    with HostClient(space, patience_s=20.0) as client:
        goals = itertools.cycle([FAR, NEAR])
        goal, sent = next(goals), 0
        while not over.wait(0.0 if kind == "push" else RESEND_S):
            order = (
                (OrderKind.GOTO, goal) if kind != "push" else (OrderKind.DELTA, np.array([0.006, 0, 0, 0, 0, 0, 0.2]))
            )
            sequence = client.send(*order, epoch=epoch)
            sent += 1
            report = client.wait(client.answered(sequence, epoch), 5.0) if kind == "push" else client.report
            if sent == 5:
                say("driving")
            if report.epoch > epoch:
                say(f"fenced by {report.epoch}")
            if float(np.linalg.norm(report.observation["tool_pose"][:3] - goal[:3])) < 0.02:
                goal = next(goals)
    return 0


def _leased(path: Path) -> int:
    """Lease the robot of a table for one second at a time; the epoch."""
    from robolearn.hal.heartbeat import Heartbeat
    from robolearn.hal.leases import LeaseTable, Request

    table = LeaseTable(path)
    lease = table.acquire(Request("robot"), holder="driver", ttl_s=1.0)
    say(f"epoch {lease.epoch} .")
    table.close()
    Heartbeat(lambda: LeaseTable(path), [lease], on_lost=lambda lost: say(f"lost: {lost.lost}")).__enter__()
    return lease.epoch


def say(text: str) -> None:
    """For whoever started this program."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _burn(over: Callable[[], bool]) -> None:
    while not over():
        sum(range(10_000))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
