"""Episodes in memory, and what of many of them can be worked out at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.index import EpisodeRecord
from robolearn.buffer.source import Source
from robolearn.buffer.table import Run
from robolearn.core.types import Source as Who

Mask = NDArray[np.bool_]
SOURCES = len(Who)


@dataclass(slots=True)
class Resident:
    """An episode as far as it is in memory.

    Attributes:
        record: its index entry when last seen.
        source: the buffer it is in.
        runs: its rows; several if it left but for some.
        rows: rows read so far.
        executed: (4,) steps that count, by who executed them.
        evicted: only steps a human executed are in memory.
    """

    record: EpisodeRecord
    source: Source
    runs: list[Run] = field(default_factory=list)
    rows: int = 0
    executed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(SOURCES, np.int64))
    evicted: bool = False

    @property
    def effective(self) -> EpisodeRecord:
        """The entry that filters see: what was selected elsewhere, or stays for its human steps, is demonstration."""
        if self.source.select is None and not self.evicted:
            return self.record
        return dataclasses.replace(self.record, demo=True)

    @property
    def arrival(self) -> int:
        """Sorting key: other buffers first, then by order of arrival."""
        return _first_arrival(self.source) + self.record.id


class Many:
    """Whole episodes and their rows, one after the other.

    Args:
        records: all of one source, nothing of them in memory yet.
        source: where they are.
        rows: all their rows, of ``schema.low_row``.
        marks: what of an entry filters look at.

    Attributes:
        counts: rows of each episode.
        steps: (n,) False at the first row of each.
    """

    def __init__(
        self, records: Sequence[EpisodeRecord], source: Source, rows: NDArray[Any], marks: Sequence[str]
    ) -> None:
        self.records, self.source, self._marks = records, source, marks
        self.counts = [record.rows for record in records]
        self._source, self._policy = rows["source"].copy(), rows["policy_version"].copy()
        self._starts = np.cumsum([0, *self.counts])
        self.steps: Mask = np.ones(len(rows), bool)
        self.steps[self._starts[:-1]] = False

    @property
    def arrivals(self) -> NDArray[np.int64]:
        """Sorting keys, as ``Resident.arrival``."""
        return _first_arrival(self.source) + np.array([record.id for record in self.records], np.int64)

    def resident(self, runs: Sequence[Run], executed: NDArray[np.int64]) -> list[Resident]:
        """The episodes, each with its run and its steps by who executed them."""
        return [
            Resident(record, self.source, [run], run.rows, counted)
            for record, run, counted in zip(self.records, runs, executed, strict=True)
        ]

    def mask(self, select: Callable[[Resident, NDArray[np.uint8], NDArray[np.int64]], Mask]) -> Mask:
        """(n,) what a function of (episode, who executed, policy version) says of all rows.

        It is asked once for neighbours whose entries look the same to filters.
        """
        parts = [
            select(Resident(self.records[e], self.source), self._source[a:b], self._policy[a:b])
            for e, a, b in self._alike
        ]
        return np.concatenate(parts)

    def executed(self, allowed: Mask) -> NDArray[np.int64]:
        """(episodes, sources) allowed steps by who executed them."""
        number = np.repeat(np.arange(len(self.counts)), self.counts)
        at, width = allowed & self.steps, SOURCES
        counted = np.bincount(number[at] * width + self._source[at], minlength=len(self.counts) * width)
        return counted.reshape(-1, width)

    @cached_property
    def _alike(self) -> list[tuple[int, int, int]]:
        """(first episode, first row, row after the last) of neighbours that are alike."""
        found, last, starts = [], None, self._starts.tolist()
        look = attrgetter("rows", *self._marks)  # a tuple also if there is one mark
        for number, record in enumerate(self.records):
            # a filter may tell from the interventions alone that no step can pass
            marks = (record.interventions > 0, look(record)[1:])
            if marks != last:
                found.append(number)
                last = marks
        return [(a, starts[a], starts[b]) for a, b in zip(found, [*found[1:], len(self.counts)], strict=True)]


def _first_arrival(source: Source) -> int:
    return 1 << 60 if source.select is None else source.number << 40
