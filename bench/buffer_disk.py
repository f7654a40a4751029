"""Bytes on disk and in RAM, time to reopen, and a learner beside writers."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path

import buffer_ours as ours
from buffer_data import W1, W2, Workload, make, rows_of
from buffer_timing import Timing

from robolearn.buffer.index import Index
from robolearn.buffer.writer import Writer

_Signals = tuple[Semaphore, Event, Event]
WORKLOADS = {w.name: w for w in (W1, W2)}


def disk_bytes(root: Path) -> int:
    """Bytes that the files of a buffer take on disk."""
    return sum(p.stat().st_blocks * 512 for p in root.rglob("*") if p.is_file())


def ram_bytes(root: Path, workload: Workload) -> tuple[int, int]:
    """(all rows resident, the same after a ring of batches was drawn) bytes a process grows by."""
    command = [sys.executable, __file__, str(root), workload.name, str(workload.transitions)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(found[-2]), int(found[-1])


def seconds(call: Callable[[], object], times: int = 3) -> tuple[float, float]:
    """(wall, CPU) medians of one call."""
    walls, cpus = [], []
    for _ in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def _resident() -> int:
    """Private and shared memory of this process; pages of files do not count, the kernel takes them back at will."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _print_ram(root: Path, workload: Workload) -> None:
    ours.replay(root.with_name(f"{root.name}-empty"), workload).close()  # what is imported and allocated once
    start = _resident()
    with closing(ours.replay(root, workload)) as replay:
        loaded = _resident() - start
        draw = ours.transitions(replay, workload)
        for _ in range(8):
            draw()
        print(loaded, _resident() - start)


def write_short_episodes(root: Path, episodes: int, steps: int) -> None:
    """Many short W1 episodes, acknowledged in groups."""
    columns = make(W1.resized(100))
    with Writer(root, W1.schema, name="actor", robot="arm", task="bench") as writer:
        for _ in range(episodes):
            for row in rows_of(columns, 0, steps):
                writer.append(row)
            writer.end_episode(True, wait=False)


def index_seconds(root: Path) -> tuple[float, float]:
    """(wall, CPU) of reading all episodes' entries of the index."""

    def read() -> None:
        with closing(Index(root / "index.sqlite", writable=False)) as index:
            index.changes()

    return seconds(read)


def ready_seconds(root: Path) -> tuple[float, float]:
    """(wall, CPU) of everything up to the first batch."""

    def read() -> None:
        with closing(ours.replay(root, W1)) as replay:
            ours.transitions(replay, W1)()

    return seconds(read)


def _write_at_rate(root: Path, workload: Workload, name: str, hertz: float, signals: _Signals) -> None:
    """Append a step every 1/hertz seconds while told to go."""
    ready, go, end = signals
    columns = make(workload.resized(100), seed=1)
    with Writer(root, workload.schema, name=name, robot=name, task="bench") as writer:
        ready.release()
        due = 0.0
        while not end.is_set():
            for row in rows_of(columns, 0):
                while not go.wait(0.05):
                    pass
                now = time.monotonic()
                due = max(due + 1 / hertz, now)
                if not end.is_set():
                    time.sleep(due - now)
                writer.append(row)
            writer.end_episode(True)


@contextmanager
def writers(root: Path, workload: Workload, count: int, hertz: float) -> Iterator[Event]:
    """Writer processes that append while the event is set; they are there when it is handed out."""
    context = multiprocessing.get_context("spawn")
    ready, go, end = signals = context.Semaphore(0), context.Event(), context.Event()
    processes = [
        context.Process(target=_write_at_rate, args=(root, workload, f"robot{i}", hertz, signals)) for i in range(count)
    ]
    for process in processes:
        process.start()
    try:
        for _ in processes:
            if not ready.acquire(timeout=60):
                raise SystemExit("a writer did not start within 60 s")
        yield go
    finally:
        end.set()
        go.set()
        for process in processes:
            process.join(60)
            if process.exitcode is None:
                process.kill()
                process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit(f"a writer failed: exit codes {[p.exitcode for p in processes]}")


def beside_writers(
    root: Path, workload: Workload, *, hertz: float, rounds: int, seconds: float
) -> tuple[Timing, Timing, float]:
    """(learner alone, learner beside four writers, transitions per second it took in from them).

    The learner draws batches and takes in what is new 20 times a second, alone or not.
    """
    alone, beside = Timing(), Timing()
    with closing(ours.replay(root, workload)) as replay, writers(root, workload, 4, hertz) as go:
        draw = ours.transitions(replay, workload)
        _learn(draw, replay.refresh, 1.0)
        before, busy = replay.transitions, 0.0
        for number in range(2 * rounds):
            on = (number + number // 2) % 2 == 1  # off, on, on, off, ...
            if on:
                go.set()
            time.sleep(0.3)
            wall, cpu = _learn(draw, replay.refresh, seconds)
            busy += (seconds + 0.3) if on else 0.0
            timing = beside if on else alone
            timing.wall.append(wall)
            timing.cpu.append(cpu)
            go.clear()
            time.sleep(0.1)
            replay.refresh()
        taken = (replay.transitions - before) / busy
    return alone, beside, taken


def _learn(draw: Callable[[], object], refresh: Callable[[], object], seconds: float) -> tuple[float, float]:
    """(wall, CPU) batches per second."""
    cpu, start = time.process_time(), time.perf_counter()
    drawn, refreshed = 0, start
    while (now := time.perf_counter()) < start + seconds:
        if now - refreshed >= 0.05:
            refresh()
            refreshed = now
        draw()
        drawn += 1
    return drawn / (time.perf_counter() - start), drawn / (time.process_time() - cpu)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _print_ram(Path(sys.argv[1]), WORKLOADS[sys.argv[2]].resized(int(sys.argv[3])))
