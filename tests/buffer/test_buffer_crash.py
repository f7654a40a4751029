"""Writers under load are killed at random moments, under a reader; nothing they acknowledged may be lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from buffer_rows import SCHEMA, contents, episode, records, same, uuid_of

from robolearn.buffer.recover import recover
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.types import Kind

BASE = 100_000
STEPS = 12
WRITERS = 3
SLOW, SPLITTER = 1, 2
"""The writer that is mostly within an episode when it is killed, and the one whose episodes are split."""


def child(root: str, writer: int, trial: int) -> None:
    """Write episodes until killed; say on stdout what was acknowledged, after it was."""
    split = {"split_rows": 5} if writer == SPLITTER else {}
    with Writer(
        Path(root), SCHEMA, name=f"actor{writer}", robot="r", task="t", commit_every_s=0.005, log_bytes=20_000, **split
    ) as to:
        base, ended = to.episodes, []
        os.write(1, b"open\n")
        for number in range(BASE * trial, BASE * trial + BASE):
            for t in episode(number, STEPS, humans=[3]):
                to.append(t)
                os.write(1, f"row {number} {t.index}\n".encode())
                time.sleep(0.003 if writer == SLOW else 0.0003)  # so that the data of many kills is read soon
            to.end_episode(number % 2 == 0, wait=number % 3 == 0)
            ended.append(number)
            if writer != SPLITTER:  # parts count as episodes
                for known in ended[: to.episodes - base]:
                    os.write(1, f"end {known}\n".encode())
                ended, base = ended[to.episodes - base :], to.episodes


@dataclass
class Fleet:
    """Writer processes, one a name, each replaced by a new one when it is killed."""

    root: Path
    stack: ExitStack
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    said: list[Path] = field(default_factory=list)

    def start(self, writer: int) -> None:
        """A new process; returns when it has recovered what the last one left."""
        trial = len(self.said) + 1
        path = self.root.parent / f"said-{trial}"
        self.said.append(path)
        command = [sys.executable, __file__, str(self.root), str(writer), str(trial)]
        with open(path, "wb") as out:
            self.running[writer] = self.stack.enter_context(subprocess.Popen(command, stdout=out))
        self.stack.callback(self.running[writer].kill)
        deadline = time.monotonic() + 60.0
        while not path.read_bytes().startswith(b"open\n"):
            assert time.monotonic() < deadline
            assert self.running[writer].poll() is None
            time.sleep(0.002)

    def kill(self, writer: int) -> None:
        """SIGKILL, in the midst of what it does."""
        process = self.running.pop(writer)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30.0) == -signal.SIGKILL

    def acknowledged(self) -> tuple[set[tuple[int, int]], set[int]]:
        """(episode, row) of every row, and the episodes, that were acknowledged."""
        rows, ends = set(), set()
        for line in (line for path in self.said for line in path.read_text().splitlines()[1:]):
            what, number, *index = line.split()
            if what == "row":
                rows.add((int(number), int(index[0])))
            else:
                ends.add(int(number))
        return rows, ends


def kill_often(root: Path, kills: int, seed: int) -> int:
    """Kill ``kills`` of several writers that go on; return how many rows were acknowledged."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        fleet = Fleet(root, stack)
        for writer in range(WRITERS):
            fleet.start(writer)
        for number in range(kills - WRITERS):
            time.sleep(rng.choice([0.005, 0.05, 0.2]) * rng.random())
            writer = rng.randrange(WRITERS)
            fleet.kill(writer)
            if number % 8 == 0:
                contents(root)  # raises if a row is not what the index says, whatever the others are doing
                assert verify(root).ok, verify(root)
            fleet.start(writer)
        for writer in list(fleet.running):
            fleet.kill(writer)
        assert verify(root).ok, verify(root)
        recover(root)
        rows, ends = fleet.acknowledged()
    check(root, rows, ends)
    return len(rows)


def check(root: Path, rows: set[tuple[int, int]], ends: set[int]) -> None:
    report = verify(root)
    assert report.ok, report.problems
    found, index = contents(root), {r.uuid: r for r in records(root)}
    times = Counter(int(t.observation["count"]) for stored in found.values() for t in stored[1:])
    assert max(times.values()) == 1, "a transition is stored twice"
    lost = [(n, i) for n, i in rows if i > 0 and times[1000 * n + i] != 1]
    assert not lost, f"{len(lost)} acknowledged transitions are lost: {lost[:5]}"
    assert not [n for n, _ in rows if uuid_of(n) not in found]
    assert {r.state for r in index.values()} == {"complete"}
    for uuid, stored in found.items():
        number = int(stored[-1].observation["count"]) // 1000
        if uuid == uuid_of(number):  # else a later part of one that was split
            assert same(stored, episode(number, STEPS, humans=[3])[: len(stored)])
        assert index[uuid].truncated == (stored[-1].kind is not Kind.TERMINATED)
    for number in ends:
        record = index[uuid_of(number)]
        assert (record.success, record.recovered, record.rows) == (number % 2 == 0, False, STEPS + 1)
    assert any(r.recovered and r.truncated for r in index.values())


def test_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    assert kill_often(tmp_path / "buffer", kills=8, seed=1) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_many_kills_under_load_lose_nothing(tmp_path: Path, seed: int) -> None:
    assert kill_often(tmp_path / "buffer", kills=60, seed=seed) > 1000


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
