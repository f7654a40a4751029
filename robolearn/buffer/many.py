"""Episodes in memory, and what of many of them can be worked out at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.index import EpisodeRecord
from robolearn.buffer.source import Source
from robolearn.buffer.table import Run
from robolearn.core.types import Source as Who

Mask = NDArray[np.bool_]


@dataclass
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
    executed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(Who), np.int64))
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
        return (1 << 60 if self.source.select is None else self.source.number << 40) + self.record.id


class Many:
    """Whole episodes and their rows, one after the other.

    Args:
        episodes: all of one source, nothing of them in memory yet.
        rows: all their rows, of ``schema.low_row``.
        marks: what of an entry filters look at.

    Attributes:
        counts: rows of each episode.
        steps: (n,) False at the first row of each.
    """

    def __init__(self, episodes: Sequence[Resident], rows: NDArray[Any], marks: Sequence[str]) -> None:
        self.episodes, self._marks = episodes, marks
        self.counts = [episode.record.rows for episode in episodes]
        self._source, self._policy = rows["source"].copy(), rows["policy_version"].copy()
        self._starts = np.cumsum([0, *self.counts])
        self.steps: Mask = np.ones(len(rows), bool)
        self.steps[self._starts[:-1]] = False

    def mask(self, select: Callable[[Resident, NDArray[np.uint8], NDArray[np.int64]], Mask]) -> Mask:
        """(n,) what a function of (episode, who executed, policy version) says of all rows.

        It is asked once for neighbours whose entries look the same to filters.
        """
        parts = [select(self.episodes[e], self._source[a:b], self._policy[a:b]) for e, a, b in self._alike]
        return np.concatenate(parts)

    def executed(self, allowed: Mask) -> NDArray[np.int64]:
        """(episodes, sources) allowed steps by who executed them."""
        number = np.repeat(np.arange(len(self.counts)), self.counts)
        at, width = allowed & self.steps, len(Who)
        counted = np.bincount(number[at] * width + self._source[at], minlength=len(self.counts) * width)
        return counted.reshape(-1, width)

    @cached_property
    def _alike(self) -> list[tuple[int, int, int]]:
        """(first episode, first row, row after the last) of neighbours that are alike."""
        found, last, starts = [], None, self._starts.tolist()
        for number, episode in enumerate(self.episodes):
            record = episode.record
            # a filter may tell from these alone that no step can pass
            key = (record.interventions > 0, record.policy_min, record.policy_max)
            marks = (*key, *(getattr(record, name) for name in self._marks))
            if marks != last:
                found.append(number)
                last = marks
        return [(a, starts[a], starts[b]) for a, b in zip(found, [*found[1:], len(self.counts)], strict=True)]
