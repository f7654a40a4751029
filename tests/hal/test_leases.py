"""The lease table on a fake clock: who gets what, and who loses it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robolearn.core.clock import FakeClock, MonotonicClock
from robolearn.core.errors import LeaseError
from robolearn.hal.leases import Lease, LeaseTable, Request, default_path
from robolearn.hal.liveness import ProcessId, is_dead
from robolearn.hal.resources import Resource

ME = ProcessId("boot1", "ns", 100, 1)
OTHER = ProcessId("boot1", "ns", 200, 1)
ROBOT = Request("robot", "arm0")

Open = Callable[..., LeaseTable]


class World:
    """A host: its clock, and which processes are dead."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.dead, self.tables = path, FakeClock(10**12), set[ProcessId](), list[LeaseTable]()

    def open(self, me: ProcessId = ME) -> LeaseTable:
        self.tables.append(LeaseTable(self.path, self.clock, me=me, dead=self.dead.__contains__))
        return self.tables[-1]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "state" / "leases.db")
    table = world.open()
    for index in range(2):
        table.register(Resource(f"arm{index}", "robot", {"site": "lab" + "AB"[index], "model": "fr3"}))
    table.register(Resource("sim0", "robot", {"model": "fr3_sim"}, simulated=True))
    table.register(Resource("gpu:0", "gpu", capacity=1.0))
    yield world
    for table in world.tables:
        table.close()


def state(table: LeaseTable, resource: str) -> str:
    return next(row.state for row in table.status() if row.resource.id == resource)


def test_a_robot_has_one_holder_and_the_refusal_names_it(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    lease = mine.acquire(ROBOT, holder="train runA", ttl_s=10)
    world.clock.advance(5)
    with pytest.raises(LeaseError, match=r"arm0 is held by train runA \(pid 100\) since 5\.0 s.*--wait"):
        theirs.acquire(ROBOT, holder="train runB", ttl_s=10)
    mine.release(lease)
    assert theirs.acquire(ROBOT, holder="train runB", ttl_s=10).epoch > lease.epoch


def test_waiting_ends_when_the_holder_is_done(world: World) -> None:
    mine = world.open()
    lease = mine.acquire(ROBOT, holder="a", ttl_s=100)

    released: list[bool] = []

    class Releasing(FakeClock):
        def sleep_until_ns(self, deadline_ns: int) -> None:
            super().sleep_until_ns(deadline_ns)
            world.clock.time_ns = self.time_ns
            if self.time_ns > 10**12 + 3 * 10**9 and not released:
                mine.release(lease)
                released.append(True)

    clock = Releasing(world.clock.now_ns())
    with LeaseTable(world.path, clock, me=OTHER, dead=lambda _: False) as table:
        got = table.acquire(ROBOT, holder="b", ttl_s=10, wait_s=60)
        assert 3 < (clock.now_ns() - 10**12) * 1e-9 < 4
        with pytest.raises(LeaseError, match=r"waited 1\.0 min"):
            table.acquire(ROBOT, holder="c", ttl_s=1000, wait_s=60)
    assert got.resource == "arm0"


def test_an_expired_robot_is_suspect_and_not_handed_on_until_cleared(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    lease = mine.acquire(ROBOT, holder="a", ttl_s=2)
    world.clock.advance(1.9)
    mine.beat(lease)
    world.clock.advance(1.9)
    mine.beat(lease)
    world.clock.advance(2)
    with pytest.raises(LeaseError, match=r"arm0 is suspect.*robolearn hal clear arm0"):
        theirs.acquire(ROBOT, holder="b", ttl_s=2)
    with pytest.raises(LeaseError, match="heartbeats"):
        mine.beat(lease)
    with pytest.raises(LeaseError, match="no longer held"):
        mine.release(lease)
    world.dead.add(ME)
    assert not theirs.clear_if_dead("arm0")  # real hardware: a person has to look
    theirs.clear("arm0")
    new = theirs.acquire(ROBOT, holder="b", ttl_s=2)
    assert new.epoch > lease.epoch
    with pytest.raises(LeaseError, match="no longer held"):
        mine.beat(lease)
    theirs.beat(new)


def test_a_late_heartbeat_is_refused_though_nobody_else_has_looked(world: World) -> None:
    table = world.open()
    lease = table.acquire(ROBOT, holder="a", ttl_s=2)
    world.clock.advance(2)
    with pytest.raises(LeaseError, match="heartbeats"):
        table.beat(lease)
    assert state(table, "arm0") == "suspect"


def test_a_dead_holder_of_a_real_robot_leaves_it_suspect_at_once(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    mine.acquire(ROBOT, holder="a", ttl_s=1000)
    world.dead.add(ME)
    with pytest.raises(LeaseError, match="process is gone"):
        theirs.acquire(ROBOT, holder="b", ttl_s=2)
    assert state(theirs, "arm0") == "suspect"


def test_simulated_robots_and_shares_of_the_dead_are_free_again(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    wanted = [Request("robot", "sim0"), Request("gpu", amount=1.0)]
    old = mine.acquire_all(wanted, holder="a", ttl_s=1000)
    world.dead.add(ME)
    new = theirs.acquire_all(wanted, holder="b", ttl_s=2)
    assert [n.epoch > o.epoch for n, o in zip(new, old, strict=True)] == [True, True]


def test_a_silent_but_living_holder_keeps_even_a_simulated_robot(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    mine.acquire(Request("robot", "sim0"), holder="a", ttl_s=1)
    world.clock.advance(2)
    assert not theirs.clear_if_dead("sim0")
    with pytest.raises(LeaseError, match="suspect"):
        theirs.acquire(Request("robot", "sim0"), holder="b", ttl_s=1)
    world.dead.add(ME)
    assert theirs.clear_if_dead("sim0")
    assert state(theirs, "sim0") == "free"


def test_quarantine_takes_it_from_the_holder_and_survives_everything_but_clear(world: World) -> None:
    mine = world.open()
    lease = mine.acquire(Request("robot", "sim0"), holder="a", ttl_s=10)
    mine.quarantine("sim0", "gripper loose")
    with pytest.raises(LeaseError, match="gripper loose"):
        mine.beat(lease)
    world.dead.add(ME)
    assert not mine.clear_if_dead("sim0")
    with pytest.raises(LeaseError, match="quarantined \\(gripper loose\\)"):
        mine.acquire(Request("robot", "sim0"), holder="b", ttl_s=10)
    mine.clear("sim0")
    assert mine.acquire(Request("robot", "sim0"), holder="b", ttl_s=10).epoch > lease.epoch + 1


def test_what_somebody_holds_cannot_be_cleared(world: World) -> None:
    table = world.open()
    lease = table.acquire(ROBOT, holder="a", ttl_s=10)
    with pytest.raises(LeaseError, match="held by a"):
        table.clear("arm0")
    table.beat(lease)


def test_all_or_nothing(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    lease = mine.acquire(Request("robot", "arm1"), holder="a", ttl_s=10)
    with pytest.raises(LeaseError, match="arm1 is held"):
        theirs.acquire_all([ROBOT, Request("robot", "arm1")], holder="b", ttl_s=10)
    assert state(mine, "arm0") == "free"
    mine.release(lease)
    both = theirs.acquire_all([Request("robot", "arm1"), ROBOT], holder="b", ttl_s=10)
    assert [lease.resource for lease in both] == ["arm1", "arm0"]


def test_requests_by_label_are_matched_cleverly(world: World) -> None:
    table = world.open()
    wanted = [Request("robot", labels={"model": "fr3"}), Request("robot", labels={"site": "labA"})]
    assert [lease.resource for lease in table.acquire_all(wanted, holder="a", ttl_s=10)] == ["arm1", "arm0"]
    with pytest.raises(LeaseError, match="labC"):
        table.acquire(Request("robot", labels={"site": "labC"}), holder="b", ttl_s=10)
    with pytest.raises(LeaseError, match="did you mean 'arm0'"):
        table.acquire(Request("robot", "arn0"), holder="b", ttl_s=10)


def test_the_same_robot_twice_is_refused(world: World) -> None:
    with pytest.raises(LeaseError, match="not enough"):
        world.open().acquire_all([ROBOT, ROBOT], holder="a", ttl_s=10)


def test_gpus_are_shared_up_to_their_capacity(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    half = Request("gpu", amount=0.5)
    first, second = mine.acquire_all([half, half], holder="a", ttl_s=10)
    with pytest.raises(LeaseError, match=r"0\.5 of 1 gpu:0 is held by a"):
        theirs.acquire(Request("gpu", amount=0.1), holder="b", ttl_s=10)
    mine.release(first)
    third = theirs.acquire(half, holder="b", ttl_s=10)
    assert len({first.epoch, second.epoch, third.epoch}) == 3
    theirs.beat(third)
    mine.beat(second)
    for amount, message in ((2.0, "largest has 1"), (0.0, "more than 0"), (float("nan"), "more than 0")):
        with pytest.raises(LeaseError, match=message):
            theirs.acquire(Request("gpu", amount=amount), holder="b", ttl_s=10)


def test_leases_of_an_earlier_boot_have_expired(world: World) -> None:
    mine = world.open()
    mine.acquire(ROBOT, holder="a", ttl_s=10**6)
    after = world.open(ProcessId("boot2", "ns", 100, 1))
    with pytest.raises(LeaseError, match="host was restarted"):
        after.acquire(ROBOT, holder="b", ttl_s=10)


def test_registering_again_keeps_the_lease_and_cannot_make_a_real_robot_simulated(world: World) -> None:
    table = world.open()
    lease = table.acquire(ROBOT, holder="a", ttl_s=10)
    table.register(Resource("arm0", "robot", {"site": "labZ"}))
    table.beat(lease)
    assert table.status()[0].resource.labels == {"site": "labZ"}
    with pytest.raises(LeaseError, match=r"a real robot \(leased\), not as a simulated robot; free it first"):
        table.register(Resource("arm0", "robot", simulated=True))
    with pytest.raises(LeaseError, match="not as a real camera; choose another id"):
        table.register(Resource("arm0", "camera"))
    table.quarantine("sim0", "why")
    with pytest.raises(LeaseError, match=r"a simulated robot \(quarantined\), not as a real robot"):
        table.register(Resource("sim0", "robot"))


def test_a_free_name_may_change_from_a_simulated_to_a_real_robot(world: World) -> None:
    """An arm is tried in simulation under the name it will have."""
    table = world.open()
    epoch = table.acquire(Request("robot", "sim0"), holder="a", ttl_s=1).epoch
    world.clock.advance(1)
    with pytest.raises(LeaseError, match="simulated robot"):
        table.register(Resource("sim0", "robot"))
    table.clear("sim0")
    table.register(Resource("sim0", "robot"))
    assert table.acquire(Request("robot", "sim0"), holder="b", ttl_s=1).epoch > epoch
    world.clock.advance(1)
    world.dead.add(ME)
    assert not table.clear_if_dead("sim0"), "it counts as real now"


def test_a_lease_context_gives_back_and_beats(world: World) -> None:
    table = world.open()
    with table.lease([ROBOT], holder="a", ttl_s=10) as (lease,):
        assert state(table, "arm0") == "leased"
    assert state(table, "arm0") == "free"
    assert not lease.lost
    assert "lease-heartbeat" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ZeroDivisionError), table.lease([ROBOT], holder="a", ttl_s=10):
        _ = 1 / 0
    assert state(table, "arm0") == "free"


def test_the_heartbeat_keeps_a_lease_and_reports_its_loss(tmp_path: Path) -> None:
    lost: list[Lease] = []
    noticed = threading.Event()

    def on_lost(lease: Lease) -> None:
        lost.append(lease)
        noticed.set()

    with LeaseTable(tmp_path / "leases.db") as table:
        table.register(Resource("arm0", "robot"))
        with table.lease([ROBOT], holder="a", ttl_s=0.4, on_lost=on_lost) as (lease,):
            start = MonotonicClock().now_ns()
            while MonotonicClock().now_ns() - start < 0.8e9:  # two lives long
                assert not noticed.wait(0.05), lease.lost
            table.quarantine("arm0", "smoke")
            assert noticed.wait(20)
            assert "smoke" in lease.lost
        assert lost == [lease]
        assert state(table, "arm0") == "quarantined"


def test_a_blocked_table_costs_the_lease_in_time(tmp_path: Path) -> None:
    """Another process is stopped amid a transaction: the holder knows before anybody else could have the robot."""
    noticed = threading.Event()
    with LeaseTable(tmp_path / "leases.db") as table, LeaseTable(tmp_path / "leases.db") as other:
        table.register(Resource("arm0", "robot"))
        with table.lease([ROBOT], holder="a", ttl_s=0.4, on_lost=lambda lease: noticed.set()) as (lease,):
            with other._store.transaction():
                start = MonotonicClock().now_ns()
                assert noticed.wait(20)
                assert MonotonicClock().now_ns() - start < 4e9, "not only when the table gives up after 5 s"
            assert "cannot be used now" in lease.lost


def test_files_that_are_no_lease_table_are_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "leases.db"
    wrong.write_bytes(b"something else entirely" * 100)
    with pytest.raises(LeaseError, match="not a lease table"):
        LeaseTable(wrong)
    assert wrong.read_bytes().startswith(b"something else")
    (tmp_path / "file").write_text("")
    with pytest.raises(LeaseError, match="ROBOLEARN_STATE"):
        LeaseTable(tmp_path / "file" / "leases.db")


def test_a_table_of_another_version_is_refused(world: World) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(world.path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(LeaseError, match="version 99"):
        world.open()


def test_unknown_resources_and_impossible_times_are_named(world: World) -> None:
    table = world.open()
    with pytest.raises(LeaseError, match=r"arm9.*did you mean"):
        table.clear("arm9")
    with pytest.raises(LeaseError, match=r"arm9.*did you mean"):
        table.quarantine("arm9", "x")
    with pytest.raises(LeaseError, match="ttl"):
        table.acquire(ROBOT, holder="a", ttl_s=0)


def test_where_the_table_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOLEARN_STATE", "/a")
    assert default_path() == Path("/a/leases.db")
    monkeypatch.delenv("ROBOLEARN_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", "/b")
    monkeypatch.setattr("socket.gethostname", lambda: "bench1")  # a home directory may be shared by several hosts
    assert default_path() == Path("/b/robolearn/bench1/leases.db")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert default_path() == Path("/c/.local/state/robolearn/bench1/leases.db")


def test_who_is_certainly_dead() -> None:
    me = ProcessId.current()
    assert not is_dead(me)
    assert is_dead(ProcessId(me.boot, me.space, me.pid, me.started + 1)), "a later process of the same number"
    assert is_dead(ProcessId("another boot", me.space, me.pid, me.started))
    assert not is_dead(ProcessId(me.boot, "another container", 2**22 + 1, 1)), "nothing is known"
    assert is_dead(ProcessId(me.boot, me.space, 2**22 + 1, 1))
