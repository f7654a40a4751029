"""Augmentation by the symmetries a task declares: each row is learned from in a view drawn at random.

A turned or mirrored row is as true as the one recorded, so a group of G views makes up to G times as much of the same
robot time (Wang et al. 2022, "SO(2)-Equivariant Reinforcement Learning", compare it with equivariant networks).
"""

from __future__ import annotations

import numpy as np
import torch

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import TaskSpec
from robolearn.policies.parts.observation import ObservationLayout, Statistics


class Augmentation:
    """Views of a task's vector observations and actions; the first changes nothing.

    Args:
        spec: of the task, with its symmetries.
        layout: which observations make up the vector.
        enabled: False leaves rows as they are.

    Raises:
        ConfigError: the task declares symmetries and shows images, which no permutation of elements transforms.
    """

    def __init__(self, spec: TaskSpec, layout: ObservationLayout, *, enabled: bool = True) -> None:
        self._symmetries = spec.symmetries if enabled else ()
        if self._symmetries and layout.images:
            raise ConfigError(f"task '{spec.name}' declares symmetries, but images cannot be transformed by them")
        views = [_of_vector(symmetry, layout) for symmetry in self._symmetries]
        self._vector = _table([SignedPermutation.identity(layout.size), *views])
        actions = [symmetry.action for symmetry in self._symmetries]
        self._action = _table([SignedPermutation.identity(spec.action.size), *actions])

    @property
    def views(self) -> int:
        """How many there are; 1 if every row stays as it is."""
        return 1 + len(self._symmetries)

    def draw(self, rows: int, rng: torch.Generator) -> Array:
        """(rows,) the view of each row."""
        if not self._symmetries:
            return np.zeros(rows, np.int64)
        return np.asarray(torch.randint(self.views, (rows,), generator=rng).numpy())

    def vectors(self, x: Array, views: Array) -> Array:
        """(B, D) vectors, each in its view (B,)."""
        return self._seen(x, views, self._vector)

    def actions(self, x: Array, views: Array) -> Array:
        """(B, A) actions, each in its view (B,)."""
        return self._seen(x, views, self._action)

    def statistics(self, statistics: Statistics) -> Statistics:
        """Mean and deviation of every key over all views, from those of the rows as they are."""
        return {key: self._over_views(key, *of_key) for key, of_key in statistics.items()}

    def _over_views(self, key: str, mean: Array, std: Array) -> tuple[Array, Array]:
        changes = [s.observation[key] for s in self._symmetries if key in s.observation]
        if not changes:
            return mean, std
        changes += [SignedPermutation.identity(mean.size)] * (self.views - len(changes))
        means = np.stack([change(mean) for change in changes])
        variances = np.stack([np.abs(change(std)) for change in changes]) ** 2
        total = means.mean(0)
        return total.astype(mean.dtype), np.sqrt((variances + (means - total) ** 2).mean(0)).astype(std.dtype)

    def _seen(self, x: Array, views: Array, table: tuple[Array, Array]) -> Array:
        if not self._symmetries:
            return x
        order, sign = table
        seen = np.take_along_axis(x, order[views], 1)
        seen *= sign[views]
        return seen


def _of_vector(symmetry: Symmetry, layout: ObservationLayout) -> SignedPermutation:
    parts = (symmetry.observation.get(key, SignedPermutation.identity(size)) for key, size in layout.vector)
    return SignedPermutation.joined(*parts)


def _table(changes: list[SignedPermutation]) -> tuple[Array, Array]:
    """Order (G, n) int64 and sign (G, n) float32."""
    return np.array([c.order for c in changes], np.int64), np.array([c.sign for c in changes], np.float32)
