"""Speed of the replay buffer's first cut: append, commit, refresh, sample, against the plain numpy limit.

    python bench/bench_buffer_first.py

Workload W1 of the buffer's reference measurements: 64 float32 observation values, 7 actions, 100-step episodes.
Prints medians over interleaved rounds of CPU time (and wall time where a disk is waited for), and writes
``bench/results/buffer_first.json``.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robolearn.buffer.replay import Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Kind, Source, Transition

STEPS, EPISODES, DEMOS, ROUNDS = 100, 150, 20, 5
SCHEMA = Schema({"state": ArraySpec("state", (64,))}, ArraySpec("action", (7,), low=-1.0, high=1.0))


def episode(rng: np.random.Generator, steps: int = STEPS) -> list[Transition]:
    """Rows of one episode."""
    name, zeros = uuid.uuid4().hex, np.zeros(7, np.float32)
    kinds = [Kind.FIRST, *[Kind.MID] * (steps - 1), Kind.TERMINATED]
    return [
        Transition(
            name, i, {"state": rng.normal(size=64).astype(np.float32)}, zeros, zeros, None, Source.POLICY, 0.0,
            1.0 if kind.bootstraps else 0.0, kind, 1, i,
        )
        for i, kind in enumerate(kinds)
    ]  # fmt: skip


def measure(call: Callable[[], object], times: int) -> tuple[float, float]:
    """(CPU, wall) microseconds per call."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(times):
        call()
    return (time.process_time() - cpu) / times * 1e6, (time.perf_counter() - wall) / times * 1e6


def write(root: Path, name: str, episodes: list[list[Transition]], *, demo: bool, flush: bool = False) -> None:
    """Write episodes, every one acknowledged as durable."""
    with Writer(root, SCHEMA, name=name, robot="arm", task="bench", demo=demo) as writer:
        for rows in episodes:
            for row in rows:
                writer.append(row)
                if flush:
                    writer.flush()
            writer.end_episode(True)


class NumpyLimit:
    """Observations stored once, two takes into a reused output: what a sampler cannot be faster than."""

    def __init__(self, rows: int, batch: int) -> None:
        self.rows, self.batch = rows, batch
        self.data = np.zeros((rows, 73), np.float32)
        self.out = np.zeros((2, batch, 73), np.float32)
        self.rng = np.random.default_rng(0)

    def __call__(self) -> None:
        index = self.rng.integers(1, self.rows, self.batch)
        np.take(self.data, index - 1, axis=0, out=self.out[0], mode="clip")
        np.take(self.data, index, axis=0, out=self.out[1], mode="clip")


def one_round(folder: Path) -> dict[str, float]:
    """All figures once."""
    rng, root = np.random.default_rng(0), folder / "buffer"
    write(root, "demo", [episode(rng) for _ in range(DEMOS)], demo=True)
    data = [episode(rng) for _ in range(EPISODES)]
    rows = sum(map(len, data))
    cpu, wall = measure(lambda: write(root, "actor", data, demo=False), 1)
    result = {"write_cpu_us_per_row": cpu / rows, "write_wall_us_per_row": wall / rows}
    single = [episode(rng)]
    cpu, wall = measure(lambda: write(root, "other", single, demo=False, flush=True), 1)
    result |= {"write_flush_each_cpu_us_per_row": cpu / len(single[0])}
    with Replay(root, SCHEMA, capacity_rows=None, seed=0) as replay:
        result["load_cpu_us_per_row"] = measure(replay.refresh, 1)[0] / replay.rows
        result["poll_cpu_us"] = measure(replay.refresh, 2000)[0]
        for batch in (256, 1024, 2048):
            limit = NumpyLimit(replay.rows, batch)
            result[f"sample_{batch}_cpu_us"] = measure(lambda n=batch: replay.sample(n, rng=rng), 1000)[0]
            result[f"numpy_limit_{batch}_cpu_us"] = measure(limit, 1000)[0]
    result["verify_cpu_us_per_row"] = measure(lambda: verify(root), 1)[0] / (rows + 101 * (DEMOS + 1))
    used = sum(p.stat().st_size for p in (root / "logs").iterdir())
    result["log_bytes_over_raw"] = used / ((rows + 101 * (DEMOS + 1)) * (64 + 7 + 2) * 4)
    return result


def main() -> None:
    """Measure, print, write the results."""
    rounds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(one_round(Path(folder)))
    medians = {key: round(statistics.median(r[key] for r in rounds), 3) for key in rounds[0]}
    for key, value in medians.items():
        print(f"{key:36s} {value:12.2f}")
    report = {
        "command": "python bench/bench_buffer_first.py",
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "load": os.getloadavg()},
        "versions": {"python": sys.version.split()[0], "numpy": np.__version__, "sqlite": sqlite3.sqlite_version},
        "rounds": ROUNDS,
        "median": medians,
    }
    target = Path(__file__).parent / "results" / "buffer_first.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
