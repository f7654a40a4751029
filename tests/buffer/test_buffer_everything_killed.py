"""Writers, sealer, pruner and learner work on one buffer at once, and each is killed at random moments."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, episode, records, same, uuid_of
from buffer_sealed import everything

from robolearn.buffer import seal as seal_module
from robolearn.buffer.index import EpisodeRecord
from robolearn.buffer.recover import recover
from robolearn.buffer.replay import Replay
from robolearn.buffer.retain import is_pinned, prune
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths, locked
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Batch, Transition

STEPS = 7
BASE = 100_000
"""Episodes of one process; the next process of that role goes on behind them."""
DEMO_EVERY, HUMAN_EVERY, HUMAN_STEP = 40, 60, 2
"""Rare, else most segments have something pinned and the buffer grows with every kill."""
ROW_S, PAUSE_S = 0.004, 0.06
MAX_LOGS = 40
"""Writers wait for the sealer, or a slow disk would make the buffer ever larger, and each check slower."""
ROLES = ("writer0", "writer1", "sealer", "pruner", "learner")
AT_WORK = {"writer0": b"open", "writer1": b"open", "sealer": b"start", "pruner": b"start", "learner": b"sampled"}
"""What a process says when it does what it is for."""
BUSY = "another process"
VERIFY_EVERY = 40
"""Kills. It reads the whole buffer, which grows; who reads meanwhile checks what is read."""
FOLDERS = ("logs", "segments", "locks")


@functools.lru_cache(1000)
def written(number: int) -> list[Transition]:
    """The rows of an episode."""
    humans = (HUMAN_STEP,) if number % HUMAN_EVERY == 0 else ()
    return episode(number, STEPS, humans=humans, schema=IMAGES)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def run_writer(root: Path, name: str, trial: int) -> None:
    """Say on stdout what was acknowledged, after it was."""
    say("start")
    with Writer(root, IMAGES, name=name, robot="r", task="t", log_bytes=3000, commit_every_s=0.01) as w:
        say("open")
        for number in range(BASE * trial, BASE * trial + BASE):
            for t in written(number):
                w.append(t)
                say(f"row {number} {t.index}")
                time.sleep(ROW_S)
                while len(os.listdir(root / "logs")) > MAX_LOGS:
                    time.sleep(ROW_S)
            w.end_episode(number % 2 == 0, demo=number % DEMO_EVERY == 0)
            say(f"end {number}")


def run_sealer(root: Path) -> None:
    seal_module.MAX_BYTES = 6000  # many small segments, so that some have nothing pinned
    say("start")
    while True:
        try:
            seal(root, min_bytes=1)
        except StoreError as error:
            if BUSY not in str(error):
                raise
        time.sleep(PAUSE_S)


def run_pruner(root: Path, max_bytes: int) -> None:
    say("start")
    while True:
        try:
            say(f"dropped {len(prune(root, max_bytes=max_bytes).dropped)}")
        except StoreError as error:
            if BUSY not in str(error):
                raise
        time.sleep(PAUSE_S)


def run_learner(root: Path, seed: int) -> None:
    """Sample with few images in memory; fails at the first sample that is not as it was written."""
    say("start")
    with Replay(root, IMAGES, ram_bytes=20_000, seed=seed) as replay:
        while True:
            replay.refresh()
            if not replay.transitions:
                continue
            for horizon in (1, 3):
                check_batch(replay.sample(16, horizon=horizon), horizon)
                say("sampled 16")


def check_batch(batch: Batch, horizon: int) -> None:
    """Every sample is rows of one episode, which can be made again from their numbers."""
    for i in range(len(batch.reward)):
        number, index = divmod(int(batch.observation["count"][i]), 1000)
        far_number, far_index = divmod(int(batch.next_observation["count"][i]), 1000)
        assert far_number == number
        assert index < far_index <= min(index + horizon, STEPS)
        rows = written(number)
        for part, t in ((batch.observation, rows[index]), (batch.next_observation, rows[far_index])):
            for key, value in t.observation.items():
                np.testing.assert_array_equal(part[key][i], value, err_msg=f"{number} {t.index} {key}")
        np.testing.assert_array_equal(batch.action[i], rows[index + 1].executed)
        np.testing.assert_allclose(batch.reward[i], sum(t.reward for t in rows[index + 1 : far_index + 1]), atol=1e-5)
        assert batch.discount[i] == (0.0 if far_index == STEPS else 1.0)


@dataclass
class Fleet:
    """One process a role, each replaced by a new one when it is killed."""

    root: Path
    stack: ExitStack
    max_bytes: int
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    said: dict[str, list[Path]] = field(default_factory=lambda: {role: [] for role in ROLES})
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))

    def start(self, role: str) -> None:
        trial = len(self.said[role]) + 1
        out, errors = self.root.parent / f"{role}-{trial}", self.root.parent / f"{role}-{trial}.err"
        self.said[role].append(out)
        number = trial + (500 if role == "writer1" else 0)
        command = [sys.executable, __file__, str(self.root), role, str(number), str(self.max_bytes)]
        with open(out, "wb") as a, open(errors, "wb") as b:
            self.running[role] = self.stack.enter_context(subprocess.Popen(command, stdout=a, stderr=b))
        self.stack.callback(self.running[role].kill)

    def wait_for(self, role: str, what: bytes | None = None) -> None:
        """Until it has said ``what``; by default until it does what it is for."""
        what = what or AT_WORK[role]
        deadline = time.monotonic() + 120.0
        while what not in self.said[role][-1].read_bytes():
            assert time.monotonic() < deadline, f"{role} does not get as far as '{what!r}'"
            self.alive(role)
            time.sleep(0.005)

    def alive(self, role: str) -> None:
        if self.running[role].poll() is not None:
            errors = self.said[role][-1].with_name(f"{self.said[role][-1].name}.err")
            raise AssertionError(f"{role} failed by itself: {errors.read_text()[-4000:]}")

    def kill(self, role: str) -> None:
        self.alive(role)
        process = self.running.pop(role)
        sampled = b"sampled" in self.said[role][-1].read_bytes()
        memory = memory_of(process.pid)
        assert memory or not sampled
        assert "/dev/shm/" not in Path(f"/proc/{process.pid}/maps").read_text(), "memory with a name stays"
        process.send_signal(signal.SIGKILL)
        assert process.wait(30.0) == -signal.SIGKILL
        self.kills[role] += 1
        if memory:
            others = [int(name) for name in os.listdir("/proc") if name.isdigit()]
            assert not memory & {inode for pid in others for inode in memory_of(pid)}, "its memory outlives it"

    def lines(self, *roles: str) -> list[list[str]]:
        """What was said, but for a line that was cut off."""
        texts = [path.read_text() for role in roles for path in self.said[role]]
        return [line.split() for text in texts for line in text.split("\n")[:-1]]


def memory_of(pid: int) -> set[str]:
    """Inodes of the buffer's memory that a process has mapped or open."""
    found: set[str] = set()
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            _, _, _, _, inode, *path = line.split(maxsplit=5)
            if path and path[0].startswith("/memfd:robolearn-"):
                found.add(inode)
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(handle).startswith("/memfd:robolearn-"):
                found.add(str(handle.stat().st_ino))
    return found


def leases_are_free(root: Path) -> None:
    """No reader lives, so none keeps a segment from being pruned."""
    paths = StorePaths(root)
    with locked(paths.seal_lock, wait=True):  # the pruner reads too
        for segment in paths.segments.iterdir():
            folder = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(folder)


def kill_everything(root: Path, rounds: int, seed: int, max_bytes: int, *, at_once: int = 2) -> Fleet:
    """Kill every role ``rounds`` times and once more at the end, up to ``at_once`` of them at a time."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        fleet = Fleet(root, stack, max_bytes)
        fleet.start("writer0")
        fleet.wait_for("writer0", b"end ")
        for role in ROLES[1:]:
            fleet.start(role)
        for role in ROLES:
            fleet.wait_for(role)
        order = [role for role in ROLES for _ in range(rounds)]
        rng.shuffle(order)
        while order:
            victims = list(dict.fromkeys(order[:at_once]))
            for role in victims:  # some die while they open or recover
                fleet.wait_for(role, b"start" if rng.random() < 0.25 else None)
            time.sleep(rng.choice([0.01, 0.1, 0.4]) * rng.random())
            for role in victims:
                order.remove(role)
                fleet.kill(role)
            if "learner" in victims:
                leases_are_free(root)
            if len(order) % VERIFY_EVERY < len(victims):
                assert verify(root).ok, verify(root).problems
            for role in victims:
                fleet.start(role)
        fleet.wait_for("learner")
        for role in list(fleet.running):
            fleet.kill(role)
    check(root, fleet)
    return fleet


def check(root: Path, fleet: Fleet) -> None:
    """Nothing acknowledged is lost or changed, and all that is left lying about can be removed."""
    recover(root)
    report = verify(root)
    assert report.ok, report.problems
    said = fleet.lines("writer0", "writer1")
    ends = {int(line[1]) for line in said if line[0] == "end"}
    rows = {int(line[1]): int(line[2]) + 1 for line in said if line[0] == "row"}
    index, found = {r.uuid: r for r in records(root)}, everything(root)
    for number, count in rows.items():
        known = index.get(uuid_of(number))
        assert known is not None, f"episode {number} is lost"
        assert known.rows >= count, f"rows of episode {number} are lost"
        check_episode(number, known, found.get(known.uuid), ended=number in ends)
    assert len(index) - len(rows) <= len(fleet.said["writer0"]) + len(fleet.said["writer1"])
    assert ends
    with Replay(root, IMAGES, ram_bytes=20_000, seed=0) as replay:
        replay.refresh()
        assert replay.transitions == sum(r.transitions for r in index.values() if r.state == "complete")
    seal(root, everything=True)
    assert everything(root).keys() == found.keys()
    done = prune(root, max_bytes=0)
    assert not done.waiting
    assert {why.partition(" ")[0] for why in done.kept.values()} <= {"pinned"}
    assert everything(root).keys() >= {r.uuid for r in index.values() if is_pinned(r)}
    assert verify(root).ok, verify(root).problems
    assert {p.name for p in (root / "segments").iterdir()} == done.kept.keys()
    assert {p.name.partition("-")[0] for p in root.iterdir()} == {"schema.json", "index.sqlite", *FOLDERS}


def check_episode(number: int, known: EpisodeRecord, found: list[Transition] | None, *, ended: bool) -> None:
    """What the index knows of an episode, and its rows, are as they were written."""
    demo, human = ended and number % DEMO_EVERY == 0, number % HUMAN_EVERY == 0 and known.rows > HUMAN_STEP
    if ended:
        assert (known.rows, known.success, known.recovered) == (STEPS + 1, number % 2 == 0, False)
        assert known.demo == demo
    if known.state == "dropped":
        assert not demo, f"episode {number} was pinned"
        assert not human, f"episode {number} was pinned"
    else:
        assert known.state == "complete"
        assert found is not None
        assert same(found, written(number)[: known.rows])


def test_killing_every_process_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    fleet = kill_everything(tmp_path / "buffer", rounds=1, seed=1, max_bytes=40_000)
    assert sum(fleet.kills.values()) == 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killing_every_process_often_loses_nothing(tmp_path: Path) -> None:
    fleet = kill_everything(tmp_path / "buffer", rounds=52, seed=0, max_bytes=150_000, at_once=3)
    assert min(fleet.kills.values()) > 50
    assert sum(int(line[1]) for line in fleet.lines("pruner") if line[0] == "dropped") > 50
    assert len([line for line in fleet.lines("learner") if line[0] == "sampled"]) > 500


if __name__ == "__main__":
    at, role_, number_, budget = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if role_ == "sealer":
        run_sealer(at)
    elif role_ == "pruner":
        run_pruner(at, budget)
    elif role_ == "learner":
        run_learner(at, number_)
    else:
        run_writer(at, role_, number_)
