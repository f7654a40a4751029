"""Views: the transitions a filter selects, as positions to draw from; and mixtures of views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.filters import Filter
from robolearn.buffer.memory import VIEWS, Control, Memory, Positions
from robolearn.core.errors import StoreError

Slots = NDArray[np.int64]


class Watcher(Protocol):
    """Somebody who wants to know what enters and leaves a view."""

    def added(self, positions: Positions) -> None:
        """These entered."""

    def removed(self, positions: Positions) -> None:
        """These left."""

    def moved(self, old: Positions, new: Positions) -> None:
        """These are somewhere else now."""


class View:
    """Transitions of one filter, each as the position of the row it leads to, in the order they were taken in.

    Args:
        memory: where the positions lie.
        number: which row of ``memory.views``.
        filter_: what belongs in it.
        newest: draw from the last so many only.
        max_version_lag: steps of weights more versions older than the newest leave for good.

    Attributes:
        size: transitions to draw from.
    """

    def __init__(
        self,
        memory: Memory,
        number: int,
        filter_: Filter,
        newest: int | None = None,
        max_version_lag: int | None = None,
    ) -> None:
        if (newest is not None and newest < 1) or (max_version_lag is not None and max_version_lag < 0):
            raise StoreError(f"view: expected newest >= 1 and max_version_lag >= 0, got {newest} and {max_version_lag}")
        self.filter, self.number, self.newest, self.max_version_lag = filter_, number, newest, max_version_lag
        self._memory, self._stored = memory, memory.views[number]
        self._end = 0
        self._since: dict[int, int] = {}  # number of a growing run -> where its first entry may be
        self._fresh_from = -(1 << 62)  # version
        self.watchers: list[Watcher] = []

    @property
    def name(self) -> str:
        """The filter, and the limits after it."""
        limits = {"newest": self.newest, "max_version_lag": self.max_version_lag}
        return ";".join([self.filter.text, *(f"{k}={v}" for k, v in limits.items() if v is not None)])

    @property
    def size(self) -> int:
        """Transitions to draw from."""
        return self._end if self.newest is None else min(self._end, self.newest)

    @property
    def positions(self) -> Positions:
        """(size,) positions to draw from."""
        found: Positions = self._stored[self._end - self.size : self._end]
        return found

    def extend(self, positions: Positions, number: int | None = None) -> None:
        """Add transitions at the end; ``number`` of their run if it may still move."""
        if self.max_version_lag is not None:
            positions = positions[self._memory.policy[positions] >= self._fresh_from]
        if number is not None:
            self._since.setdefault(number, self._end)
        end = self._end + len(positions)
        self._stored[self._end : end] = positions
        self._end = end
        self._publish()
        for watcher in self.watchers:
            watcher.added(positions)

    def remove(self, gone: Callable[[Positions], NDArray[np.bool_]]) -> int:
        """Forget the transitions for which ``gone`` is true; return how many there were."""
        stored = self._stored[: self._end]
        leave = gone(stored)
        if not leave.any():
            return 0
        left, kept = stored[leave], stored[~leave]
        with self._memory.changing():
            self._stored[: len(kept)] = kept
            self._end = len(kept)
            self._since = dict.fromkeys(self._since, 0)
            self._publish()
        for watcher in self.watchers:
            watcher.removed(left)
        return len(left)

    def moved(self, number: int, old: int, rows: int, new: int) -> None:
        """The rows from position ``old`` on are at ``new`` now; within ``changing``."""
        since = self._since.get(number, 0)
        stored = self._stored[since : self._end]
        at = np.flatnonzero((stored >= old) & (stored < old + rows))
        if len(at):
            before = stored[at]
            stored[at] += new - old
            for watcher in self.watchers:
                watcher.moved(before, stored[at])

    def finish(self, number: int) -> None:
        """A run will not move any more."""
        self._since.pop(number, None)

    def sort(self, key: NDArray[np.int64]) -> None:
        """Order by ``key`` of the owner, as if everything had been added in that order."""
        stored = self._stored[: self._end]
        order = np.argsort(key[self._memory.owner[stored]], kind="stable")
        with self._memory.changing():
            stored[:] = stored[order]
            self._since = dict.fromkeys(self._since, 0)

    def forget_stale(self, newest_version: int) -> None:
        """Let steps go whose weights are too old now."""
        if self.max_version_lag is not None and newest_version - self.max_version_lag > self._fresh_from:
            self._fresh_from = newest_version - self.max_version_lag
            self.remove(lambda positions: self._memory.policy[positions] < self._fresh_from)

    def _publish(self) -> None:
        self._memory.set_limits(self.number, self._end - self.size, self._end)


class Mixture:
    """Draws rows from several views at once, spread as evenly as whole numbers allow.

    Args:
        memory: where the views lie.
        rows: how many to draw.
        parts: (number of the view, weight), weights not negative and not all 0.
    """

    def __init__(self, memory: Memory, rows: int, parts: Sequence[tuple[int, float]]) -> None:
        self._memory, self.rows = memory, rows
        self._parts = [(view, weight) for view, weight in parts if weight > 0]
        self._flat = memory.views.reshape(-1)
        self._control = memory.control
        self._places = [Control.FIRST_VIEW + 2 * view + i for view, _ in self._parts for i in (0, 1)]
        self._limits: list[int] = []
        self._shares: list[tuple[int, Slots]] = []  # (view, rows it gives)
        self._scale, self._start = np.empty(rows), np.empty(rows)
        self._at: Slots = np.empty(rows, np.int64)
        self.after: Positions = np.empty(rows, np.int64)
        self._uniform = np.empty(rows)

    @property
    def views(self) -> list[int]:
        """Numbers of the views that rows are drawn from."""
        return [view for view, at in self._shares if len(at)]

    def parts_of(self, which: Slots) -> list[tuple[int, Slots]]:
        """Some of the rows by the view they are drawn from."""
        parts = [(view, which[np.isin(which, at)]) for view, at in self._shares]
        return [(view, rows) for view, rows in parts if len(rows)]

    def prepare(self) -> bool:
        """Take in how large the views are; False when all are empty."""
        limits = [self._control.item(at) for at in self._places]
        if limits != self._limits:
            self._take_in(limits)
        return bool(self._shares)

    def _take_in(self, limits: list[int]) -> None:
        stride = self._memory.views.shape[1]
        have = [
            (view, start, end - start, weight)
            for (view, weight), start, end in zip(self._parts, limits[::2], limits[1::2], strict=True)
            if end > start
        ]
        shares = shares_of(self.rows, tuple(weight for *_, weight in have))
        for (view, start, size, _), at in zip(have, shares, strict=True):
            self._start[at], self._scale[at] = view * stride + start, size
        self._shares = [(view, at) for (view, *_), at in zip(have, shares, strict=True)]
        self._limits = limits

    def draw(self, rng: np.random.Generator) -> Positions:
        """(rows,) positions of the rows the samples lead to; the array is used again."""
        rng.random(out=self._uniform)
        np.multiply(self._uniform, self._scale, out=self._uniform)
        np.floor(self._uniform, out=self._uniform)  # before the sum, which may round up
        np.add(self._uniform, self._start, out=self._uniform)
        np.copyto(self._at, self._uniform, casting="unsafe")
        return self._flat.take(self._at, 0, self.after, "clip")

    def draw_again(self, rng: np.random.Generator, which: Slots) -> Positions:
        """Positions for some of the rows, drawn anew from the same views."""
        uniform = np.floor(rng.random(len(which)) * self._scale[which]) + self._start[which]
        return self._flat[uniform.astype(np.int64)]


@lru_cache(maxsize=64)
def interleave(rows: int, fraction: float) -> tuple[Slots, Slots]:
    """Positions of the two parts of a mixture, spread as evenly as whole numbers allow: row i belongs to the first part
    where round(i * fraction) steps up, in exact arithmetic.

    Args:
        rows: how many in all.
        fraction: share of the first part in [0, 1].
    """
    share = Fraction(fraction).limit_denominator(1 << 16)
    edges = (np.arange(rows + 1) * share.numerator + share.denominator // 2) // share.denominator
    first = np.diff(edges) > 0
    return np.flatnonzero(first), np.flatnonzero(~first)


@lru_cache(maxsize=64)
def shares_of(rows: int, weights: tuple[float, ...]) -> tuple[Slots, ...]:
    """As ``interleave`` for any number of parts: the first is interleaved with the rest, and so on."""
    if not weights:
        return ()
    if len(weights) == 1:
        return (np.arange(rows),)
    first, rest = interleave(rows, weights[0] / sum(weights))
    return (first, *(rest[at] for at in shares_of(len(rest), weights[1:])))


def check_room(count: int) -> None:
    """Raises: StoreError: there are too many views."""
    if count >= VIEWS:
        raise StoreError(f"{count} views; expected at most {VIEWS}: use the same filters again")
