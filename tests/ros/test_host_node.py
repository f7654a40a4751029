"""The robot host against what must not stop it: bad calls, unread output, floods, rivals, its own errors."""

from __future__ import annotations

import fcntl
import itertools
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ros_world import Process, call, module_command, until

pytest.importorskip("rclpy")

from robolearn.core.clock import FakeClock
from robolearn.core.errors import RobolearnError
from robolearn.hal.chain import Chain
from robolearn.hal.host.config import Gripper, preset
from robolearn.hal.host.feedback import Reading
from robolearn.hal.host.fence import EpochFence
from robolearn.hal.host.wire import Mode, Order, OrderKind
from robolearn.ros import context, robot_host
from robolearn.ros.gripper import GripperPort
from robolearn.ros.journal import Journal, unread_stderr
from robolearn.ros.messages import LARGEST, to_message

SPACE, HERE = "/node_1", "/node_2"
"""Namespaces of the host that is a process and of those of this process."""
HOME = np.array([0.0, -0.2, 0.0, -2.3, 0.0, 2.1, 0.785])
SECOND = 1_000_000_000


class Port:
    """An arm that stays where it is, and keeps what it is told."""

    states_topic = command_topic = "somewhere"

    def __init__(self, clock: Any) -> None:
        self.clock, self.told, self.fails = clock, [], False
        self.gripper = SimpleNamespace(problem="")

    def read(self) -> Reading:
        if self.fails:
            raise OSError("the middleware is gone")
        return Reading(HOME, np.zeros(7), 0, self.clock.now_ns(), np.zeros(6), self.clock.now_ns())

    def write(self, setpoint: Any) -> None:
        self.told.append(setpoint.pose)


@pytest.fixture
def host(make_node: Any, monkeypatch: pytest.MonkeyPatch) -> robot_host.HostNode:
    """A host of this process with a still arm; nobody runs it."""
    monkeypatch.setattr(robot_host, "ArmPort", lambda node, config, joints, clock: Port(clock))
    return robot_host.HostNode(make_node("robot_host", HERE), preset("fr3_sim"), EpochFence(None))


def ask(host: robot_host.HostNode, name: str, frees: bool, age_s: float = 0.0) -> queue.SimpleQueue[tuple[bool, str]]:
    """Queue a service call of some age."""
    asked = host.clock.now_ns() - int(age_s * SECOND)
    request = robot_host._Request(getattr(host, name), frees, asked)
    host._requests.put(request)
    return request.answer


def drive(host: robot_host.HostNode) -> None:
    """Order the tip away, so that the reference moves; it does after this."""
    goal = Chain.load("fr3", host.config.tip).pose(HOME)
    goal[:3] += [0.0, 0.05, 0.0]
    goal[3:] = [0.0, 1.0, 0.0, 0.0]
    host._new_orders = lambda: [Order(OrderKind.GOTO, 1, 1, next(numbers), host.host._number, 0.0, goal)]
    numbers = itertools.count()
    for _ in range(30):
        host._tick(host.pace.wait())
    assert host.host.mode is Mode.DRIVING, host.host.refusal
    assert not host.host.at_rest


def test_whatever_fails_in_a_tick_brakes_and_ends(host: robot_host.HostNode) -> None:
    drive(host)
    before = len(host.port.told)
    host.port.fails = True
    assert host.run() == 1
    braking = np.array(host.port.told[before - 1 :])
    steps = np.linalg.norm(np.diff(braking[:, :3], axis=0), axis=1)
    assert len(steps) > 3, "it goes on publishing until the reference is at rest"
    assert steps[-1] < 1e-5 < steps[0]
    assert (host.host.mode, "middleware is gone" in host.host.reason) == (Mode.STOPPED, True)


def test_without_the_thread_that_serves_the_stop_it_does_not_drive(host: robot_host.HostNode) -> None:
    drive(host)
    assert host.run(lambda: False) == 1
    assert "serves the stop" in host.host.reason


def test_a_call_that_raises_is_answered_and_ends_the_host(host: robot_host.HostNode) -> None:
    host._broken = lambda now: 1 // 0
    answer = ask(host, "_broken", False)
    assert host.run() == 1
    done, words = answer.get_nowait()
    assert not done
    assert "ZeroDivisionError" in words


def test_a_reset_never_undoes_a_stop_that_came_with_it(host: robot_host.HostNode) -> None:
    host._tick(host.pace.wait())
    reset, stop = ask(host, "_reset", True), ask(host, "_estop", False)
    host._tick(host.pace.wait())
    assert stop.get_nowait()[0]
    assert (host.host.mode, host.host.reason) == (Mode.STOPPED, "stopped through the estop service")
    done, words = reset.get_nowait()
    assert (done, "not cleared: the stop came only" in words) == (False, True)
    now = host.clock.now_ns() + 2 * SECOND
    stale = ask(host, "_reset", True)
    host._serve(now)
    assert "late" in stale.get_nowait()[1], "whoever sent it has given up long ago"
    late = ask(host, "_estop", False, age_s=3.0)
    host._serve(now)
    assert late.get_nowait()[0], "a stop is never too late"


def test_nothing_frees_a_host_that_is_ending(host: robot_host.HostNode) -> None:
    drive(host)
    resume, reset = ask(host, "_resume", True), ask(host, "_reset", True)
    host.end()
    assert host.run() == 0
    assert host.host.at_rest
    for answer in (resume, reset):
        assert answer.get_nowait() == (False, "not done: the host is shutting down")
    assert host.host.paused


def test_a_bad_callback_leaves_the_services_alive(make_node: Any) -> None:
    from std_srvs.srv import Trigger

    node = make_node("spun")
    errors: list[BaseException] = []

    def serve(request: Any, response: Any) -> Any:
        if not errors:
            raise ValueError("77 is no parameter type")
        response.success = True
        return response

    node.create_service(Trigger, "~/ask", serve)
    other = make_node("other")
    client = other.create_client(Trigger, "spun/ask")
    with context.SpinThread([node], errors.append) as thread, context.SpinThread([other]):
        assert client.wait_for_service(10.0)
        lost = client.call_async(Trigger.Request())
        until("it failed", lambda: errors)
        client.remove_pending_request(lost)
        answer = client.call_async(Trigger.Request())
        until("it serves the next", answer.done)
        assert thread.alive


def test_the_journal_tells_one_line_of_a_kind_a_second() -> None:
    clock, said = FakeClock(), []
    journal = Journal(lambda alarming, line: said.append(line), clock)
    for i in range(1000):
        journal.note("rejected", f"bad {i}")
        journal.tell()
    journal.note("stop", "stopped")
    journal.tell()
    assert said == ["bad 0", "stopped"]
    clock.advance(1.0)
    journal.tell()
    assert said[2:] == ["bad 999 (and 998 before it)"]


def full_pipe() -> tuple[int, int]:
    """A pipe that nobody reads and that takes nothing more."""
    source, sink = os.pipe()
    fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(sink, False)
    while True:
        try:
            os.write(sink, b"x" * 512)
        except BlockingIOError:
            os.set_blocking(sink, True)
            return source, sink


def test_standard_error_that_nobody_reads_blocks_nobody() -> None:
    source, sink = full_pipe()
    dropped = 0
    with unread_stderr(sink):
        for _ in range(1000):
            try:
                os.write(sink, b"x" * 4096)
            except BlockingIOError:
                dropped += 1
    assert dropped > 900
    os.close(source)
    os.close(sink)


def test_the_gripper_is_told_once_its_server_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server at first; then a goal that fails, one that arrives, and an old one's answer that comes late."""
    goals: list[Any] = []

    class Future:
        def __init__(self, result: Any = None) -> None:
            self._result, self.calls = result, []

        def add_done_callback(self, call: Any) -> None:
            self.calls.append(call)

        def result(self) -> Any:
            if self._result is None:
                raise RuntimeError("the server died")
            return self._result

        def done(self) -> None:
            for callback in self.calls:
                callback(self)

    class Client:
        ready = False

        def __init__(self, *_: Any) -> None:
            self.server_is_ready = lambda: Client.ready

        def send_goal_async(self, goal: Any) -> Future:
            goals.append((goal.command.position, Future()))
            return goals[-1][1]

    action = ModuleType("control_msgs.action")
    action.GripperCommand = SimpleNamespace(Goal=lambda: SimpleNamespace(command=SimpleNamespace()))
    monkeypatch.setitem(sys.modules, "control_msgs", ModuleType("control_msgs"))
    monkeypatch.setitem(sys.modules, "control_msgs.action", action)
    monkeypatch.setattr("rclpy.action.client.ActionClient", Client)
    port = GripperPort(None, Gripper(kind="action", opened=1.0, timeout_s=3.0))
    port.command(1.0, None, 0)
    port.command(1.0, None, SECOND)
    assert goals == []
    Client.ready = True
    for ms in range(1100, 1400):
        port.command(1.0, None, ms * 1_000_000)
    assert [position for position, _ in goals] == [1.0], "once"
    goals[0][1].done()  # its future raises
    port.command(1.0, None, 5 * SECOND)
    assert "has not reached opening 1.00" in port.problem
    port.command(0.5, None, 6 * SECOND)
    arrived = Future(SimpleNamespace(result=SimpleNamespace(reached_goal=True, stalled=False)))
    handle = SimpleNamespace(accepted=True, get_result_async=lambda: arrived)
    for (_, accepted), pending in zip(
        goals, (True, False), strict=True
    ):  # the answer of the older goal changes nothing
        accepted._result = handle
        accepted.done()
        arrived.done()
        assert port._pending is pending
    port.command(0.5, None, 20 * SECOND)
    assert port.problem == ""


class Live:
    """A simulated arm and a host whose standard error nobody reads."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        from robolearn.ros.client import HostClient

        self.env, self.folder = env, folder
        self._source, sink = full_pipe()
        self._arm = Process(module_command("robolearn.ros.sim_arm", SPACE, {}), env, folder / "arm.txt")
        self._host = subprocess.Popen(self.command(folder), env=env, stdin=subprocess.DEVNULL, stderr=sink)
        os.close(sink)
        try:
            self.client = HostClient(SPACE, patience_s=60.0)
            self.node = self.client.node
            until("the arm is heard", lambda: not self.trouble)
        except BaseException:
            self._arm.kill()
            self._host.kill()
            self._host.wait()
            os.close(self._source)
            raise

    @staticmethod
    def command(state: Path) -> list[str]:
        return module_command("robolearn.ros.robot_host", SPACE, {"robot": "fr3_sim", "state_dir": state})

    @property
    def trouble(self) -> str:
        return self.client.status.get("trouble", "")

    def count(self, name: str) -> int:
        return int(self.client.status.get(f"count/{name}", 0))

    def close(self) -> None:
        self.client.close()
        self._host.kill()
        self._host.wait(10.0)
        self._arm.kill()
        os.close(self._source)


@pytest.fixture(scope="module")
def live(ros_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    made = Live(ros_env, tmp_path_factory.mktemp("live"))
    yield made
    made.close()


def test_it_offers_no_parameter_services(live: Live) -> None:
    names = [name for name, _ in live.node.get_service_names_and_types()]
    assert f"{SPACE}/robot_host/estop" in names
    assert not [name for name in names if name.startswith(f"{SPACE}/robot_host/") and "parameter" in name]


def test_long_messages_and_floods_are_counted_and_cost_no_time(live: Live) -> None:
    from std_msgs.msg import Float64MultiArray

    ticks, rejected = int(live.client.status["ticks"]), live.count("rejected")
    for _ in range(3):
        live.client._orders.publish(to_message([("values", np.zeros(200_000))]))
    until("counted", lambda: live.count("rejected") == rejected + 3)
    until("and it ticks", lambda: int(live.client.status["ticks"]) > ticks + 100)
    live.client._orders.publish(Float64MultiArray())
    until("counted", lambda: live.count("rejected") == rejected + 4)


def test_orders_of_one_tick_are_few_and_the_newest_of_each_sender(host: robot_host.HostNode, make_node: Any) -> None:
    from std_msgs.msg import Float64MultiArray

    sent = make_node("sender", HERE).create_publisher(Float64MultiArray, "robot_host/command", 64)
    until("discovery", lambda: sent.get_subscription_count() == 1)
    for sequence, sender in itertools.product(range(16), (1, 2)):
        order = Order(OrderKind.HOLD, 1, sender, sequence, -1, 0.0, np.zeros(0))
        sent.publish(to_message(order.pack()))
    sent.publish(to_message([("values", np.zeros(LARGEST))]))
    seen: list[list[tuple[int, int]]] = []

    def all_came() -> bool:
        seen.append([(order.sender, order.sequence) for order in host._new_orders()])
        return host.host.counts["rejected"] == 1

    until("all came", all_came)
    assert all(len(orders) <= 2 for orders in seen)
    assert seen[0] in ([(1, 3), (2, 3)], seen[0][:2]), "eight are taken of those that wait"
    flat = [order for orders in seen for order in orders]
    assert flat[-2:] == [(1, 15), (2, 15)]


def test_a_second_host_on_this_machine_is_refused_in_one_line(live: Live, capfd: pytest.CaptureFixture[str]) -> None:
    assert robot_host.main(live.command(live.folder)[3:]) == 2
    said = capfd.readouterr().err
    assert f"{SPACE} has a robot host already, process {live._host.pid}" in said
    assert said.count("\n") == 1


def test_it_does_not_drive_while_another_commands_the_arm(live: Live, make_node: Any) -> None:
    from geometry_msgs.msg import PoseStamped
    from std_msgs.msg import UInt32

    node = make_node("rival", SPACE)
    publisher = node.create_publisher(PoseStamped, "target_pose", 1)
    until("it is noticed", lambda: f"{SPACE}/rival publishes on {SPACE}/target_pose too" in live.trouble)
    sequence = live.client.send(OrderKind.DELTA, np.zeros(7), epoch=100)
    assert live.client.wait(live.client.answered(sequence, 100), 5.0).rejected
    node.destroy_publisher(publisher)
    until("it is over", lambda: not live.trouble)
    beats = node.create_publisher(UInt32, "robot_host/heartbeat", context.STATE)  # of a host on another machine

    def noticed() -> bool:
        beats.publish(UInt32())
        time.sleep(0.04)
        return "another robot host answers" in live.trouble

    until("the twin is noticed", noticed)
    until("it is over", lambda: not live.trouble)


def test_joints_of_others_and_single_blows(live: Live, make_node: Any) -> None:
    """A gripper on the topic of joint states changes nothing; of the forces between two ticks the largest counts."""
    from geometry_msgs.msg import WrenchStamped
    from sensor_msgs.msg import JointState

    node = make_node("hand", SPACE)
    states = node.create_publisher(JointState, "joint_states", context.STATE)
    forces = node.create_publisher(WrenchStamped, "wrench", 20)
    until("discovery", lambda: states.get_subscription_count() and forces.get_subscription_count())
    troubles, begun, blow = set(), live.client.report.number, WrenchStamped()
    blow.wrench.force.z = 1000.0

    def over() -> bool:
        states.publish(JointState(name=["finger"], position=[0.0], velocity=[0.0]))
        troubles.add(live.trouble)
        return live.client.report.number > begun + 5

    until("some time", over)
    assert troubles == {""}
    forces.publish(blow)
    until("one blow stops it", lambda: live.client.report.mode is Mode.STOPPED)
    until("the reason is told", lambda: "contact force 1000.0 N" in live.client.status["reason"])
    begun_s = time.monotonic()
    live.client.clear()
    assert time.monotonic() - begun_s < 5.0
    until("it is cleared", lambda: live.client.report.mode is Mode.IDLE)


def test_a_stop_that_is_not_confirmed_is_an_error(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from robolearn.ros.client import HostSilentError

    monkeypatch.setattr(live.client, "_call", lambda service: (False, "the host's loop does not answer"))
    with pytest.raises(HostSilentError, match=r"did not confirm the stop \(a hand\): the host's loop"):
        live.client.stop("a hand")


def test_status_says_where_joint_states_come_from_and_what_is_paused(live: Live) -> None:
    from robolearn.ros.checks import _listen

    assert live.client.status["joint_states"] == f"{SPACE}/joint_states"
    assert live.client._call("hold")[0]
    until("it is shown", lambda: live.client.status["paused"] == "paused by a person")
    assert live.client._call("resume")[0]
    until("it is over", lambda: live.client.status["paused"] == "")
    assert _listen(live.client, 0.3)
    live.client._status["joint_states"] = "/elsewhere"
    assert _listen(live.client, 0.1) == []


def test_a_pause_while_the_arm_is_reset_is_waited_for(live: Live) -> None:
    from robolearn.ros.drivers import ros2

    robot = ros2.build(ros2.Config(SPACE))
    failed: list[BaseException] = []

    def reset() -> None:
        try:
            robot._go(np.array([0.36, 0.0, 0.32, 0.0, 1.0, 0.0, 0.0]), passing=True)
        except RobolearnError as error:
            failed.append(error)

    try:
        robot.take(max(200, live.client.report.epoch + 1))
        assert live.client._call("hold")[0]
        thread = threading.Thread(target=reset)
        thread.start()
        until("it is refused", lambda: live.client.report.rejected)
        assert live.client._call("resume")[0]
        thread.join(30.0)
        assert (failed, thread.is_alive()) == ([], False)
        assert robot.observe()["tool_pose"][0] == pytest.approx(0.36, abs=0.01)

        class Slow:
            """A camera whose image takes three reports."""

            def look(self) -> dict[str, Any]:
                robot._client.wait(lambda report, first=robot._client.report.number: report.number > first + 2, 5.0)
                self.number = robot._client.report.number
                return {}

        robot._eyes = Slow()
        robot.observe()
        assert robot._report.number >= robot._eyes.number, "the state is no older than the image"
    finally:
        robot.close()


def test_whether_an_arm_is_simulated_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from robolearn.ros import client
    from robolearn.ros.drivers import ros2

    class Client:
        simulated = True

        def __init__(self, namespace: str) -> None: ...
        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

    now = [1e6]
    monkeypatch.setattr(client, "HostClient", Client)
    monkeypatch.setattr(ros2, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert ros2.simulated("/changing")
    Client.simulated = False
    now[0] += 2.1
    assert not ros2.simulated("/changing")


def test_a_stop_is_left_for_a_second(live: Live, make_node: Any) -> None:
    """A reset right after a stop is refused by the service itself; a second later a person can clear it."""
    from std_srvs.srv import Trigger

    node = make_node("person", SPACE)
    assert call(node, Trigger, "robot_host/estop").success
    answer = call(node, Trigger, "robot_host/reset")
    assert (answer.success, "came only" in answer.message) == (False, True)
    until("it is cleared", lambda: call(node, Trigger, "robot_host/reset").success, 10.0)
    until("that is seen", lambda: live.client.report.mode is Mode.IDLE)
    assert call(node, Trigger, "robot_host/estop").success
    until("it is seen", lambda: live.client.report.mode is Mode.STOPPED)
    live.client.clear()  # it has seen the stop, and leaves it alone for a second


def test_host_up_sweeps_and_nodes_use_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    from robolearn.cli import host as cli
    from robolearn.ros import processes, shared_memory

    done: list[str] = []
    monkeypatch.setattr(shared_memory, "sweep", lambda: done.append("sweep"))
    group = SimpleNamespace(run=lambda *_, **__: done.append("run") or 0)
    monkeypatch.setattr(processes, "Group", lambda *_: group)
    assert cli.main(["up"]) == 0
    assert done == ["sweep", "run"]
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "mine")
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE")
    with context.context():
        assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == str(context.profile_path())
