"""Workloads of the replay buffer's bench, and the same data for every system.

W1  64 float32 values, 7 actions, reward, done; 30,000 transitions; batch 256 with next observations
W2  two 128 x 128 x 3 uint8 images and 32 float32 values; 4,000 transitions; batch 256 (50.4 MB)
W3  W2 with 6,000 transitions and room in RAM for a quarter of them
W4  W2 with 6,000 transitions; batch 64 of 2 observations and 16 actions

Episodes have 100 steps, so 101 rows: observations are stored once.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Kind, Source, Transition

STEPS = 100
ACTION = ArraySpec("action", (7,), low=-1.0, high=1.0)
_IMAGES = {f"camera{i}": ArraySpec(f"camera{i}", (128, 128, 3), "uint8", "rgb") for i in range(2)}


@dataclass(frozen=True)
class Workload:
    """What is stored, how much of it, and the batch size."""

    name: str
    schema: Schema
    transitions: int
    batch: int = 256

    @property
    def episodes(self) -> int:
        """Episodes of 100 steps."""
        return self.transitions // STEPS

    @property
    def row_bytes(self) -> int:
        """Bytes of an observation, an action, a reward and a done flag."""
        specs = [*self.schema.observation.values(), self.schema.action]
        return sum(int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in specs) + 5

    @property
    def raw_bytes(self) -> int:
        """Bytes of all rows, each observation once."""
        return self.episodes * (STEPS + 1) * self.row_bytes

    def resized(self, transitions: int) -> Workload:
        """The same with another number of transitions."""
        return dataclasses.replace(self, transitions=transitions)


_IMAGE_SCHEMA = Schema({"state": ArraySpec("state", (32,)), **_IMAGES}, ACTION)
W1 = Workload("W1", Schema({"state": ArraySpec("state", (64,))}, ACTION), 30_000)
W2 = Workload("W2", _IMAGE_SCHEMA, 4_000)
W3 = Workload("W3", _IMAGE_SCHEMA, 6_000)
W4 = Workload("W4", _IMAGE_SCHEMA, 6_000, batch=64)


@dataclass(frozen=True)
class Columns:
    """Rows of consecutive episodes of 101 rows each; action, reward and done belong to the step into a row.

    Attributes:
        observation: key -> (rows, *shape).
        action: (rows, A).
        reward, done: (rows,).
    """

    observation: dict[str, NDArray[Any]]
    action: NDArray[np.float32]
    reward: NDArray[np.float32]
    done: NDArray[np.bool_]

    @property
    def rows(self) -> int:
        """Rows of all episodes."""
        return len(self.action)

    @property
    def episodes(self) -> int:
        """Episodes."""
        return self.rows // (STEPS + 1)

    def episode(self, number: int) -> slice:
        """Rows of one episode."""
        return slice(number * (STEPS + 1), (number + 1) * (STEPS + 1))


def make(workload: Workload, seed: int = 0) -> Columns:
    """Random numbers; images are a smooth pattern that moves, under a little noise."""
    rng, rows = np.random.default_rng(seed), workload.episodes * (STEPS + 1)
    observation: dict[str, NDArray[Any]] = {}
    for key, spec in workload.schema.observation.items():
        if key in workload.schema.images:
            observation[key] = _frames(rng, rows, spec.shape)
        else:
            observation[key] = rng.normal(size=(rows, *spec.shape)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, *workload.schema.action.shape)).astype(np.float32)
    done = np.arange(rows) % (STEPS + 1) == STEPS
    return Columns(observation, action, done.astype(np.float32), done)


def _frames(rng: np.random.Generator, rows: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))[:, :, None] + np.arange(shape[2]) * 20
    noise = rng.integers(0, 16, (64, *shape), np.uint8)
    frames = np.empty((rows, *shape), np.uint8)
    for i in range(rows):
        np.add(noise[rng.integers(64)], ((ramp + 3 * i) % 240).astype(np.uint8), out=frames[i])
    return frames


def rows_of(columns: Columns, number: int, steps: int = STEPS) -> Iterator[Transition]:
    """One episode under a new id, cut to ``steps`` steps."""
    name, first = uuid.uuid4().hex, columns.episode(number).start
    zeros = np.zeros(columns.action.shape[1:], np.float32)
    for i in range(steps + 1):
        at = first + i
        kind = Kind.FIRST if i == 0 else Kind.MID if i < steps else Kind.TERMINATED
        action = columns.action[at] if i else zeros
        yield Transition(
            name, i, {k: v[at] for k, v in columns.observation.items()}, action, action, None, Source.POLICY,
            float(columns.reward[at]) if i else 0.0, 1.0 if kind.bootstraps else 0.0, kind, 1, i,
        )  # fmt: skip


def store(root: Path, workload: Workload, columns: Columns) -> None:
    """Write everything with our writer, every episode acknowledged."""
    with Writer(root, workload.schema, name="actor", robot="arm", task="bench") as writer:
        for number in range(columns.episodes):
            for row in rows_of(columns, number):
                writer.append(row)
            writer.end_episode(True)
