"""Durable writes: transitions per second of a writer that acknowledges every episode, beside what the disk allows.

    python bench/bench_buffer_write.py [--rounds 7] [--seconds 2] [--compare PATH]

Workloads of the buffer's reference measurements, 100-step episodes: W1 has 64 float32 observation values and 7 actions,
W2 two 128 x 128 x 3 uint8 images and 32 float32 values. Systems, interleaved in one process, each in a new directory:

``limit``        one write of an episode's bytes, one fdatasync, one SQLite commit (synchronous FULL)
``limit, rows``  the same with one write per row, which surviving a kill after each row needs
``writer``       Writer with ``end_episode`` after every episode
``grouped``      Writer with ``end_episode(wait=False)``: several episodes share a commit; all durable at the end
``before``       Writer of another checkout (``--compare PATH``)

Then a control loop: rows of W2 appended at 20 Hz, and how long ``append`` keeps the loop waiting [ms], while its rows
are committed every 0.25 s.

Prints medians and the lowest round, and writes ``bench/results/buffer_write.json``. Figures count transitions (100 an
episode), wall clock and CPU of the process.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import os
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import table, write

from robolearn.core.spec import ArraySpec
from robolearn.core.types import Kind, Source, Transition

STEPS = 100
ACTION = ArraySpec("action", (7,), low=-1.0, high=1.0)
IMAGE = {f"camera{i}": ArraySpec(f"camera{i}", (128, 128, 3), "uint8", "rgb") for i in range(2)}
WORKLOADS = {"W1": {"state": ArraySpec("state", (64,))}, "W2": {"state": ArraySpec("state", (32,)), **IMAGE}}
FLOORS = {"W1": 5_000, "W2": 1_000}
System = Callable[[Path, int], None]


def rows(observation: dict[str, ArraySpec]) -> list[Transition]:
    """Rows of one episode."""
    rng, zeros = np.random.default_rng(0), np.zeros(7, np.float32)
    kinds = [Kind.FIRST, *[Kind.MID] * (STEPS - 1), Kind.TERMINATED]

    def value(spec: ArraySpec) -> Any:
        if spec.dtype == "uint8":
            return rng.integers(0, 256, spec.shape, np.uint8)
        return rng.normal(size=spec.shape).astype(np.float32)

    return [
        Transition(
            "", i, {k: value(s) for k, s in observation.items()}, zeros, zeros, None, Source.POLICY, 0.0,
            1.0 if kind.bootstraps else 0.0, kind, 1, i,
        )
        for i, kind in enumerate(kinds)
    ]  # fmt: skip


def fresh(episode: list[Transition]) -> Iterator[Transition]:
    """The same rows under a new id."""
    name = uuid.uuid4().hex
    return (dataclasses.replace(t, episode=name) for t in episode)


def limit(data: bytes, pieces: int) -> System:
    """Plain writes of ``data`` in ``pieces``, fdatasync, commit; per episode."""
    size = len(data) // pieces
    parts = [memoryview(data)[i * size : (i + 1) * size] for i in range(pieces)]

    def run(folder: Path, episodes: int) -> None:
        fd = os.open(folder / "limit.log", os.O_WRONLY | os.O_CREAT)
        with closing(sqlite3.connect(folder / "limit.sqlite", isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("CREATE TABLE episodes (uuid TEXT UNIQUE, offset INTEGER)")
            for _ in range(episodes):
                for part in parts:
                    os.write(fd, part)
                os.fdatasync(fd)
                db.execute("INSERT INTO episodes VALUES (?, ?)", (uuid.uuid4().hex, 0))
        os.close(fd)

    return run


def writer(module: ModuleType, schema: Any, episode: list[Transition], *, wait: bool) -> System:
    """Our writer; ``wait``: every episode is acknowledged before the next begins."""
    more = {} if wait else {"wait": False}

    def run(folder: Path, episodes: int) -> None:
        with module.Writer(folder / "buffer", schema, name="actor", robot="arm", task="bench") as to:
            for _ in range(episodes):
                for t in fresh(episode):
                    to.append(t)
                to.end_episode(True, **more)

    return run


def other(path: Path) -> tuple[ModuleType, ModuleType]:
    """Modules ``buffer.writer`` and ``buffer.schema`` of another checkout, beside those already loaded."""
    mine = {k: sys.modules.pop(k) for k in list(sys.modules) if k.split(".")[0] == "robolearn"}
    sys.path.insert(0, str(path))
    try:
        for name in ("core", "core.types", "core.spec", "core.errors"):  # the same types on both sides
            sys.modules[f"robolearn.{name}"] = mine[f"robolearn.{name}"]
        return importlib.import_module("robolearn.buffer.writer"), importlib.import_module("robolearn.buffer.schema")
    finally:
        sys.path.remove(str(path))
        for name in [k for k in sys.modules if k.split(".")[0] == "robolearn"]:
            del sys.modules[name]
        sys.modules.update(mine)


def systems(name: str, compare: Path | None) -> dict[str, System]:
    """Name -> what runs it, of one workload."""
    module = importlib.import_module("robolearn.buffer.writer")
    schema = importlib.import_module("robolearn.buffer.schema").Schema(WORKLOADS[name], ACTION)
    episode = rows(WORKLOADS[name])
    data = np.random.default_rng(1).bytes((STEPS + 1) * (schema.row.itemsize + 16))
    found = {
        "limit": limit(data, 1),
        "limit, rows": limit(data, STEPS + 1),
        "writer": writer(module, schema, episode, wait=True),
    }
    if "wait" in inspect.signature(module.Writer.end_episode).parameters:
        found["grouped"] = writer(module, schema, episode, wait=False)
    if compare:
        theirs, schemas = other(compare)
        found["before"] = writer(theirs, schemas.Schema(WORKLOADS[name], ACTION), episode, wait=True)
    return found


def timed(system: System, episodes: int, folder: Path) -> tuple[float, float]:
    """(wall, CPU) seconds of one run."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        cpu, wall = time.process_time(), time.perf_counter()
        system(Path(here), episodes)
        return time.perf_counter() - wall, time.process_time() - cpu


def measure(name: str, rounds: int, seconds: float, compare: Path | None, folder: Path) -> list[dict[str, Any]]:
    """Rows of the table for one workload."""
    found = systems(name, compare)
    counts = {}
    for label, system in found.items():
        wall, _ = timed(system, 10, folder)
        counts[label] = max(5, int(seconds * 10 / wall))
    walls: dict[str, list[float]] = {label: [] for label in found}
    cpus: dict[str, list[float]] = {label: [] for label in found}
    for number in range(rounds):
        labels = list(found)
        for label in labels[number % len(labels) :] + labels[: number % len(labels)]:
            wall, cpu = timed(found[label], counts[label], folder)
            walls[label].append(wall / counts[label] / STEPS)
            cpus[label].append(cpu / counts[label] / STEPS)
    best = statistics.median(walls["limit"])
    return [
        {
            "workload": name,
            "system": label,
            "tr_per_s": round(1 / statistics.median(walls[label])),
            "lowest": round(1 / max(walls[label])),
            "share_of_limit": round(best / statistics.median(walls[label]), 3),
            "cpu_us_per_tr": round(1e6 * statistics.median(cpus[label]), 1),
            "floor": FLOORS[name],
        }
        for label in found
    ]


def pause(module: ModuleType, schema: Any, episode: list[Transition], folder: Path, hz: float) -> list[float]:
    """How long each ``append`` of one episode took at a control rate [s]."""
    took = []
    with (
        tempfile.TemporaryDirectory(dir=folder) as here,
        module.Writer(Path(here) / "buffer", schema, name="actor", robot="arm", task="bench") as to,
    ):
        due = time.perf_counter()
        for t in fresh(episode):
            time.sleep(max(0.0, due - time.perf_counter()))
            started = time.perf_counter()
            to.append(t)
            took.append(time.perf_counter() - started)
            due += 1 / hz
        to.end_episode(True)
    return took


def pauses(rounds: int, compare: Path | None, folder: Path, hz: float = 20.0) -> list[dict[str, Any]]:
    """Rows of the table of the control loop."""
    module = importlib.import_module("robolearn.buffer.writer")
    found = {"writer": (module, importlib.import_module("robolearn.buffer.schema"))}
    if compare:
        found["before"] = other(compare)
    took: dict[str, list[float]] = {label: [] for label in found}
    for _ in range(rounds):
        for label, (writers, schemas) in found.items():
            schema = schemas.Schema(WORKLOADS["W2"], ACTION)
            took[label] += pause(writers, schema, rows(WORKLOADS["W2"]), folder, hz)
    return [
        {
            "workload": f"W2 at {hz:g} Hz",
            "system": label,
            "rows": len(times),
            "append_ms_median": round(1e3 * statistics.median(times), 3),
            "append_ms_p95": round(1e3 * float(np.quantile(times, 0.95)), 3),
            "append_ms_max": round(1e3 * max(times), 3),
        }
        for label, times in took.items()
    ]


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="wall clock of one run, about")
    parser.add_argument("--compare", type=Path, help="root of another checkout")
    parser.add_argument("--folder", type=Path, help="where to write; the default is the temporary directory")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.gettempdir())
    figures = [row for name in WORKLOADS for row in measure(name, args.rounds, args.seconds, args.compare, folder)]
    columns = ("workload", "system", "tr_per_s", "lowest", "share_of_limit", "cpu_us_per_tr", "floor")
    print(table(figures, columns))
    loop = pauses(args.rounds, args.compare, folder)
    print(table(loop, ("workload", "system", "rows", "append_ms_median", "append_ms_p95", "append_ms_max")))
    data = {"rounds": args.rounds, "load": os.getloadavg(), "rows": figures, "control_loop": loop}
    write("buffer_write", data, packages=("numpy", "google-crc32c"))


if __name__ == "__main__":
    main()
