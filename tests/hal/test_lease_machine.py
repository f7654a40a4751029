"""The lease table against a plain model, over random histories."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from robolearn.core.clock import FakeClock
from robolearn.core.errors import LeaseError
from robolearn.hal.leases import Lease, LeaseTable, Request
from robolearn.hal.liveness import ProcessId
from robolearn.hal.resources import Resource

ROBOTS = ("arm0", "arm1", "sim0")
TTL_S = 2.0
robots = st.sampled_from(ROBOTS)
processes = st.integers(1, 3)


@dataclass
class Model:
    """What the facts say about one robot."""

    state: str = "free"
    epoch: int = 0
    pid: int = 0
    expires: float = 0.0


class Leases(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = FakeClock(0)
        self.dead: set[int] = set()
        self.model = {name: Model() for name in ROBOTS}
        self.given: list[tuple[int, Lease]] = []
        self.tables = {pid: self.open(pid) for pid in (1, 2, 3)}
        for name in ROBOTS:
            self.tables[1].register(Resource(name, "robot", simulated=name.startswith("sim")))

    def open(self, pid: int) -> LeaseTable:
        path = Path(self.directory.name) / "leases.db"
        return LeaseTable(
            path, self.clock, me=ProcessId("boot", "ns", pid, 0), dead=lambda process: process.pid in self.dead
        )

    def teardown(self) -> None:
        for table in self.tables.values():
            table.close()
        self.directory.cleanup()

    def sweep(self) -> None:
        now = self.clock.now_ns()
        for robot in self.model.values():
            if robot.state == "leased" and (robot.expires <= now or robot.pid in self.dead):
                robot.state = "suspect"

    def clear_dead(self, name: str) -> None:
        robot = self.model[name]
        if name.startswith("sim") and robot.state == "suspect" and robot.pid in self.dead:
            robot.state, robot.epoch = "free", robot.epoch + 1

    @rule(names=st.lists(robots, min_size=1, max_size=3), pid=processes)
    def acquire(self, names: list[str], pid: int) -> None:
        if pid in self.dead:
            return
        self.sweep()
        sound = len(set(names)) == len(names)  # else it is refused before anything is looked at
        for name in ROBOTS if sound else ():
            self.clear_dead(name)
        possible = sound and all(self.model[name].state == "free" for name in names)
        requests = [Request("robot", name) for name in names]
        try:
            leases = self.tables[pid].acquire_all(requests, holder=f"p{pid}", ttl_s=TTL_S)
        except LeaseError:
            assert not possible
            return
        assert possible
        for name, lease in zip(names, leases, strict=True):
            robot = self.model[name]
            assert lease.epoch == robot.epoch + 1
            robot.state, robot.epoch, robot.pid = "leased", lease.epoch, pid
            robot.expires = self.clock.now_ns() + TTL_S * 1e9
            self.given.append((pid, lease))

    def valid(self, pid: int, lease: Lease) -> bool:
        robot = self.model[lease.resource]
        return robot.state == "leased" and robot.epoch == lease.epoch and robot.expires > self.clock.now_ns()

    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        living = [(pid, lease) for pid, lease in self.given if pid not in self.dead]
        if not living:
            return
        pid, lease = data.draw(st.sampled_from(living))
        expected = self.valid(pid, lease)
        try:
            self.tables[pid].beat(lease)
        except LeaseError:
            assert not expected
            self.sweep()
        else:
            assert expected
            self.model[lease.resource].expires = self.clock.now_ns() + TTL_S * 1e9

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        living = [(pid, lease) for pid, lease in self.given if pid not in self.dead]
        if not living:
            return
        pid, lease = data.draw(st.sampled_from(living))
        expected = self.valid(pid, lease)
        self.sweep()
        try:
            self.tables[pid].release(lease)
        except LeaseError:
            assert not expected
        else:
            assert expected
            self.model[lease.resource].state = "free"

    @rule(name=robots, pid=processes)
    def quarantine(self, name: str, pid: int) -> None:
        self.tables[pid].quarantine(name, "why")
        self.model[name].state, self.model[name].epoch = "quarantined", self.model[name].epoch + 1

    @rule(name=robots, pid=processes)
    def clear(self, name: str, pid: int) -> None:
        self.sweep()
        robot = self.model[name]
        try:
            self.tables[pid].clear(name)
        except LeaseError:
            assert robot.state == "leased"
        else:
            assert robot.state != "leased"
            robot.state, robot.epoch = "free", robot.epoch + 1

    @rule(name=robots, pid=processes)
    def clear_if_dead(self, name: str, pid: int) -> None:
        self.sweep()
        self.clear_dead(name)
        assert self.tables[pid].clear_if_dead(name) == (self.model[name].state in ("free", "leased"))

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(pid=st.integers(2, 3))
    def dies(self, pid: int) -> None:
        self.dead.add(pid)

    @invariant()
    def the_table_says_what_the_model_says(self) -> None:
        self.sweep()
        rows = {row.resource.id: row for row in self.tables[1].status()}
        for name, robot in self.model.items():
            assert (rows[name].state, rows[name].epoch) == (robot.state, robot.epoch)


Leases.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestLeases = Leases.TestCase


def test_a_request_that_names_a_robot_twice_changes_nothing() -> None:
    """Not even what any other request finds and clears: simulated robots of the dead."""
    machine = Leases()
    machine.acquire(names=["sim0"], pid=2)
    machine.dies(pid=2)
    machine.acquire(names=["arm0", "arm0"], pid=1)
    machine.the_table_says_what_the_model_says()
    assert machine.model["sim0"].state == "suspect"
    machine.acquire(names=["arm0"], pid=1)
    machine.the_table_says_what_the_model_says()
    assert machine.model["sim0"].state == "free"
    machine.teardown()
