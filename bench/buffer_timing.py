"""Timing of several systems in one process, interleaved, and marks against the figures asked for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

System = Callable[[], object]


@dataclass
class Timing:
    """Calls per second of one system: one entry a round, by the wall clock and by CPU time of the process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Median calls per second of wall clock."""
        return statistics.median(self.wall)

    def over(self, other: Timing) -> tuple[float, float]:
        """(wall, CPU) medians of the ratio within a round, which other load on the machine disturbs least."""
        pairs = ((self.wall, other.wall), (self.cpu, other.cpu))
        wall, cpu = (statistics.median(a / b for a, b in zip(x, y, strict=True)) for x, y in pairs)
        return wall, cpu


def interleave(systems: Mapping[str, System], *, rounds: int, seconds: float) -> dict[str, Timing]:
    """Every system for about ``seconds`` a round, each round in another order."""
    counts = {name: _count(system, seconds) for name, system in systems.items()}
    timings = {name: Timing() for name in systems}
    names = list(systems)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            system, count = systems[name], counts[name]
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(count):
                system()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            timings[name].wall.append(count / wall)
            timings[name].cpu.append(count / cpu)
    return timings


def _count(system: System, seconds: float) -> int:
    """Calls that take about ``seconds``, after a warm-up of as many as reused outputs need."""
    for _ in range(4):
        system()
    count, took = 1, 0.0
    while True:
        start = time.perf_counter()
        for _ in range(count):
            system()
        took = time.perf_counter() - start
        if took > seconds / 10:
            return max(1, round(count * seconds / took))
        count *= 4


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        measure: what was measured.
        value: the figure, or None when it could not be measured.
        unit: its unit.
        floor, aim: what is asked for; None where nothing is.
        low: less is better.
        cpu: the same figure by CPU time, where both were taken.
        note: the figures behind it, or why there is none.
    """

    measure: str
    value: float | None
    unit: str = "x"
    floor: float | None = None
    aim: float | None = None
    low: bool = False
    cpu: float | None = None
    note: str = ""

    @property
    def mark(self) -> str:
        """``aim`` or ``pass`` when it is reached, ``SHORT`` when the floor is missed, ``-`` without a floor."""
        if self.value is None:
            return "absent"
        for name, bound in (("aim", self.aim), ("pass", self.floor)):
            if bound is not None and (self.value <= bound if self.low else self.value >= bound):
                return name
        return "-" if self.floor is None else "SHORT"

    def row(self) -> dict[str, Any]:
        """For the results."""

        def number(value: float | None) -> float | None:
            return None if value is None else float(f"{value:.4g}")

        found = {"measure": self.measure, "value": number(self.value), "cpu": number(self.cpu), "unit": self.unit}
        return {**found, "floor": self.floor, "aim": self.aim, "mark": self.mark, "note": self.note}

    def line(self) -> dict[str, str]:
        """For the table."""

        def text(value: object) -> str:
            if isinstance(value, float | int):
                return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            return "" if value is None else str(value)

        return {key: text(value) for key, value in self.row().items()}


COLUMNS = ("measure", "value", "cpu", "unit", "floor", "aim", "mark", "note")
