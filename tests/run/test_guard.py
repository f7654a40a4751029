"""Who may move a robot, and when it has to hold still."""

from collections.abc import Callable
from pathlib import Path

import pytest

from robolearn.core.clock import FakeClock
from robolearn.core.errors import LeaseError
from robolearn.hal.lease_types import BusyError, Lease, Request
from robolearn.hal.leases import LeaseTable
from robolearn.hal.resources import Resource
from robolearn.run.guard import Grant, Guard

S = 1_000_000_000


class Cell:
    """A leased robot, its clock, and what the guard says."""

    def __init__(self, path: Path) -> None:
        self.clock, self.path = FakeClock(100 * S), path
        self.heard_ns, self.events = self.clock.now_ns(), list[str]()
        with self.table() as table:
            table.register(Resource("bench:a", "robot", simulated=True))
            self.lease: Lease = table.acquire(Request("robot", "bench:a"), holder="train", ttl_s=2.0)
        self.grant = Grant("bench:a", "bench:a", self.lease.epoch, 2.0, shared=True)

    def table(self) -> LeaseTable:
        return LeaseTable(self.path, self.clock)

    def guard(self, alive: Callable[[], int] | None = None) -> Guard:
        return Guard(
            self.grant, alive, clock=self.clock, open_table=self.table, on_event=lambda what, *_, **__: self.note(what)
        )

    def note(self, what: str) -> None:
        self.events.append(what)

    def pass_time(self, seconds: float, *, beats: bool) -> None:
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
            if beats:
                with self.table() as table:
                    table.beat(self.lease)


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path / "leases.db")


def test_it_acts_while_the_supervisor_is_heard_of(cell: Cell) -> None:
    guard = cell.guard(lambda: cell.heard_ns)
    for _ in range(50):
        cell.clock.advance(0.1)
        cell.heard_ns = cell.clock.now_ns()
        guard.hold()
    assert cell.events == []


def test_it_holds_while_the_supervisor_is_silent_and_goes_on_if_the_lease_still_holds(cell: Cell) -> None:
    waited = 0

    def alive() -> int:
        nonlocal waited
        waited += 1
        if waited > 20:  # the supervisor is back
            cell.heard_ns = cell.clock.now_ns()
        return cell.heard_ns

    cell.pass_time(1.5, beats=True)
    cell.guard(alive).hold()
    assert waited > 20
    assert len(cell.events) == 2
    assert "silent" in cell.events[0]


def test_a_lease_that_ran_out_meanwhile_is_not_used_again(cell: Cell) -> None:
    cell.pass_time(3.0, beats=False)
    polls = iter([cell.heard_ns] * 5 + [cell.clock.now_ns() + 10 * S] * 5)
    with pytest.raises(LeaseError, match="stopped sending heartbeats"):
        cell.guard(lambda: next(polls)).hold()


def test_a_robot_that_somebody_else_has_now_is_left_alone(cell: Cell) -> None:
    guard = cell.guard()  # this process is the holder itself: it was stopped
    cell.pass_time(3.0, beats=False)
    with cell.table() as table:
        table.status()
        table.clear("bench:a")
        table.acquire(Request("robot", "bench:a"), holder="another", ttl_s=2.0)
    with pytest.raises(LeaseError, match="is gone"):
        guard.hold()


def test_told_to_stop_while_the_supervisor_is_silent_it_sends_nothing_more(cell: Cell) -> None:
    cell.pass_time(1.5, beats=True)
    with pytest.raises(LeaseError, match="told to stop"):
        cell.guard(lambda: cell.heard_ns).hold(lambda: True)


def test_a_private_copy_needs_no_guard(cell: Cell) -> None:
    cell.grant = Grant("fr3_sim", "fr3_sim:run/0", 1, 10.0, shared=False)
    guard = cell.guard(lambda: 0)
    guard.hold()
    Guard(None).hold()
    assert cell.events == []


def test_a_grant_travels_as_text() -> None:
    grant = Grant("bench:a", "bench:a", 7, 2.0, shared=True)
    assert Grant.from_json(grant.to_json()) == grant
    assert Grant.from_json("") is None


def test_a_table_that_cannot_be_reached_is_asked_again(cell: Cell) -> None:
    cell.pass_time(1.5, beats=True)
    opened = list[int]()

    def table() -> LeaseTable:
        opened.append(1)
        if len(opened) < 3:
            raise BusyError("locked")
        return cell.table()

    polls = iter([cell.heard_ns] * 3 + [cell.clock.now_ns() + 10 * S] * 20)
    Guard(cell.grant, lambda: next(polls), clock=cell.clock, open_table=table).hold()
    assert len(opened) == 3
