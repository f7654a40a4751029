"""Observations as networks see them: low-dimensional keys in one standardised vector, images apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array, Observation
from robolearn.core.types import TaskSpec

Statistics = Mapping[str, tuple[Array, Array]]
"""Key -> (mean, standard deviation), each of the key's shape."""


@dataclass(frozen=True)
class Normaliser:
    """``clip((x - mean) / std, -limit, limit)`` for vectors (..., D)."""

    mean: Array
    std: Array
    limit: float

    def __call__(self, x: Array) -> Array:
        """Standardised copy of ``x``."""
        z: Array = (x - self.mean) / self.std
        return np.minimum(np.maximum(z, -self.limit, out=z), self.limit, out=z)


@dataclass(frozen=True)
class ObservationLayout:
    """Which keys make up the vector (flattened, in this order) and which are images (H, W, 3) uint8.

    Attributes:
        vector: (key, size) pairs in alphabetical order.
        images: (key, (H, W, C)) pairs in alphabetical order.
    """

    vector: tuple[tuple[str, int], ...]
    images: tuple[tuple[str, tuple[int, int, int]], ...]

    @classmethod
    def of(cls, spec: TaskSpec) -> ObservationLayout:
        """The layout of a task.

        Raises:
            ConfigError: the task shows nothing a network could take.
        """
        vector: list[tuple[str, int]] = []
        images: list[tuple[str, tuple[int, int, int]]] = []
        for key, array in sorted(spec.observation.items()):
            if array.dtype == "uint8" and len(array.shape) == 3:
                images.append((key, (array.shape[0], array.shape[1], array.shape[2])))
            else:
                vector.append((key, array.size))
        if not vector and not images:
            raise ConfigError(f"task '{spec.name}' has an empty observation; a policy needs at least one key")
        return cls(tuple(vector), tuple(images))

    @property
    def size(self) -> int:
        """Length D of the vector."""
        return sum(size for _, size in self.vector)

    def concatenate(self, observation: Observation) -> Array:
        """(D,) float32 vector of one observation."""
        if len(self.vector) == 1:
            return np.asarray(observation[self.vector[0][0]], dtype=np.float32).reshape(-1)
        parts = [np.asarray(observation[key], dtype=np.float32).reshape(-1) for key, _ in self.vector]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def concatenate_batch(self, observation: Observation) -> Array:
        """(B, D) float32 vectors of a batch of observations."""
        parts = [np.asarray(observation[key], dtype=np.float32).reshape(-1, size) for key, size in self.vector]
        if not parts:
            rows = len(observation[self.images[0][0]])
            return np.zeros((rows, 0), dtype=np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def normaliser(self, statistics: Statistics, std_floor: float, clip: float) -> Normaliser:
        """The normaliser of the vector from statistics of its keys; no deviation is below ``std_floor``.

        Raises:
            ConfigError: a key is missing, or its statistics have another size or are not finite.
        """
        means, stds = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
        for key, size in self.vector:
            if key not in statistics:
                raise ConfigError(f"no statistics for observation '{key}'; have {sorted(statistics)}")
            mean, std = (np.asarray(a, dtype=np.float32).reshape(-1) for a in statistics[key])
            if mean.size != size or std.size != size or not (np.isfinite(mean).all() and np.isfinite(std).all()):
                raise ConfigError(
                    f"statistics of '{key}': expected {size} finite means and deviations, "
                    f"got {mean.size} and {std.size}"
                )
            means.append(mean)
            stds.append(std)
        return Normaliser(np.concatenate(means), np.maximum(np.concatenate(stds), np.float32(std_floor)), clip)
