"""A writer process is killed at random moments, under a reader; nothing it acknowledged may be missing or different."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from buffer_rows import SCHEMA, episode, row, uuid_of

from robolearn.buffer.replay import Replay
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.types import Kind, Transition

BASE = 1000
STEPS = 12


def child(root: str, trial: int) -> None:
    """Write episodes and acknowledge them on stdout until killed."""
    os.write(1, b"open\n")
    with Writer(
        Path(root), SCHEMA, name="actor", robot="r", task="t", commit_every_s=0.005, log_bytes=20_000
    ) as writer:
        for number in range(BASE * trial, BASE * trial + BASE):
            for t in episode(number, STEPS, humans=[3]):
                writer.append(t)
                os.write(1, f"row {number} {t.index}\n".encode())
            writer.end_episode(number % 2 == 0)
            os.write(1, f"end {number}\n".encode())


def run_and_kill(root: Path, trial: int, rng: random.Random, replay: Replay) -> list[str]:
    """Acknowledgements of a writer killed at a moment drawn from ``rng``; a reader follows it meanwhile."""
    command = [sys.executable, __file__, str(root), str(trial)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        opened = process.stdout.readline()
        assert opened == "open\n"
        deadline = time.monotonic() + rng.choice([0.02, 0.1, 0.2]) * rng.random()
        while time.monotonic() < deadline:
            replay.refresh()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().splitlines()
    assert process.returncode == -signal.SIGKILL
    return lines


def expected(number: int) -> list[Transition]:
    return episode(number, STEPS, humans=[3])


def kill_often(root: Path, trials: int, seed: int) -> int:
    """Kill ``trials`` writers; return how many rows they had acknowledged."""
    rng, acknowledged, whole = random.Random(seed), {}, {}
    with Replay(root, SCHEMA) as live:
        for trial in range(trials):
            for line in run_and_kill(root, trial, rng, live):
                what, number, *index = line.split()
                if what == "row":
                    acknowledged[int(number)] = int(index[0]) + 1
                else:
                    whole[int(number)] = True
            if trial % 5 == 0:
                assert verify(root).ok, verify(root)
        with Writer(root, SCHEMA, name="actor", robot="r", task="t") as writer:
            for t in (row(7, 0, Kind.FIRST), row(7, 1, Kind.TERMINATED)):
                writer.append(t)
            writer.end_episode(True)
        live.refresh()
        check(root, live, acknowledged, whole)
    return sum(acknowledged.values())


def check(root: Path, live: Replay, acknowledged: dict[int, int], whole: dict[int, bool]) -> None:
    from buffer_rows import contents, records, same

    report = verify(root)
    assert report.ok, report.problems
    found = contents(root)
    for number, rows in acknowledged.items():
        stored = found[uuid_of(number)]
        assert len(stored) >= rows, f"episode {number}: {rows} rows acknowledged, {len(stored)} stored"
        assert same(stored, expected(number)[: len(stored)])
    index = {r.uuid: r for r in records(root)}
    for number in whole:
        record = index[uuid_of(number)]
        assert (record.state, record.success, record.recovered) == ("complete", number % 2 == 0, False)
    assert all(r.state == "complete" for r in index.values())
    with Replay(root, SCHEMA) as fresh:
        fresh.refresh()
        for replay in (live, fresh):
            assert replay.rows == report.rows
            batch = replay.sample(256, demo_fraction=0.0)
            assert (batch.observation["count"] + 1 == batch.next_observation["count"]).all()


def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    assert kill_often(tmp_path, trials=20, seed=1) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    assert kill_often(tmp_path, trials=100, seed=seed) > 1000


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]))
