"""Randomised trials: several processes take, keep, lose, wait for and give back robots; some die, some sleep.

The ledger here is kept from what the table answered, by rules simpler than the table's own. It checks that

- no two unexpired leases of an exclusive resource exist at once, and shares never exceed the capacity;
- epochs of a resource strictly increase;
- a grant takes nothing from anybody who has waited longer: together they could get no less after it than before;
- once everything is given back, everybody who waits is served.
"""

from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.clock import FakeClock
from robolearn.core.errors import LeaseError
from robolearn.hal.check import Finding
from robolearn.hal.leases import Lease, LeaseTable, Request, Waiter
from robolearn.hal.liveness import ProcessId
from robolearn.hal.resources import Resource
from robolearn.hal.waiting import TICKET_S

ARMS = ("arm0", "arm1", "arm2", "sim0")
PROCESSES = 5
TTL_S = 2.0


@dataclass
class Granted:
    """A lease as its holder sees it."""

    pid: int
    lease: Lease
    expires_ns: int
    over: bool = False


@dataclass
class Place:
    """A request that waits."""

    pid: int
    requests: tuple[Request, ...]
    waiter: Waiter
    asked_ns: int
    number: int


@dataclass
class Trial:
    path: Path
    rng: np.random.Generator
    clock: FakeClock = field(default_factory=lambda: FakeClock(10**12))
    dead: set[int] = field(default_factory=set)
    asleep: set[int] = field(default_factory=set)
    granted: list[Granted] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    epochs: dict[str, int] = field(default_factory=dict)
    grants: int = 0
    waited: int = 0

    def __post_init__(self) -> None:
        self.tables = [self.open(pid) for pid in range(PROCESSES)]
        for name in ARMS:
            resource = Resource(name, "robot", {"even": even(name)}, simulated=name.startswith("sim"))
            self.tables[0].register(resource)
        self.tables[0].register(Resource("gpu:0", "gpu"))

    def open(self, pid: int) -> LeaseTable:
        me = ProcessId("boot", "ns", pid, 1)
        table = LeaseTable(self.path, self.clock, me=me, dead=lambda process: process.pid in self.dead)
        table._store.db.execute("PRAGMA synchronous = OFF")  # no power is cut here
        return table

    def close(self) -> None:
        for table in self.tables:
            table.close()

    def live(self) -> list[Granted]:
        now = self.clock.now_ns()
        return [g for g in self.granted if not g.over and g.expires_ns > now and g.pid not in self.dead]

    def free(self) -> set[str]:
        return {row.resource.id for row in self.tables[0].status() if row.free > 0 and row.resource.kind == "robot"}

    def wish(self) -> tuple[Request, ...]:
        """One to three robots, by name, label or any, and now and then a share of the GPU."""
        rng = self.rng
        kind = rng.integers(3)
        if kind == 0:
            names = rng.choice(ARMS, size=rng.integers(1, 4), replace=False)
            requests = [Request("robot", str(name)) for name in names]
        elif kind == 1:
            requests = [Request("robot", labels={"even": str(bool(rng.integers(2)))})]
        else:
            requests = [Request("robot")] * int(rng.integers(1, 3))
        if rng.random() < 0.3:
            requests.append(Request("gpu", amount=float(rng.choice([0.4, 1.0]))))
        return tuple(requests)

    def attempt(self, place: Place) -> bool:
        """One attempt; True when it was granted."""
        rivals, before = self.rivals(place), self.free()
        answer = place.waiter.attempt()
        place.asked_ns = self.clock.now_ns()
        if isinstance(answer, str):
            place.number = place.waiter.ticket or 0
            return False
        assert most(rivals, self.free()) >= most(rivals, before), (place, rivals)
        self.note(place.pid, answer)
        return True

    def rivals(self, place: Place) -> list[tuple[Request, ...]]:
        """Robots wanted by those who wait longer, are awake, could be served if all leases ended well, and do not wait
        for what this process holds."""
        now, rows = self.clock.now_ns(), self.tables[0].status()
        sound = {row.resource.id for row in rows if row.state in ("free", "leased")}
        mine = [row.resource.id for row in rows if any(hold.process.pid == place.pid for hold in row.holds)]
        return [
            robots(other.requests)
            for other in self.places
            if other is not place
            and (place.number == 0 or other.number < place.number)
            and other.pid not in self.dead
            and now - other.asked_ns < TICKET_S * 0.5e9
            and most([robots(other.requests)], sound) == len(robots(other.requests))
            and (len(robots(other.requests)) == len(other.requests) or "gpu:0" in sound)
            and not any(matches(request, name) for request in other.requests for name in mine)
        ]

    def note(self, pid: int, leases: list[Lease]) -> None:
        self.grants += 1
        for lease in leases:
            others = [g for g in self.live() if g.lease.resource == lease.resource]
            if lease.resource == "gpu:0":
                assert sum(g.lease.amount for g in others) + lease.amount <= 1.0 + 1e-9
            else:
                assert not others, (lease, others)
            assert lease.epoch > self.epochs.get(lease.resource, 0)
            self.epochs[lease.resource] = lease.epoch
            self.granted.append(Granted(pid, lease, self.clock.now_ns() + int(TTL_S * 1e9)))

    def awake(self) -> list[int]:
        return [pid for pid in range(PROCESSES) if pid not in self.dead | self.asleep]

    def step(self) -> None:
        rng = self.rng
        self.clock.advance(float(rng.choice([0.02, 0.1, 0.3, 0.9])))
        getattr(self, str(rng.choice(list(DEEDS), p=list(DEEDS.values()))))(int(rng.choice(self.awake())))

    def ask(self, pid: int) -> None:
        requests = self.wish()
        waiter = self.tables[pid].waiter(requests, holder=f"p{pid}", ttl_s=TTL_S)
        place = Place(pid, requests, waiter, self.clock.now_ns(), 0)
        if not self.attempt(place):
            self.places.append(place)
            self.waited += 1

    def again(self, pid: int) -> None:
        for place in [place for place in self.places if place.pid in self.awake()]:
            if self.attempt(place):
                self.places.remove(place)

    def beat(self, pid: int) -> None:
        for entry in [g for g in self.granted if g.pid in self.awake() and self.rng.random() < 0.9]:
            live = entry in self.live()
            try:
                self.tables[entry.pid].beat(entry.lease)
            except LeaseError:
                assert not live
                entry.over = True
            else:
                assert live
                entry.expires_ns = self.clock.now_ns() + int(TTL_S * 1e9)

    def give(self, pid: int) -> None:
        mine = [g for g in self.live() if g.pid == pid]
        if mine:
            entry = mine[int(self.rng.integers(len(mine)))]
            self.tables[pid].release(entry.lease)
            entry.over = True

    def sleep(self, pid: int) -> None:
        if len(self.awake()) > 2:
            self.asleep.add(pid)

    def wake(self, pid: int) -> None:
        self.asleep.clear()

    def die(self, pid: int) -> None:
        if len(self.awake()) > 2:
            self.dead.add(pid)
            self.places = [p for p in self.places if p.pid != pid]

    def quarantine(self, pid: int) -> None:
        name = str(self.rng.choice(ARMS))
        self.tables[pid].quarantine(name, "why")
        for entry in self.granted:
            entry.over |= entry.lease.resource == name

    def clear(self, pid: int) -> None:
        for row in self.tables[pid].status():
            if row.state in ("suspect", "quarantined"):
                self.tables[pid].clear(row.resource.id)

    def check(self, pid: int) -> None:
        for row in self.tables[pid].status():
            if row.state == "suspect" and row.resource.simulated:
                self.tables[pid].clear_checked(row.resource.id, [Finding("it answers", True, "yes")])

    def drain(self) -> None:
        """Everybody wakes, everything is given back; whoever waits gets his turn."""
        self.asleep.clear()
        for entry in self.live():
            self.tables[entry.pid].release(entry.lease)
            entry.over = True
        self.clear(self.awake()[0])
        for _ in range(len(self.places) + 1):
            for place in list(self.places):
                if self.attempt(place):
                    self.places.remove(place)
                    for entry in self.live():
                        self.tables[entry.pid].release(entry.lease)
                        entry.over = True
        assert not self.places, "somebody waits for ever"
        assert self.tables[0].queue() == []


DEEDS = {
    "ask": 0.2, "again": 0.3, "beat": 0.2, "give": 0.18, "sleep": 0.03, "wake": 0.03, "die": 0.01, "quarantine": 0.02,
    "clear": 0.02, "check": 0.01,
}  # fmt: skip
"""What may happen, and how often."""


def robots(requests: tuple[Request, ...]) -> tuple[Request, ...]:
    return tuple(request for request in requests if request.kind == "robot")


def matches(request: Request, name: str) -> bool:
    if request.kind == "gpu" or name == "gpu:0":
        return request.kind == "gpu" and name == "gpu:0"
    return request.id in ("", name) and request.labels.get("even", even(name)) == even(name)


def even(name: str) -> str:
    return str(name[-1] in "02")


def most(wishes: list[tuple[Request, ...]], free: set[str]) -> int:
    """How many of these requests can be met at once, by trying everything."""
    requests, names = [request for wish in wishes for request in wish], sorted(free)
    if len(requests) <= len(names):
        tries = (zip(requests, order, strict=True) for order in permutations(names, len(requests)))
    else:
        tries = (zip(order, names, strict=True) for order in permutations(requests, len(names)))
    return max(sum(matches(request, name) for request, name in pairs) for pairs in tries)


def run(path: Path, seed: int, steps: int) -> Trial:
    trial = Trial(path / f"{seed}.db", np.random.default_rng(seed))
    try:
        for _ in range(steps):
            trial.step()
        trial.drain()
    finally:
        trial.close()
    return trial


def check_trials(path: Path, count: int, steps: int) -> None:
    trials = [run(path, seed, steps) for seed in range(count)]
    assert sum(trial.grants for trial in trials) > 5 * count, "something has to happen in them"
    assert sum(trial.waited for trial in trials) > count


def test_trials(tmp_path: Path) -> None:
    check_trials(tmp_path, 10, 60)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_trials(tmp_path: Path) -> None:
    check_trials(tmp_path, 1000, 60)
