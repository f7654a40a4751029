"""Leases between real processes: races, deaths, and a holder that was asleep."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.errors import LeaseError, StaleEpochError
from robolearn.core.types import Command
from robolearn.hal.check import Finding
from robolearn.hal.drivers import fake
from robolearn.hal.leases import BusyError, LeaseTable, Request
from robolearn.hal.resources import Resource

PROLOGUE = """
import sys
from pathlib import Path
from robolearn.core.errors import LeaseError
from robolearn.hal.leases import LeaseTable, Request
table = LeaseTable(Path(sys.argv[1]))
def say(*words):
    print(*words, flush=True)
"""
RACE = """
say("ready")
sys.stdin.readline()
try:
    lease = table.acquire(Request("robot"), holder=sys.argv[2], ttl_s=60)
    say("got", lease.resource, lease.epoch)
except LeaseError as error:
    say("nothing" if "is held by racer" in str(error) else f"failed {error}")
sys.stdin.readline()
"""
HOLD = """
lease = table.acquire(Request("robot", "arm0"), holder="sleeper", ttl_s=float(sys.argv[2]))
say("got", lease.epoch)
sys.stdin.readline()
try:
    table.beat(lease)
    say("beat")
except LeaseError as error:
    say("refused", error)
sys.stdin.readline()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "leases.db"
    with LeaseTable(path) as table:
        for name in ("arm0", "arm1"):
            table.register(Resource(name, "robot"))
    return path


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROLOGUE + script, str(path), *arguments]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def read(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def until_suspect(table: LeaseTable) -> None:
    deadline = time.monotonic() + 30
    while table.status()[0].state != "suspect":
        assert time.monotonic() < deadline, table.status()[0]
        time.sleep(0.01)


def test_eight_race_for_two_robots(start: Start, path: Path) -> None:
    racers = [start(RACE, f"racer{index}") for index in range(8)]
    for racer in racers:
        assert read(racer) == ["ready"]
    for racer in racers:
        go(racer)
    answers = [read(racer) for racer in racers]
    got = sorted(answer[1] for answer in answers if answer[0] == "got")
    assert got == ["arm0", "arm1"]
    assert sum(answer == ["nothing"] for answer in answers) == 6
    with LeaseTable(path) as table:
        assert [row.state for row in table.status()] == ["leased", "leased"]


def test_eight_race_to_make_the_table(start: Start, tmp_path: Path) -> None:
    script = "say('ready')\nsys.stdin.readline()\nLeaseTable(Path(sys.argv[2])).status()\nsay('made')"
    racers = [start(script, str(tmp_path / "new" / "leases.db")) for _ in range(8)]
    for racer in racers:
        assert read(racer) == ["ready"]
    for racer in racers:
        go(racer)
    assert [read(racer) for racer in racers] == [["made"]] * 8


def test_a_killed_holder_leaves_a_suspect_robot(start: Start, path: Path) -> None:
    holder = start(HOLD, "3600")
    epoch = int(read(holder)[1])
    os.kill(holder.pid, signal.SIGKILL)  # not waited for: it stays a zombie, as below a supervisor that is busy
    with LeaseTable(path) as table:
        until_suspect(table)
        with pytest.raises(LeaseError, match=r"sleeper.*process is gone"):
            table.acquire(Request("robot", "arm0"), holder="next", ttl_s=60)
        assert not table.clear_if_dead("arm0")
        table.clear("arm0")
        assert table.acquire(Request("robot", "arm0"), holder="next", ttl_s=60).epoch > epoch


def test_a_holder_that_slept_past_its_time_is_refused_by_table_and_driver(start: Start, path: Path) -> None:
    robot = fake.build(fake.Config())
    holder = start(HOLD, "0.3")
    old = int(read(holder)[1])
    robot.apply(Command(np.zeros(7), old))
    holder.send_signal(signal.SIGSTOP)
    with LeaseTable(path) as table:
        until_suspect(table)
        with pytest.raises(LeaseError, match="suspect"):
            table.acquire(Request("robot", "arm0"), holder="next", ttl_s=60)
        table.clear("arm0")
        new = table.acquire(Request("robot", "arm0"), holder="next", ttl_s=60).epoch
        robot.apply(Command(np.zeros(7), new))
        holder.send_signal(signal.SIGCONT)
        go(holder)
        assert read(holder)[0] == "refused"
        with pytest.raises(StaleEpochError):
            robot.apply(Command(np.zeros(7), old))
        assert table.status()[0].state == "leased"


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="this system does not tell who locks what")
def test_a_writer_that_is_stopped_amid_a_transaction_is_named(start: Start, path: Path) -> None:
    holder = start("with table._store.transaction():\n    say('inside')\n    sys.stdin.readline()\nsay('out')")
    assert read(holder) == ["inside"]
    with LeaseTable(path, busy_s=0.05) as table:
        with pytest.raises(BusyError, match=f"process {holder.pid} has it$"):
            table.status()
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(BusyError, match=f"process {holder.pid} has it and is stopped.*kill -CONT {holder.pid}"):
            table.status()
        holder.send_signal(signal.SIGCONT)
        go(holder)
        assert read(holder) == ["out"]
        assert len(table.status()) == 2


def test_a_lost_writer_does_not_lock_the_table(start: Start, path: Path) -> None:
    """Killed in the middle of a transaction: its changes are gone, and the table works."""
    holder = start(
        "with table._store.transaction():\n"
        "    table._store.db.execute(\"UPDATE resources SET quarantine = 'half'\")\n"
        "    say('inside')\n"
        "    sys.stdin.readline()\n"
    )
    assert read(holder) == ["inside"]
    holder.kill()
    holder.wait()
    with LeaseTable(path) as table:
        assert [row.state for row in table.status()] == ["free", "free"]


WAIT = """
say("ready")
lease = table.acquire(Request("robot", "arm0"), holder=sys.argv[2], ttl_s=60, wait_s=60)
say("got", lease.epoch)
sys.stdin.readline()
table.release(lease)
say("gave")
sys.stdin.readline()
"""


def until_waiting(table: LeaseTable, *holders: str) -> None:
    deadline = time.monotonic() + 30
    while [ticket.holder for ticket in table.queue()] != list(holders):
        assert time.monotonic() < deadline, table.queue()
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_waiter_that_is_gone_or_asleep_holds_nobody_up(start: Start, path: Path, how: signal.Signals) -> None:
    with LeaseTable(path) as table:
        mine = table.acquire(Request("robot", "arm0"), holder="first", ttl_s=60)
        waiters = []
        for name in ("second", "third"):
            waiters.append(start(WAIT, name))
            assert read(waiters[-1]) == ["ready"]
            until_waiting(table, *("second", "third")[: len(waiters)])
        waiters[0].send_signal(how)
        until_waiting(table, "third")
        table.release(mine)
        assert read(waiters[1])[0] == "got"
        if how == signal.SIGSTOP:
            waiters[0].send_signal(signal.SIGCONT)
            until_waiting(table, "second")
            go(waiters[1])
            assert read(waiters[0])[0] == "got"


FLEET = """
import fcntl, os, time
def apply(epoch):
    with open(sys.argv[2], "r+") as fence:
        fcntl.flock(fence, fcntl.LOCK_EX)
        if epoch < int(fence.read() or 0):
            return False
        fence.seek(0)
        fence.write(str(epoch))
        fence.flush()
        with open(sys.argv[3], "a") as log:
            log.write(f"{epoch} {os.getpid()}\\n")
        return True
say("ready")
while True:
    try:
        lease = table.acquire(Request("robot", "sim0"), holder="one of the fleet", ttl_s=0.3, wait_s=60)
        for _ in range(10):
            if not apply(lease.epoch):
                break
            time.sleep(0.005)
            table.beat(lease)
        table.release(lease)
    except LeaseError:
        pass
"""


HANDS = 8
"""How often the robot has to change hands at least, however slow the machine."""


def drive_through_signals(start: Start, path: Path, tmp_path: Path, *, blows: int) -> tuple[list[tuple[int, int]], int]:
    """What three processes did to one robot while they were stopped, woken and killed; and how often it was suspect."""
    rng, suspects, fleet = np.random.default_rng(0), 0, list[subprocess.Popen[str]]()
    fence, log = tmp_path / "fence", tmp_path / "log"
    fence.touch()
    log.touch()

    def join() -> None:
        fleet.append(start(FLEET, str(fence), str(log)))
        assert read(fleet[-1]) == ["ready"]

    with LeaseTable(path, busy_s=0.5) as table:
        table.register(Resource("sim0", "robot", simulated=True))
        for _ in range(3):
            join()
        for _ in range(blows):
            seen, victim = log.stat().st_size, fleet[int(rng.integers(len(fleet)))]
            kill, begun = rng.random() < 0.3, time.monotonic()
            victim.send_signal(signal.SIGKILL if kill else signal.SIGSTOP)
            while log.stat().st_size < seen + 100:  # the others go on
                assert time.monotonic() < begun + 60, (table.status(), table.queue())
                if not kill and time.monotonic() > begun + 1:
                    victim.send_signal(signal.SIGCONT)  # it may have been stopped while it had the fence open
                try:
                    if any(row.state == "suspect" for row in table.status() if row.resource.id == "sim0"):
                        suspects += 1
                        table.clear_checked("sim0", [Finding("it answers", True, "yes")])
                except BusyError:  # stopped amid a transaction
                    victim.send_signal(signal.SIGCONT)
                time.sleep(0.005)
            if kill:
                fleet.remove(victim)
                join()
            else:
                victim.send_signal(signal.SIGCONT)
        begun = time.monotonic()
        while len({line.split()[0] for line in log.read_text().splitlines()}) <= HANDS:  # it goes round by itself
            assert time.monotonic() < begun + 60, table.status()
            time.sleep(0.02)
    done = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    return [(epoch, pid) for epoch, pid in done], suspects


def test_processes_that_are_stopped_and_killed_never_drive_together(start: Start, path: Path, tmp_path: Path) -> None:
    done, _ = drive_through_signals(start, path, tmp_path, blows=3)
    check_driven(done)


@pytest.mark.slow
def test_processes_that_are_stopped_and_killed_often_never_drive_together(
    start: Start, path: Path, tmp_path: Path
) -> None:
    done, suspects = drive_through_signals(start, path, tmp_path, blows=60)
    check_driven(done)
    assert suspects > 5


def check_driven(done: list[tuple[int, int]]) -> None:
    epochs = [epoch for epoch, _ in done]
    assert epochs == sorted(epochs), "an older holder moved the robot after a newer one"
    assert len(set(done)) == len(set(epochs)), "two processes moved it with one epoch"
    assert len(set(epochs)) > HANDS
    assert len({pid for _, pid in done}) > 1
