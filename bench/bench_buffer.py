"""The replay buffer against the figures asked of it: plain numpy, torchrl, cpprb, diffusion-policy samplers, the disk.

    make bench-buffer
    python bench/bench_buffer.py [--quick] [--only NAME ...] [--rounds 31] [--seconds 0.1] [--folder PATH]

Prints one table and writes ``bench/results/buffer.json`` (not with ``--quick`` or ``--only``). What is compared runs
interleaved in one process, one per section, over the same data, with one torch thread; a ratio is the median over
rounds of the ratio in a round, by the wall clock (``value``) and by CPU time (``cpu``). ``mark`` says whether the floor
(``pass``) or the aim (``aim``) of ``value`` is reached. Workloads W1 to W4 are defined in ``buffer_data.py``.
Everything read from disk comes from the page cache: nothing here measures a cold disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import buffer_disk as disk
import buffer_ours as ours
import buffer_peers as peers
from bench_buffer_write import measure as measure_writes
from buffer_data import STEPS, W1, W2, W3, W4, Columns, Workload, make, store
from buffer_timing import COLUMNS, Figure, System, Timing, interleave
from common import table, write

from robolearn.buffer.replay import Refresh
from robolearn.buffer.seal import seal
from robolearn.buffer.verify import verify


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, seconds a system and round, share of the workloads' size, where files go.

    Rounds are many and short: other load on the machine then spoils some of them, not the median. What waits for a
    disk or for other processes gets few long ones.
    """

    rounds: int
    seconds: float
    share: float
    folder: Path

    @property
    def long(self) -> dict[str, Any]:
        """Rounds and seconds for what needs long ones."""
        return {"rounds": max(2, self.rounds // 4), "seconds": 15 * self.seconds}

    def sized(self, workload: Workload) -> Workload:
        """The workload, smaller with ``--quick``."""
        return workload.resized(int(workload.transitions * self.share))

    def times(self, systems: Mapping[str, System]) -> dict[str, Timing]:
        """Rates of the systems, once what was written before is on disk."""
        os.sync()
        return interleave(systems, rounds=self.rounds, seconds=self.seconds)


Section = Callable[[Effort], Iterator[Figure]]


def built(makers: Mapping[str, Callable[[], System]]) -> tuple[dict[str, System], dict[str, str]]:
    """The systems that can be had, and why not for the others."""
    systems, absent = {}, {}
    for name, maker in makers.items():
        try:
            systems[name] = maker()
        except ImportError as error:
            absent[name] = f"{type(error).__name__}: {error}"
    return systems, absent


def ratio(
    measure: str,
    times: Mapping[str, Timing],
    absent: Mapping[str, str],
    of: tuple[str, str],
    floor: float | None = None,
    aim: float | None = None,
) -> Figure:
    """How many times faster one system is than another."""
    for name in of:
        if name in absent:
            return Figure(measure, None, floor=floor, aim=aim, note=absent[name])
    wall, cpu = times[of[0]].over(times[of[1]])
    note = f"{times[of[0]].rate:,.4g} against {times[of[1]].rate:,.4g} batches/s"
    return Figure(measure, wall, "x", floor, aim, cpu=cpu, note=note)


def _transitions(effort: Effort, workload: Workload, asked: Mapping[str, tuple[float, float]]) -> Iterator[Figure]:
    workload = effort.sized(workload)
    columns, folder, name = make(workload), effort.folder, workload.name
    store(folder / name, workload, columns)
    with closing(ours.replay(folder / name, workload)) as replay:
        systems, absent = built(
            {
                "ours": lambda: ours.transitions(replay, workload),
                "numpy": lambda: peers.numpy_limit(workload, columns),
                "memmap": lambda: peers.torchrl(workload, columns, "memmap", folder / f"{name}-memmap"),
                "tensor": lambda: peers.torchrl(workload, columns, "tensor", folder),
                "cpprb": lambda: peers.cpprb(workload, columns),
            }
        )
        times = effort.times(systems)
    yield ratio(f"{name} share of numpy's limit", times, absent, ("ours", "numpy"), *asked["numpy"])
    yield ratio(f"{name} over torchrl LazyMemmap", times, absent, ("ours", "memmap"), *asked["memmap"])
    yield ratio(f"{name} over torchrl LazyTensor", times, absent, ("ours", "tensor"))
    yield ratio(f"{name} over cpprb", times, absent, ("ours", "cpprb"), *asked["cpprb"])


def state(effort: Effort) -> Iterator[Figure]:
    """W1: transitions of numbers."""
    return _transitions(effort, W1, {"numpy": (0.6, 0.85), "memmap": (6, 10), "cpprb": (3, 4.5)})


def images(effort: Effort) -> Iterator[Figure]:
    """W2: transitions with images."""
    return _transitions(effort, W2, {"numpy": (0.8, 1.0), "memmap": (6, 9), "cpprb": (1.0, 1.3)})


def larger(effort: Effort) -> Iterator[Figure]:
    """W3: four times as much data as RAM, by mode and, in ``cached`` mode, episodes exchanged per batch."""
    workload = effort.sized(W3)
    columns, root, budget = make(workload), effort.folder / "W3", workload.raw_bytes // 4
    store(root, workload, columns)
    seal(root, everything=True)
    modes: dict[str, dict[str, Any]] = {"exact": {"mode": "exact"}}
    for pace in (0.25, 1.0, 4.0):
        modes[f"cached {pace:g}"] = {"mode": "cached", "exchange": Refresh(episodes_per_batch=pace)}
    with ExitStack() as stack:
        replays = {
            name: stack.enter_context(closing(ours.replay(root, workload, ram_bytes=budget, **more)))
            for name, more in modes.items()
        }
        makers = {name: partial(ours.transitions, replay, workload) for name, replay in replays.items()}
        memmap = partial(peers.torchrl, workload, columns, "memmap", effort.folder / "W3-memmap")
        systems, absent = built({**makers, "memmap": memmap})
        times = effort.times(systems)
        metrics = {name: replay.metrics() for name, replay in replays.items()}
    for name, found in metrics.items():
        asked = (3.0, 5.0) if name == "exact" else (None, None)
        figure = ratio(f"W3 {name} over torchrl LazyMemmap", times, absent, (name, "memmap"), *asked)
        hits = f"; hit rate {found['image_hit_rate']:.2f}"
        uniformity = f"; uniformity CV {found['uniformity_cv']:.3f}" if "uniformity_cv" in found else ""
        yield dataclasses.replace(figure, note=f"{figure.note}{hits}{uniformity}")


def sequences(effort: Effort) -> Iterator[Figure]:
    """W4: observation histories with action chunks."""
    workload = effort.sized(W4)
    columns, folder = make(workload), effort.folder
    store(folder / "W4", workload, columns)
    with closing(ours.replay(folder / "W4", workload)) as replay:
        systems, absent = built(
            {
                "ours": lambda: ours.chunks(replay, workload),
                "usual": lambda: peers.sequences(workload, columns),
                "lean": lambda: peers.sequences(workload, columns, whole=False),
                "zarr": lambda: peers.zarr_sequences(workload, columns, folder / "W4.zarr", columns.episodes // 3),
                "numpy": lambda: peers.numpy_windows(workload, columns),
            }
        )
        times = effort.times(systems)
    yield ratio("W4 share of numpy's limit", times, absent, ("ours", "numpy"))
    yield ratio("W4 over a usual sequence sampler", times, absent, ("ours", "usual"), 10, 16)
    yield ratio("W4 over one that copies only what it uses", times, absent, ("ours", "lean"))
    yield ratio("W4 over a usual one on zarr", times, absent, ("ours", "zarr"), 100, 370)


def writes(effort: Effort) -> Iterator[Figure]:
    """Durable writes; details with ``bench_buffer_write.py``."""
    for name, floor, aim in (("W2", 1_000, 4_000), ("W1", 5_000, 13_000)):
        rows = measure_writes(name, **effort.long, compare=None, folder=effort.folder)
        found = {row["system"]: row for row in rows}
        for system, label in (("writer", "each episode acknowledged"), ("grouped", "acknowledged in groups")):
            if system not in found:
                continue
            row = found[system]
            note = f"{label}; {row['share_of_limit']} of one plain write and commit; {row['cpu_us_per_tr']} us CPU"
            asked = (floor, aim) if system == "writer" else (None, None)
            yield Figure(f"{name} durable writes", row["tr_per_s"], "transitions/s", *asked, note=note)


def sizes(effort: Effort) -> Iterator[Figure]:
    """RAM and disk over the bytes of the rows; asked for where images make the size (W2)."""
    for workload in (effort.sized(W2), effort.sized(W1)):
        root, raw = effort.folder / f"size-{workload.name}", workload.raw_bytes
        store(root, workload, make(workload))
        logs = disk.disk_bytes(root) / raw
        seal(root, everything=True)
        asked = {"disk": (1.05, 1.01), "RAM": (1.25, 1.15)} if workload.name == "W2" else {}
        loaded, drawn = disk.ram_bytes(root, workload)
        name, none = workload.name, (None, None)
        yield Figure(
            f"{name} disk over raw", disk.disk_bytes(root) / raw, "x", *asked.get("disk", none), low=True,
            note=f"sealed; {logs:.3f} as logs",
        )  # fmt: skip
        yield Figure(
            f"{name} RAM over raw", loaded / raw, "x", *asked.get("RAM", none), low=True,
            note=f"{drawn / raw:.3f} with the ring of batches; raw {raw / 1e6:.0f} MB",
        )  # fmt: skip


def upkeep(effort: Effort) -> Iterator[Figure]:
    """What else takes time: taking rows in, asking for new ones, checking every byte."""
    for workload in (effort.sized(W2), effort.sized(W1)):
        root, name = effort.folder / f"upkeep-{workload.name}", workload.name
        store(root, workload, make(workload))
        megabytes = disk.disk_bytes(root) / 1e6
        for kept in ("logs", "segments"):
            if kept == "segments":
                seal(root, everything=True)
            wall, cpu = disk.seconds(lambda root=root, workload=workload: ours.replay(root, workload).close())
            rows = workload.episodes * (STEPS + 1)
            yield Figure(f"{name} taken in from {kept}", rows / wall, "rows/s", cpu=rows / cpu)
            wall, cpu = disk.seconds(lambda root=root: verify(root))
            yield Figure(f"{name} verified in {kept}", megabytes / wall, "MB/s", cpu=megabytes / cpu)
        with closing(ours.replay(root, workload)) as replay:
            wall, cpu = disk.seconds(lambda replay=replay: [replay.refresh() for _ in range(1000)])
            yield Figure(f"{name} refresh with nothing new", wall * 1e3, "us", low=True, cpu=cpu * 1e3)


def reopen(effort: Effort) -> Iterator[Figure]:
    """Opening a buffer of many short episodes, by the time its index is read and by the first batch."""
    have, took = 0, 0.0
    for episodes, floor, aim in ((1_000, 50, 10), (100_000, 500, 250)):
        if effort.share < 1 and episodes > 1_000:
            continue  # writing them takes most of a quick run
        root, name = effort.folder / "many", f"reopen {episodes:,} episodes"
        disk.write_short_episodes(root, episodes - have, steps=2)
        seal(root, everything=True)
        index = Figure(f"{name}, index read", None, "ms", floor, aim, low=True, note="sealed, 3 rows each")
        batch = dataclasses.replace(index, measure=f"{name}, first batch")
        wall, cpu = disk.index_seconds(root)
        yield dataclasses.replace(index, value=wall * 1e3, cpu=cpu * 1e3)
        if took and took * episodes / have > 60:
            yield dataclasses.replace(batch, note=f"left out, as {have:,} took {took * 1e3:,.0f} ms")
            continue
        have, (took, cpu) = episodes, disk.ready_seconds(root)
        yield dataclasses.replace(batch, value=took * 1e3, cpu=cpu * 1e3)


def beside(effort: Effort) -> Iterator[Figure]:
    """A learner that takes in what four writers append while it samples; the figure asked for is of robots at 20 Hz."""
    for workload in (effort.sized(W2), effort.sized(W1)):
        columns: Columns = make(workload)
        for hertz in (20.0, 200.0):
            root = effort.folder / f"beside-{workload.name}-{hertz:.0f}"
            store(root, workload, columns)
            alone, with_them, taken = disk.beside_writers(root, workload, hertz=hertz, **effort.long)
            wall, cpu = with_them.over(alone)
            asked = (0.8, 0.95) if hertz == 20.0 else (None, None)
            yield Figure(
                f"{workload.name} beside 4 writers at {hertz:.0f} Hz", wall, "of alone", *asked, cpu=cpu,
                note=f"{with_them.rate:,.4g} of {alone.rate:,.4g} batches/s; {taken:,.0f} transitions/s came",
            )  # fmt: skip


SECTIONS: dict[str, Section] = {
    section.__name__: section for section in (state, images, larger, sequences, writes, sizes, upkeep, reopen, beside)
}


def measure(name: str, effort: Effort) -> list[Figure]:
    """One section, in a process of its own: whether an allocator has memory left over decides what some peers cost."""
    figures = []
    for figure in SECTIONS[name](effort):
        figures.append(figure)
        print(table([figure.line()], COLUMNS).splitlines()[1], flush=True)
    return figures


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small data, few rounds: does it run at all")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="these parts")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="wall clock of one system in one round")
    parser.add_argument("--folder", type=Path, help="where to write data; the default is the temporary directory")
    args = parser.parse_args()
    rounds, seconds = args.rounds or (5 if args.quick else 31), args.seconds or (0.05 if args.quick else 0.1)
    load, figures = os.getloadavg()[0], []
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="robolearn-bench-", dir=args.folder) as folder:
            effort = Effort(rounds, seconds, 0.1 if args.quick else 1.0, Path(folder))
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                figures += fresh.submit(measure, name, effort).result()
    loads = [round(load, 1), round(os.getloadavg()[0], 1)]
    print(
        f"\n{table([figure.line() for figure in figures], COLUMNS)}\n\nload of the machine {loads[0]}, then {loads[1]}"
    )
    if args.quick or len(args.only) < len(SECTIONS):
        return
    rows = [figure.row() for figure in figures]
    result = {"rounds": rounds, "seconds": seconds, "load": loads, "rows": rows}
    write("buffer", result, packages=("numpy", "torch", "torchrl", "cpprb", "zarr"))


if __name__ == "__main__":
    main()
