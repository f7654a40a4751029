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
from robolearn.hal.drivers import fake
from robolearn.hal.leases import LeaseTable, Request
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


def test_a_lost_writer_does_not_lock_the_table(start: Start, path: Path) -> None:
    """Killed in the middle of a transaction: its changes are gone, and the table works."""
    holder = start(
        "with table._transaction():\n"
        "    table._db.execute(\"UPDATE resources SET quarantine = 'half'\")\n"
        "    say('inside')\n"
        "    sys.stdin.readline()\n"
    )
    assert read(holder) == ["inside"]
    holder.kill()
    holder.wait()
    with LeaseTable(path) as table:
        assert [row.state for row in table.status()] == ["free", "free"]
