"""A base's proposals as one more key of the observation, which every symmetry of the task changes like actions."""

from __future__ import annotations

import numpy as np

from robolearn.core.spec import Array, ArraySpec
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import TaskSpec


def with_actions(spec: TaskSpec, key: str, count: int) -> TaskSpec:
    """The task with ``count`` normalised actions, end to end (count * A,), as a further key of its observation."""
    actions = ArraySpec(key, (count * spec.action.size,), "float32", f"{count} normalised actions", -1.0, 1.0)
    symmetries = tuple(
        Symmetry({**s.observation, key: SignedPermutation.joined(*[s.action] * count)}, s.action)
        for s in spec.symmetries
    )
    return _changed(spec, {**spec.observation, key: actions}, symmetries)


def without(spec: TaskSpec, key: str) -> TaskSpec:
    """The task as it is without a key of its observation."""
    observation = {name: array for name, array in spec.observation.items() if name != key}
    symmetries = tuple(
        Symmetry({name: change for name, change in s.observation.items() if name != key}, s.action)
        for s in spec.symmetries
    )
    return _changed(spec, observation, symmetries)


def unit_statistics(spec: TaskSpec, key: str) -> dict[str, tuple[Array, Array]]:
    """Mean 0 and deviation 1 for a key that is at unit scale by itself."""
    shape = spec.observation[key].shape
    return {key: (np.zeros(shape, np.float32), np.ones(shape, np.float32))}


def _changed(spec: TaskSpec, observation: dict[str, ArraySpec], symmetries: tuple[Symmetry, ...]) -> TaskSpec:
    return TaskSpec(spec.name, observation, spec.action, spec.max_steps, spec.control_hz, symmetries, spec.skills)
