"""Small tasks, batches and learners for the tests of policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Batch, TaskSpec

ACTION = 3


def state_spec() -> TaskSpec:
    """Two low-dimensional keys, 5 + 2 numbers, and 3 actions."""
    return TaskSpec(
        "test",
        {"tcp": ArraySpec("tcp", (5,)), "force": ArraySpec("force", (2,))},
        ArraySpec("action", (ACTION,), low=-1.0, high=1.0),
        20,
        10.0,
    )


def pixel_spec() -> TaskSpec:
    """Two tiny cameras beside five numbers."""
    images = {name: ArraySpec(name, (12, 16, 3), "uint8") for name in ("wrist", "side")}
    return TaskSpec(
        "pixels",
        {"tcp": ArraySpec("tcp", (5,)), **images},
        ArraySpec("action", (ACTION,), low=-1.0, high=1.0),
        20,
        10.0,
    )


def observations(spec: TaskSpec, rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Random observations of a task."""
    made: dict[str, Array] = {}
    for key, array in spec.observation.items():
        if array.dtype == "uint8":
            made[key] = rng.integers(0, 256, (rows, *array.shape), dtype=np.uint8)
        else:
            made[key] = rng.standard_normal((rows, *array.shape)).astype(np.float32)
    return made


def each(spec: TaskSpec, count: int, seed: int = 0) -> list[dict[str, Array]]:
    """Random observations of a task, one by one."""
    several = observations(spec, count, np.random.default_rng(seed))
    return [{key: value[i] for key, value in several.items()} for i in range(count)]


def one_of(spec: TaskSpec, seed: int = 0) -> dict[str, Array]:
    """A random observation of a task."""
    return each(spec, 1, seed)[0]


def batch(spec: TaskSpec, rows: int, seed: int = 0) -> Batch:
    """Random rows; half of them demonstrations, some terminal."""
    rng = np.random.default_rng(seed)
    reward = (rng.random(rows) < 0.2).astype(np.float32)
    return Batch(
        observations(spec, rows, rng),
        rng.uniform(-1.0, 1.0, (rows, spec.action.size)).astype(np.float32),
        reward,
        1.0 - reward,
        observations(spec, rows, rng),
        np.arange(rows) % 2 == 0,
    )


def statistics(spec: TaskSpec) -> dict[str, tuple[Array, Array]]:
    """Means and deviations of the low-dimensional keys; one deviation is below any floor."""
    made: dict[str, tuple[Array, Array]] = {}
    for key, array in spec.observation.items():
        if array.dtype != "uint8":
            std = np.linspace(0.5, 2.0, array.size, dtype=np.float32)
            std[-1] = 0.0
            made[key] = (np.linspace(-1.0, 1.0, array.size, dtype=np.float32), std)
    return made


def learner(family: Any, config: Any, spec: TaskSpec, seed: int = 0) -> Any:
    """A learner of a family module."""
    return family.build_learner(config, spec, seed=seed, device="cpu", statistics=statistics(spec))


def same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether weights or states are the same, to the bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def assert_resumes(one: Any, other: Any, rows: Callable[[int], Any]) -> None:
    """A learner that takes the state of another goes on as that one does, to the bit.

    ``rows`` makes what an update learns from, of a seed, and is asked for three of them.
    """
    assert not same(one.state(), other.state())
    one.update(rows(1))
    other.restore(load(save(dict(one.state()))))
    for seed in (2, 3):
        data = rows(seed)
        assert one.update(data) == other.update(data)
    mine, theirs = one.state(), other.state()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert same(one.snapshot(), other.snapshot())
