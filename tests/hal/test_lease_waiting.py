"""Who is served first, whom a place in the queue holds up, and what becomes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from robolearn.core.clock import FakeClock
from robolearn.core.errors import LeaseError
from robolearn.hal.leases import Lease, LeaseTable, Request, Waiter
from robolearn.hal.liveness import ProcessId
from robolearn.hal.resources import Resource

A, B, C, ANY = (*(Request("robot", f"arm{i}") for i in range(3)), Request("robot"))
HALF, WHOLE = Request("gpu", amount=0.5), Request("gpu", amount=1.0)


class World:
    """A host with three arms and two GPUs; every process has a table of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, FakeClock(10**12)
        self.dead: set[ProcessId] = set()
        self.tables: dict[int, LeaseTable] = {}

    def table(self, pid: int) -> LeaseTable:
        if pid not in self.tables:
            me = ProcessId("boot", "ns", pid, 1)
            self.tables[pid] = LeaseTable(self.path, self.clock, me=me, dead=self.dead.__contains__)
        return self.tables[pid]

    def kill(self, pid: int) -> None:
        self.dead.add(self.table(pid).me)

    def take(self, pid: int, *requests: Request) -> list[Lease]:
        return self.table(pid).acquire_all(requests, holder=f"p{pid}", ttl_s=1000)

    def wait(self, pid: int, *requests: Request) -> Waiter:
        """A waiter that has asked once in vain."""
        waiter = self.table(pid).waiter(requests, holder=f"p{pid}", ttl_s=1000)
        assert isinstance(waiter.attempt(), str)
        return waiter

    def give(self, pid: int, leases: list[Lease]) -> None:
        for lease in leases:
            self.table(pid).release(lease)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "leases.db")
    for index in range(3):
        world.table(0).register(Resource(f"arm{index}", "robot"))
    for index in range(2):
        world.table(0).register(Resource(f"gpu:{index}", "gpu"))
    yield world
    for table in world.tables.values():
        table.close()


def got(waiter: Waiter) -> list[str]:
    answer = waiter.attempt()
    return [] if isinstance(answer, str) else [lease.resource for lease in answer]


def test_first_come_first_served(world: World) -> None:
    held = world.take(1, A)
    waiters = [world.wait(pid, A) for pid in (2, 3, 4)]
    world.give(1, held)
    assert [got(waiter) for waiter in reversed(waiters)] == [[], [], ["arm0"]]
    assert [ticket.holder for ticket in world.table(0).queue()] == ["p3", "p4"]


def test_who_does_not_wait_does_not_overtake_who_does(world: World) -> None:
    held = world.take(1, A)
    waiter = world.wait(2, A)
    world.clock.advance(1)
    waiter.attempt()
    world.give(1, held)
    with pytest.raises(LeaseError, match=r"arm0 is promised to p2 \(pid 2\), who has waited for 1\.0 s"):
        world.take(3, A)
    assert got(waiter) == ["arm0"]


def test_small_requests_do_not_starve_a_large_one(world: World) -> None:
    """Two arms are always free in turn, never both at once but for the queue."""
    held = {pid: world.take(pid, request) for pid, request in ((1, A), (2, B))}
    large = world.wait(3, A, B)
    world.give(1, held[1])
    small = world.wait(4, A)
    assert not got(large)
    assert not got(small)
    world.give(2, held[2])
    assert not got(small)
    assert got(large) == ["arm0", "arm1"]


def test_who_does_not_collide_may_pass(world: World) -> None:
    held = world.take(1, A)
    waiter = world.wait(2, A, B)
    assert [lease.resource for lease in world.take(3, C)] == ["arm2"]
    with pytest.raises(LeaseError, match="arm1 is promised"):
        world.take(4, B)
    world.give(1, held)
    assert got(waiter) == ["arm0", "arm1"]


def test_who_is_content_with_any_leaves_the_one_another_needs(world: World) -> None:
    held = world.take(1, A, B, C)
    first = world.wait(2, ANY)
    world.give(1, held[:2])
    assert [lease.resource for lease in world.take(3, A)] == ["arm0"], "the one who waits can have arm1"
    with pytest.raises(LeaseError, match="promised"):
        world.take(4, ANY)
    assert got(first) == ["arm1"]


def test_overlapping_wishes_are_all_met_in_the_end(world: World) -> None:
    held = world.take(1, A, B, C)
    waiters = {pid: world.wait(pid, *wish) for pid, wish in ((2, (A, B)), (3, (B, C)), (4, (C, A)))}
    for lease in held:
        world.give(1, [lease])
        assert not got(waiters[4])
    order = []
    for _ in range(3):
        for pid, waiter in list(waiters.items()):
            answer = waiter.attempt()
            if not isinstance(answer, str):
                order.append(pid)
                world.give(pid, answer)
                del waiters[pid]
    assert order == [2, 3, 4]


def test_a_whole_gpu_is_collected_while_halves_come_and_go(world: World) -> None:
    halves = [world.take(pid, HALF)[0] for pid in (1, 2, 3, 4)]
    assert sorted(lease.resource for lease in halves) == ["gpu:0", "gpu:0", "gpu:1", "gpu:1"]
    whole = world.wait(5, WHOLE)
    world.give(1, [halves[0]])
    with pytest.raises(LeaseError, match="gpu:0 is promised to p5"):
        world.take(6, HALF)
    world.give(3, [halves[2]])
    assert [lease.resource for lease in world.take(6, HALF)] == ["gpu:1"], "one of the two is enough for who waits"
    world.give(2, [halves[1]])
    assert got(whole) == ["gpu:0"]


def test_who_waits_for_a_person_holds_nobody_up(world: World) -> None:
    world.table(0).quarantine("arm0", "gripper loose")
    waiter = world.wait(1, A, B)
    held = world.take(2, B)
    world.give(2, held)
    world.table(0).clear("arm0")
    with pytest.raises(LeaseError, match="promised to p1"):
        world.take(2, B)
    assert got(waiter) == ["arm0", "arm1"]


def test_the_holder_of_what_another_waits_for_is_let_pass(world: World) -> None:
    """Else the holder would wait for the waiter while that waits for the holder."""
    held = world.take(1, A)
    waiter = world.wait(2, A, B)
    more = world.take(1, B)
    assert not got(waiter)
    world.give(1, held + more)
    assert got(waiter) == ["arm0", "arm1"]


@pytest.mark.parametrize("how", ["killed", "silent", "left"])
def test_a_place_ends_with_its_waiter(world: World, how: str) -> None:
    held = world.take(1, A)
    waiter = world.wait(2, A, B)
    with pytest.raises(LeaseError):
        world.take(3, B)
    if how == "killed":
        world.kill(2)
    elif how == "silent":
        world.clock.advance(2)
    else:
        waiter.leave()
    world.take(3, B)
    assert world.table(0).queue() == []
    if how == "silent":  # it was stopped, and finds its old place again
        later = world.wait(4, A)
        assert not got(waiter)
        world.give(1, held)
        assert not got(later)
        assert [ticket.holder for ticket in world.table(0).queue()] == ["p2", "p4"]


def test_a_place_is_kept_by_asking(world: World) -> None:
    world.take(1, A)
    waiter = world.wait(2, A)
    for _ in range(10):
        world.clock.advance(1.9)
        waiter.attempt()
    (ticket,) = world.table(0).queue()
    assert ticket.waited_s == pytest.approx(19)
    assert ticket.requests == (A,)


def test_a_failed_wait_leaves_no_place_behind(world: World) -> None:
    world.take(1, A)
    with pytest.raises(LeaseError, match=r"held by p1.*waited 3\.0 s"):
        world.table(2).acquire(A, holder="p2", ttl_s=10, wait_s=3)
    assert world.table(0).queue() == []
    with pytest.raises(LeaseError, match="no robot 'arm9' is known"):
        world.table(2).acquire(Request("robot", "arm9"), holder="p2", ttl_s=10, wait_s=10**6)
    assert world.clock.now_ns() < 10**12 + 10**10, "nobody waits for what cannot be"
    with pytest.raises(LeaseError, match="wait >= 0"):
        world.table(2).acquire(A, holder="p2", ttl_s=10, wait_s=-1)


def test_places_of_an_earlier_boot_are_gone(world: World) -> None:
    world.take(1, A)
    world.wait(2, A)
    with LeaseTable(world.path, world.clock, me=ProcessId("boot2", "ns", 2, 1), dead=lambda _: False) as after:
        assert after.queue() == []
