"""Prioritised sampling with a sum tree (Schaul et al. 2016, Prioritized Experience Replay)."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.hot import HotTier
from robolearn.buffer.memory import Positions
from robolearn.buffer.ring import RING, Allocate, Rings
from robolearn.buffer.sampler import Sampler
from robolearn.buffer.views import View
from robolearn.core.errors import StoreError
from robolearn.core.spec import Array
from robolearn.core.types import Batch

Values = NDArray[np.float64]
_FAN = 16


class SumTree:
    """Weights of whole numbers 0, 1, ...; draws a number with a probability proportional to its weight.

    Every node has 16 children, so that numpy walks down few levels. Grows as needed.
    """

    def __init__(self) -> None:
        self._levels: list[Values] = [np.zeros(_FAN)]

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._levels[-1].sum())

    def get(self, at: Positions) -> Values:
        """(n,) weights; 0 for numbers never set."""
        leaves = self._levels[0]
        return np.asarray(np.where(at < len(leaves), leaves.take(at, mode="clip"), 0.0))

    def set(self, at: Positions, weights: Values | float) -> None:
        """Change the weights of (n,) numbers; of equal numbers the last one counts."""
        if not len(at):
            return
        self._grow(int(at.max()) + 1)
        self._levels[0][at] = weights
        nodes = at
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            nodes = np.unique(nodes // _FAN)
            level[nodes] = below.reshape(-1, _FAN)[nodes].sum(axis=1)

    def find(self, sums: Values) -> Positions:
        """(n,) numbers at which the sum of weights up to there passes (n,) ``sums`` in [0, total)."""
        node = np.zeros(len(sums), np.int64)
        rest = sums.copy()
        rows = np.arange(len(sums))
        for level in reversed(self._levels):
            children = level.reshape(-1, _FAN)[node]
            reached = children.cumsum(axis=1)
            child = (reached <= rest[:, None]).sum(axis=1)
            # rounding must not lead past the last child that has a weight
            child = np.minimum(child, _FAN - 1 - (children[:, ::-1] > 0).argmax(axis=1))
            rest -= np.where(child > 0, reached[rows, child - 1], 0.0)
            node = node * _FAN + child
        return node

    def _grow(self, size: int) -> None:
        if size <= len(self._levels[0]):
            return
        leaves = np.zeros(-(-max(size, 2 * len(self._levels[0])) // _FAN) * _FAN)
        leaves[: len(self._levels[0])] = self._levels[0]
        self._levels = [leaves]
        while len(self._levels[-1]) > _FAN:
            sums = self._levels[-1].reshape(-1, _FAN).sum(axis=1)
            self._levels.append(np.concatenate([sums, np.zeros(-len(sums) % _FAN)]))


@dataclass(frozen=True)
class PriorityBatch(Batch):
    """A batch drawn by priority.

    Attributes:
        ids: (B,) int64, for ``PrioritySampler.update``.
        weights: (B,) float32 importance weights, at most 1.
    """

    ids: Array
    weights: Array


class PrioritySampler:
    """Draws transitions of a view with probability proportional to (|error| + epsilon)^alpha.

    New transitions get the highest priority seen so far. Made by ``Replay.prioritized``.

    Raises:
        StoreError: a parameter makes no sense, or the view keeps its newest transitions only.
    """

    def __init__(
        self,
        hot: HotTier,
        sampler: Sampler,
        view: View,
        lock: threading.RLock,
        allocate: Allocate,
        alpha: float,
        epsilon: float,
    ) -> None:
        if not (alpha >= 0.0 and epsilon > 0.0):
            raise StoreError(f"prioritized: expected alpha >= 0 and epsilon > 0, got {alpha} and {epsilon}")
        if view.newest is not None:
            raise StoreError("prioritized: expected a view without 'newest'; use max_version_lag or a filter")
        self._memory, self._sampler, self._view, self._lock = hot.memory, sampler, view, lock
        self._alpha, self._epsilon, self._highest = alpha, epsilon, 1.0
        self._tree = SumTree()
        self._rings = Rings(hot.schema, RING, allocate)
        self.added(view.positions)
        view.watchers.append(self)

    def sample(
        self, rows: int, *, beta: float = 0.4, rng: np.random.Generator, horizon: int = 1, gamma: float = 1.0
    ) -> PriorityBatch:
        """Draw one transition from each of ``rows`` equal shares of the priority.

        Args:
            rows: batch size B.
            beta: how far the weights undo the priorities: weight (size * probability)^-beta, over the largest.
            rng, horizon, gamma: as in ``Replay.sample``.

        Returns:
            A batch valid until three more of this size were drawn; ``ids`` and ``weights`` are its own.

        Raises:
            StoreError: the view is empty, or an argument makes no sense.
        """
        if rows < 1 or horizon < 1 or not 0.0 <= gamma <= 1.0 or not beta >= 0.0:
            raise StoreError(
                "sample: expected rows >= 1, horizon >= 1, gamma in [0, 1] and beta >= 0, "
                f"got {rows}, {horizon}, {gamma} and {beta}"
            )
        self._sampler.check()
        with self._lock:
            total = self._tree.total
            if not total > 0.0:
                raise StoreError(f"sample: nothing to draw {rows} rows from: view '{self._view.name}' is empty")
            after = self._tree.find((np.arange(rows) + rng.random(rows)) * (total / rows))
            out = self._rings.transitions(rows, horizon > 1)
            self._sampler.gatherer.transitions(out, after, horizon, gamma)
            owner = self._memory.owner[after].astype(np.int64)
            ids = (owner << 32) | (after - self._memory.first[owner])
            weights = (self._view.size * self._tree.get(after) / total) ** -beta
        return PriorityBatch(**vars(out.batch), ids=ids, weights=(weights / weights.max()).astype(np.float32))

    def update(self, ids: Array, errors: Array) -> int:
        """Say how wrong the learner was about rows of a batch.

        Args:
            ids: (B,) of a batch.
            errors: (B,) e.g. temporal-difference errors; their sign does not matter.

        Returns:
            How many of the rows were still there.

        Raises:
            StoreError: the shapes differ, or an error is not finite.
        """
        errors = np.abs(np.asarray(errors, np.float64))
        if errors.shape != ids.shape or not np.isfinite(errors).all():
            raise StoreError(f"update: expected finite errors of shape {ids.shape}, got shape {errors.shape}")
        self._sampler.check()
        with self._lock:
            owner, row = ids >> 32, ids & 0xFFFFFFFF
            positions = self._memory.first[owner] + row
            known = (positions <= self._memory.last[owner]) & (self._tree.get(positions) > 0.0)
            weights = (errors[known] + self._epsilon) ** self._alpha
            self._tree.set(positions[known], weights)
            if len(weights):
                self._highest = max(self._highest, float(weights.max()))
            return int(known.sum())

    def close(self) -> None:
        """Follow the view no longer; idempotent."""
        with self._lock:
            if self in self._view.watchers:
                self._view.watchers.remove(self)

    def added(self, positions: Positions) -> None:
        """These entered the view."""
        self._tree.set(positions, self._highest)

    def removed(self, positions: Positions) -> None:
        """These left it."""
        self._tree.set(positions, 0.0)

    def moved(self, old: Positions, new: Positions) -> None:
        """These are somewhere else now."""
        weights = self._tree.get(old)
        self._tree.set(old, 0.0)
        self._tree.set(new, weights)
