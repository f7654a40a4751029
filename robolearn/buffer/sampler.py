"""Drawing: from views to positions to batches, in the process that owns the memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.files import MovedError
from robolearn.buffer.filters import Filter
from robolearn.buffer.gather import Gatherer
from robolearn.buffer.hot import HotTier
from robolearn.buffer.memory import Positions
from robolearn.buffer.ring import Rings
from robolearn.buffer.views import Mixture, View
from robolearn.core.errors import StoreError
from robolearn.core.types import Batch, ChunkBatch

Parts = Sequence[tuple[View | str, float]]
_ATTEMPTS = 8
_ROUNDS = 8  # draws before the rows in memory are listed
_MIXTURES = 64


class Sampler:
    """Draws from a hot tier. Not for two threads at once."""

    def __init__(self, hot: HotTier) -> None:
        self._hot, self._memory = hot, hot.memory
        self.gatherer = Gatherer(hot.memory, hot.read_images)
        self._mixtures: dict[object, Mixture] = {}
        self._draws: NDArray[np.int64] = np.zeros(0, np.int64)
        self._drawn_from: set[int] = set()
        self._pid = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this process got the replay by a fork."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises: StoreError: this process got the replay by a fork, or it is closed."""
        if os.getpid() != self._pid:
            raise StoreError(
                f"this replay was opened by process {self._pid} and came here (process {os.getpid()}) by a fork; "
                "open another one here, or attach() to its handle()"
            )
        if self._hot.closed:
            raise StoreError("this replay is closed")

    def transitions(
        self,
        rings: Rings,
        rows: int,
        demo_fraction: float,
        parts: Parts | None,
        rng: np.random.Generator,
        horizon: int,
        gamma: float,
    ) -> Batch:
        """One batch in the next output of its ring."""
        mixture = self._prepared(rows, demo_fraction, parts)
        out = rings.transitions(rows, horizon > 1)
        for _ in range(_ATTEMPTS):
            try:
                self.gatherer.transitions(out, self._draw(mixture, rng), horizon, gamma)
                return out.batch
            except MovedError:  # or gone: look where everything is, and draw again
                self._hot.refresh()
                mixture = self._prepared(rows, demo_fraction, parts)
        raise _restless()

    def chunks(
        self,
        rings: Rings,
        rows: int,
        demo_fraction: float,
        parts: Parts | None,
        rng: np.random.Generator,
        history: int,
        chunk: int,
    ) -> ChunkBatch:
        """One batch in the next output of its ring."""
        mixture = self._prepared(rows, demo_fraction, parts)
        out = rings.chunks(rows, history, chunk)
        for _ in range(_ATTEMPTS):
            try:
                self.gatherer.chunks(out, self._draw(mixture, rng), history, chunk)
                return out.batch
            except MovedError:
                self._hot.refresh()
                mixture = self._prepared(rows, demo_fraction, parts)
        raise _restless()

    def uniformity(self) -> float:
        """Coefficient of variation of draws per step over episodes since the last call; nan if nothing was drawn."""
        views = [self._hot.views[number] for number in self._drawn_from]
        steps = np.zeros(len(self._draws), np.int64)
        for view in views:
            steps += np.bincount(self._memory.owner[view.positions], minlength=len(steps))[: len(steps)]
        rate = self._draws[steps > 0] / steps[steps > 0]
        self._draws[:] = 0
        self._drawn_from.clear()
        return float(rate.std() / rate.mean()) if len(rate) and rate.mean() else float("nan")

    def _prepared(self, rows: int, demo_fraction: float, parts: Parts | None) -> Mixture:
        key = (rows, demo_fraction) if parts is None else (rows, *parts)
        mixture = self._mixtures.get(key)
        if mixture is None:
            mixture = self._mixture(rows, demo_fraction, parts)
            while len(self._mixtures) >= _MIXTURES:
                self._mixtures.pop(next(iter(self._mixtures)))
            self._mixtures[key] = mixture
        if not mixture.prepare():
            if parts is not None:
                raise StoreError(f"sample: nothing to draw {rows} rows from: all views of the mixture are empty")
            raise StoreError(
                f"sample: nothing to draw {rows} rows with demo_fraction {demo_fraction} from: "
                f"{self._hot.demo.size} demonstration and {self._hot.online.size} online steps"
            )
        return mixture

    def _mixture(self, rows: int, demo_fraction: float, parts: Parts | None) -> Mixture:
        if rows < 1 or not 0.0 <= demo_fraction <= 1.0:
            raise StoreError(f"sample: expected rows >= 1 and demo_fraction in [0, 1], got {rows} and {demo_fraction}")
        if parts is None:
            parts = [(self._hot.demo, demo_fraction), (self._hot.online, 1.0 - demo_fraction)]
        weights = [weight for _, weight in parts]
        if not (all(0.0 <= w < float("inf") for w in weights) and sum(weights) > 0):
            raise StoreError(f"sample: expected weights >= 0 that are not all 0, got {weights}")
        views = [self._hot.view(Filter.parse(v)) if isinstance(v, str) else v for v, _ in parts]
        for view in views:
            if view.number >= len(self._hot.views) or self._hot.views[view.number] is not view:
                raise StoreError(f"sample: view '{view.name}' belongs to another replay")
        return Mixture(self._memory, rows, [(v.number, w) for v, w in zip(views, weights, strict=True)])

    def _draw(self, mixture: Mixture, rng: np.random.Generator) -> Positions:
        if not self._hot.tier.cached:
            return mixture.draw(rng)
        self._hot.tier.turn()
        after = self._resident(mixture, rng)
        if len(self._draws) < len(self._hot.table.arrival):
            self._draws = np.concatenate(
                [self._draws, np.zeros(len(self._hot.table.arrival) - len(self._draws), np.int64)]
            )
        np.add.at(self._draws, self._memory.owner[after], 1)
        self._drawn_from.update(mixture.views)
        return after

    def _resident(self, mixture: Mixture, rng: np.random.Generator) -> Positions:
        """As ``Mixture.draw``, of the rows whose images are in memory."""
        after, slot = mixture.draw(rng), self._memory.slot
        for _ in range(_ROUNDS):
            absent = np.flatnonzero(slot[after] < 0)
            if not len(absent):
                return after
            # each is drawn several times: about one in (rows in all / rows in memory) is there
            for _ in range(4):
                after[absent] = mixture.draw_again(rng, absent)
                absent = absent[slot[after[absent]] < 0]
                if not len(absent):
                    return after
        for part, at in mixture.parts_of(absent):
            positions = self._hot.views[part].positions
            there = positions[slot[positions] >= 0]
            if not len(there):  # nothing of this view is in memory
                self._hot.tier.admit_at(int(positions[rng.integers(0, len(positions))]))
                there = positions[slot[positions] >= 0]
            if len(there):
                after[at] = there[rng.integers(0, len(there), len(at))]
        return after


def _restless() -> StoreError:
    return StoreError(f"sample: rows were moved on disk {_ATTEMPTS} times while they were read")
