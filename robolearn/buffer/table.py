"""The row table: which run of positions each episode owns, and the rows there."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.memory import Control, Memory
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind

Moved = Callable[[int, int, int, int], None]
_ROOM = 64  # rows a growing run gets at first


class Runs:
    """Runs of whole numbers: free ones are given out first fit, neighbours grow together again.

    Attributes:
        end: everything from here on is free.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._lengths: list[int] = []
        self.end = 0

    def take(self, count: int) -> int:
        """Start of a run of ``count``."""
        for i, length in enumerate(self._lengths):
            if length >= count:
                start = self._starts[i]
                self._cut(i, count)
                return start
        start, self.end = self.end, self.end + count
        return start

    def extend(self, stop: int, count: int) -> bool:
        """Let the run that stops before ``stop`` grow by ``count`` where it is, if what follows is free."""
        if stop == self.end:
            self.end += count
            return True
        i = bisect_left(self._starts, stop)
        if i == len(self._starts) or self._starts[i] != stop or self._lengths[i] < count:
            return False
        self._cut(i, count)
        return True

    def give(self, start: int, count: int) -> None:
        """Take a run back."""
        i = bisect_left(self._starts, start)
        if i and self._starts[i - 1] + self._lengths[i - 1] == start:
            i -= 1
            self._lengths[i] += count
        else:
            self._starts.insert(i, start)
            self._lengths.insert(i, count)
        if i + 1 < len(self._starts) and self._starts[i] + self._lengths[i] == self._starts[i + 1]:
            self._lengths[i] += self._lengths.pop(i + 1)
            del self._starts[i + 1]
        if self._starts[i] + self._lengths[i] == self.end:
            self.end = self._starts.pop(i)
            del self._lengths[i]

    def _cut(self, i: int, count: int) -> None:
        if self._lengths[i] == count:
            del self._starts[i], self._lengths[i]
        else:
            self._starts[i] += count
            self._lengths[i] -= count


@dataclass(slots=True)
class Run:
    """Rows of one episode that follow each other.

    Attributes:
        number: what ``memory.owner`` says at its positions; never used again.
        first: position of its first row.
        rows: how many there are; ``room`` how many there may be before it has to move.
        first_row: number of its first row within the episode.
    """

    number: int
    first: int = 0
    rows: int = 0
    room: int = 0
    first_row: int = 0

    @property
    def stop(self) -> int:
        """Position after its last row."""
        return self.first + self.rows


class Table:
    """Places rows in memory; the only one that writes there.

    Args:
        memory: where.
        moved: called with (number, old first, rows, new first) of a run that went to other positions.

    Attributes:
        rows: rows in memory.
        arrival: (E,) sorting key of each number: the order in which episodes began.
    """

    def __init__(self, memory: Memory, moved: Moved) -> None:
        self._memory, self._moved = memory, moved
        self._runs = Runs()
        self._numbers = 0
        self.rows = 0
        self.arrival: NDArray[np.int64] = np.zeros(64, np.int64)

    @property
    def end(self) -> int:
        """All rows are at positions before this one."""
        return self._runs.end

    def begin(self, arrival: int, first_row: int = 0) -> Run:
        """A run for rows from ``first_row`` of an episode on, none yet."""
        number = self._numbers
        if number >= len(self._memory.first):
            raise StoreError(f"{number} episodes were seen in this session; open the replay again to go on")
        self._numbers += 1
        if number >= len(self.arrival):
            self.arrival = np.concatenate([self.arrival, np.zeros_like(self.arrival)])
        self.arrival[number] = arrival
        self._memory.control[Control.EPISODES] = self._numbers
        return Run(number, first_row=first_row)

    def append(self, run: Run, rows: NDArray[Any], *, growing: bool) -> int:
        """Add (n,) rows of ``schema.low_row``, marked as no demonstrations; return the position of the first."""
        count, memory = len(rows), self._memory
        self._make_room(run, run.rows + count, growing)
        at = slice(run.stop, run.stop + count)
        _pack(memory, at, rows)
        memory.source[at], memory.policy[at] = rows["source"], rows["policy_version"]
        memory.owner[at], memory.slot[at] = run.number, -1
        run.rows += count
        self.rows += count
        self._publish(run)
        return at.start

    def append_many(self, arrivals: NDArray[np.int64], counts: Sequence[int], rows: NDArray[Any]) -> list[Run]:
        """Finished runs for the rows of ``schema.low_row`` of many whole episodes, which lie one after the other."""
        memory, total, first = self._memory, len(rows), self._numbers
        stop = first + len(counts)
        if stop > len(memory.first):
            raise StoreError(f"{stop} episodes were seen in this session; open the replay again to go on")
        start = self._take(total)
        at = slice(start, start + total)
        _pack(memory, at, rows)
        memory.source[at], memory.policy[at], memory.slot[at] = rows["source"], rows["policy_version"], -1
        lengths = np.asarray(counts)
        memory.owner[at] = np.repeat(np.arange(first, stop), lengths)
        ends = start + np.cumsum(lengths)
        memory.first[first:stop], memory.last[first:stop] = ends - lengths, ends - 1
        while len(self.arrival) < stop:
            self.arrival = np.concatenate([self.arrival, np.zeros_like(self.arrival)])
        self.arrival[first:stop] = arrivals
        self._numbers, self.rows = stop, self.rows + total
        memory.control[Control.EPISODES], memory.control[Control.ROWS] = stop, self._runs.end
        return list(map(Run, range(first, stop), (ends - lengths).tolist(), counts, counts))

    def rewrite(self, run: Run, rows: NDArray[Any]) -> None:
        """Put changed rows in the place of those of a run."""
        at, memory = slice(run.first, run.stop), self._memory
        with memory.changing():
            _pack(memory, at, rows)
            memory.source[at], memory.policy[at] = rows["source"], rows["policy_version"]

    def retract(self, run: Run, count: int) -> None:
        """Take the last rows back; nobody may know them yet."""
        run.rows -= count
        self.rows -= count
        self._publish(run)

    def set_demo(self, run: Run, first: int, demo: NDArray[np.bool_]) -> None:
        """Change the demo flags of a run, from its ``first`` row on."""
        packed = self._memory.packed[run.first + first : run.stop].view(self._memory.schema.sample)
        packed["demo"][:, 0] = demo

    def finish(self, run: Run) -> None:
        """No row will follow: give back the room that is left, and let the run close a gap."""
        if run.room == run.rows:
            return
        if run.first + run.room == self._runs.end:
            self._runs.give(run.stop, run.room - run.rows)
            run.room = run.rows
        else:
            self._move(run, run.rows)

    def part(self, run: Run, first: int, count: int) -> Run:
        """A run of its own with a copy of ``count`` rows from the ``first`` of another one."""
        part = self.begin(int(self.arrival[run.number]), run.first_row + first)
        part.first, part.room, part.rows = self._take(count), count, count
        self._copy(run.first + first, part)
        self.rows += count
        self._publish(part)
        return part

    def free(self, run: Run) -> None:
        """Forget a run. Whoever holds positions of it must have forgotten them."""
        with self._memory.changing():
            self._memory.slot[run.first : run.stop] = -1
            self._memory.last[run.number] = self._memory.first[run.number] - 1
        if run.room:
            self._runs.give(run.first, run.room)
        self.rows -= run.rows
        run.rows = run.room = 0
        self._memory.control[Control.ROWS] = self._runs.end

    def _make_room(self, run: Run, rows: int, growing: bool) -> None:
        if rows <= run.room:
            return
        room = max(rows, _ROOM, 2 * run.room) if growing else rows
        if run.room == 0:
            run.first, run.room = self._take(room), room
        elif self._runs.extend(run.first + run.room, room - run.room):
            run.room = room
        else:
            self._move(run, room)

    def _take(self, count: int) -> int:
        start = self._runs.take(count)
        if self._runs.end > len(self._memory.owner):
            self._runs.give(start, count)
            raise StoreError(
                f"{count} more rows do not fit: {self.rows} rows fill this machine's memory; give capacity_rows"
            )
        return start

    def _move(self, run: Run, room: int) -> None:
        memory, old, old_room = self._memory, run.first, run.room
        new = self._take(room)
        with memory.changing():
            run.first, run.room = new, room
            self._copy(old, run)
            self._publish(run)
            self._moved(run.number, old, run.rows, new)
            memory.slot[old : old + run.rows] = -1
        self._runs.give(old, old_room)
        self._memory.control[Control.ROWS] = self._runs.end

    def _copy(self, old: int, run: Run) -> None:
        source, target = slice(old, old + run.rows), slice(run.first, run.stop)
        for array in (self._memory.packed, self._memory.source, self._memory.policy, self._memory.slot):
            array[target] = array[source]
        self._memory.owner[target] = run.number

    def _publish(self, run: Run) -> None:
        self._memory.first[run.number], self._memory.last[run.number] = run.first, run.stop - 1
        self._memory.control[Control.ROWS] = self._runs.end


def _pack(memory: Memory, at: slice, rows: NDArray[Any]) -> None:
    """Write rows of ``schema.low_row`` as rows of ``schema.sample``, marked as no demonstrations."""
    schema = memory.schema
    packed = memory.packed[at].view(schema.sample)[:, 0]
    for key in schema.low_dim:
        packed[f"observation/{key}"] = rows[f"observation/{key}"]
    packed["action"], packed["reward"] = rows["action/executed"], rows["reward"]
    packed["discount"], packed["demo"] = rows["kind"] != Kind.TERMINATED, False
