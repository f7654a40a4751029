"""Rows of the lease table: health, private robots that come and go, checks that clear, files of an older version."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from robolearn.core.clock import FakeClock
from robolearn.core.errors import LeaseError
from robolearn.hal.check import Finding
from robolearn.hal.leases import LeaseTable, Request
from robolearn.hal.liveness import ProcessId
from robolearn.hal.resources import Resource

ME, OTHER = (ProcessId("boot", "ns", pid, 1) for pid in (1, 2))
PRIVATE = Resource("fr3_sim:/runs/a/0", "robot", simulated=True)
GOOD, BAD, UNKNOWN = Finding("rate", True, "500 Hz"), Finding("rate", False, "0 Hz"), Finding("rate", None, "?")


class World:
    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.dead, self.tables = path, FakeClock(10**12), set[ProcessId](), list[LeaseTable]()

    def open(self, me: ProcessId = ME) -> LeaseTable:
        self.tables.append(LeaseTable(self.path, self.clock, me=me, dead=self.dead.__contains__))
        return self.tables[-1]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "leases.db")
    yield world
    for table in world.tables:
        table.close()


def names(table: LeaseTable) -> list[str]:
    return [row.resource.id for row in table.status()]


def take(table: LeaseTable, name: str, ttl_s: float = 10) -> int:
    return table.acquire(Request("robot", name), holder="a", ttl_s=ttl_s).epoch


def test_what_is_unusable_is_not_leased(world: World) -> None:
    table = world.open()
    table.register(Resource("arm", "robot", health="no-power", unusable="its power is off; switch it on"))
    (row,) = table.status()
    assert (row.free, row.state) == (0, "unusable")
    with pytest.raises(LeaseError, match="arm cannot be used: its power is off; switch it on"):
        take(table, "arm")
    table.register(Resource("gpu:0", "gpu", health="hot", unusable="too hot"))
    with pytest.raises(LeaseError, match="too hot"):
        table.acquire(Request("gpu", amount=0.1), holder="a", ttl_s=10)
    table.register(Resource("arm", "robot"))
    take(table, "arm")
    table.register(Resource("arm", "robot", health="no-power", unusable="its power is off"))
    assert table.status()[0].state == "leased", "who has it finds out by itself"


def test_leases_begin_above_what_the_driver_has_seen(world: World) -> None:
    """Somebody drove it from another machine, whose table counts for itself."""
    table = world.open()
    table.register(Resource("arm", "robot", seen_epoch=70))
    lease = table.acquire(Request("robot", "arm"), holder="a", ttl_s=10)
    assert lease.epoch == 71
    table.register(Resource("arm", "robot", seen_epoch=71))
    table.beat(lease)
    table.release(lease)
    table.register(Resource("arm", "robot"))
    assert take(table, "arm") == 72


def test_a_private_robot_is_forgotten_when_it_is_given_back(world: World) -> None:
    table = world.open()
    table.register(PRIVATE, transient=True)
    lease = table.acquire(Request("robot", PRIVATE.id), holder="a", ttl_s=10)
    assert names(table) == [PRIVATE.id]
    table.release(lease)
    assert names(table) == []
    with pytest.raises(LeaseError, match="given back and forgotten"):
        table.beat(lease)
    table.register(PRIVATE, transient=True)
    again = table.acquire(Request("robot", PRIVATE.id), holder="a", ttl_s=10)
    assert again.epoch > lease.epoch, "an old lease never looks like a new one"
    with pytest.raises(LeaseError, match="no longer held"):
        table.beat(lease)


def test_a_private_robot_of_the_dead_is_forgotten(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    mine.register(PRIVATE, transient=True)
    epoch = take(mine, PRIVATE.id)
    mine.register(Resource("fr3_sim:/runs/b/0", "robot", simulated=True), transient=True)  # never leased
    mine.register(Resource("sim", "robot", simulated=True))
    world.dead.add(ME)
    assert names(theirs) == [PRIVATE.id, "sim"], "what was held is told first"
    assert theirs.clear_if_dead(PRIVATE.id)
    assert names(theirs) == ["sim"]
    theirs.register(PRIVATE, transient=True)
    assert take(theirs, PRIVATE.id) > epoch


def test_a_private_robot_of_a_silent_holder_stays(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    mine.register(PRIVATE, transient=True)
    take(mine, PRIVATE.id, ttl_s=2)
    world.clock.advance(3)
    assert [row.state for row in theirs.status()] == ["suspect"]
    theirs.quarantine(PRIVATE.id, "why")
    world.dead.add(ME)
    assert [row.state for row in theirs.status()] == ["quarantined"]
    theirs.clear(PRIVATE.id)
    assert names(theirs) == []


def test_a_passed_check_clears_a_simulated_robot_of_a_stopped_holder(world: World) -> None:
    mine, theirs = world.open(), world.open(OTHER)
    mine.register(Resource("sim", "robot", simulated=True))
    lease = mine.acquire(Request("robot", "sim"), holder="a", ttl_s=2)
    with pytest.raises(LeaseError, match="held by a"):
        theirs.clear_checked("sim", [GOOD])
    world.clock.advance(2)
    with pytest.raises(LeaseError, match="suspect"):
        take(theirs, "sim")
    with pytest.raises(LeaseError, match="not cleared: rate: 0 Hz"):
        theirs.clear_checked("sim", [GOOD, BAD])
    for findings in ([], [UNKNOWN]):
        with pytest.raises(LeaseError, match="nothing was checked"):
            theirs.clear_checked("sim", findings)
    theirs.clear_checked("sim", [GOOD, UNKNOWN])
    assert take(theirs, "sim") > lease.epoch
    with pytest.raises(LeaseError, match="no longer held"):
        mine.beat(lease)


def test_a_real_robot_is_not_cleared_by_a_check(world: World) -> None:
    table = world.open()
    table.register(Resource("arm", "robot"))
    take(table, "arm", ttl_s=2)
    world.clock.advance(2)
    with pytest.raises(LeaseError, match=r"a real robot: a person has to look at it, then: robolearn hal clear arm"):
        table.clear_checked("arm", [GOOD])
    assert table.status()[0].state == "suspect"
    table.quarantine("arm", "why")
    with pytest.raises(LeaseError, match="a person"):
        table.clear_checked("arm", [GOOD])


VERSION_1 = """
CREATE TABLE resources (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, labels TEXT NOT NULL, capacity REAL NOT NULL, simulated INTEGER NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0, quarantine TEXT
) STRICT;
CREATE TABLE holds (
    resource TEXT NOT NULL REFERENCES resources (id), epoch INTEGER NOT NULL, amount REAL NOT NULL,
    holder TEXT NOT NULL, boot TEXT NOT NULL, space TEXT NOT NULL, pid INTEGER NOT NULL, started INTEGER NOT NULL,
    since_ns INTEGER NOT NULL, expires_ns INTEGER NOT NULL, suspect TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (resource, epoch)
) STRICT;
INSERT INTO resources VALUES ('arm', 'robot', '{"site": "A"}', 1.0, 0, 7, NULL);
INSERT INTO resources VALUES ('bad', 'robot', '{}', 1.0, 0, 3, 'gripper loose');
INSERT INTO resources VALUES ('fr3_sim:/runs/old/0', 'robot', '{}', 1.0, 1, 40, NULL);
INSERT INTO resources VALUES ('fr3_sim:/runs/now/0', 'robot', '{}', 1.0, 1, 2, NULL);
INSERT INTO holds VALUES ('arm', 7, 1.0, 'train a', 'boot', 'ns', 1, 1, 0, 2000000000000, '');
INSERT INTO holds VALUES ('fr3_sim:/runs/now/0', 2, 1.0, 'train b', 'boot', 'ns', 1, 1, 0, 2000000000000, '');
PRAGMA user_version = 1;
"""


def test_a_table_of_version_1_is_taken_over(world: World) -> None:
    with closing(sqlite3.connect(world.path)) as db:
        db.executescript(VERSION_1)
    table = world.open()
    rows = {row.resource.id: row for row in table.status()}
    assert {name: row.state for name, row in rows.items()} == {
        "arm": "leased", "bad": "quarantined", "fr3_sim:/runs/now/0": "leased"
    }  # fmt: skip
    assert (rows["arm"].resource.labels, rows["arm"].epoch, rows["arm"].resource.health) == ({"site": "A"}, 7, "ok")
    with pytest.raises(LeaseError, match="held by train a"):
        take(table, "arm")
    table.register(Resource("fr3_sim:/runs/old/0", "robot", simulated=True), transient=True)
    assert take(table, "fr3_sim:/runs/old/0") > 40, "epochs go on, also of what was forgotten"
    assert names(world.open()) == names(table)
