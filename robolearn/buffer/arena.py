"""The RAM tier: rows in numpy arrays, gathered into a ring of reused batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.schema import Schema
from robolearn.core.spec import Array
from robolearn.core.types import Batch, Kind

Slots = NDArray[np.int64]
RING = 3
"""Batches that stay valid at the same time."""
_RING_SIZES = 4  # batch sizes for which a ring is kept


class Arena:
    """Rows at integer slots; freed slots are used again. Grows by doubling.

    One packed byte row per slot holds everything but images, so that a batch is two gathers whatever the number of
    keys; each image key has an array of its own.
    """

    def __init__(self, schema: Schema, slots: int = 1024) -> None:
        self._schema = schema
        self._packed: NDArray[np.uint8] = np.empty((slots, schema.sample.itemsize), np.uint8)
        self._images: dict[str, NDArray[np.uint8]] = {
            key: np.empty((slots, *schema.observation[key].shape), np.uint8) for key in schema.images
        }
        self._following: Slots = np.full(slots, -1, np.int64)
        self._rings: dict[int, _Ring] = {}
        self._end = 0
        self._free: list[int] = []

    @property
    def used(self) -> int:
        """Slots in use."""
        return self._end - len(self._free)

    def insert(self, rows: NDArray[Any], demo: NDArray[np.bool_]) -> Slots:
        """Store (n,) rows of ``schema.row`` and their demo flags; return their slots."""
        slots = self._take_slots(len(rows))
        packed = np.zeros(len(rows), self._schema.sample)
        for key in self._schema.low_dim:
            packed[f"observation/{key}"] = rows[f"observation/{key}"]
        packed["action"], packed["reward"] = rows["action/executed"], rows["reward"]
        packed["discount"], packed["demo"] = rows["kind"] != Kind.TERMINATED, demo
        self._packed[slots] = packed.view(np.uint8).reshape(len(rows), -1)
        for key, images in self._images.items():
            images[slots] = rows[f"observation/{key}"]
        return slots

    def set_demo(self, slots: Slots, demo: NDArray[np.bool_]) -> None:
        """Change the demo flags of rows."""
        self._packed[slots, self._schema.sample.fields["demo"][1]] = demo  # type: ignore[index]

    def chain(self, slots: Slots) -> None:
        """Say that rows follow each other in an episode; -1 among ``slots`` is a gap nothing is followed across."""
        known = slots[:-1] >= 0
        self._following[slots[:-1][known]] = slots[1:][known]

    def free(self, slots: Slots) -> None:
        """Give slots back."""
        self._following[slots] = -1
        self._free.extend(slots.tolist())

    def low_dim(self, key: str, slots: Slots) -> Array:
        """(n, *shape) values of one low-dimensional observation key."""
        rows = self._packed[slots].view(self._schema.sample).reshape(-1)
        return np.asarray(rows[f"observation/{key}"])

    def gather(self, before: Slots, after: Slots, *, horizon: int = 1, gamma: float = 1.0) -> Batch:
        """(B,) pairs of slots as a batch that is valid until three more of its size were gathered.

        With a ``horizon`` of n the reward is the sum of gamma^k r_k over the next n rows, the next observation is that
        of the last of them, and the discount is gamma^(n-1), or 0 if that row is terminal. Fewer rows are used where
        the episode ends (or has not gone on yet).
        """
        far, reward, scale = self._look_ahead(after, horizon, gamma)
        rows = len(after)
        ring = self._rings.get(rows)
        if ring is None:
            while len(self._rings) >= _RING_SIZES:
                self._rings.pop(next(iter(self._rings)))
            ring = self._rings[rows] = _Ring(self._schema, rows)
        out = ring.next()
        # mode='clip' lets numpy copy straight into ``out``; the default checks first and copies twice
        np.take(self._packed, before, axis=0, out=out.before, mode="clip")
        np.take(self._packed, after, axis=0, out=out.after, mode="clip")
        np.take(self._packed, far, axis=0, out=out.far, mode="clip")
        for key, images in self._images.items():
            np.take(images, before, axis=0, out=out.images_before[key], mode="clip")
            np.take(images, far, axis=0, out=out.images_far[key], mode="clip")
        np.copyto(out.batch.reward, reward)
        np.multiply(out.batch.discount, scale, out=out.batch.discount)
        return out.batch

    def _look_ahead(self, after: Slots, horizon: int, gamma: float) -> tuple[Slots, Array, Array]:
        """(B,) slots ``horizon - 1`` rows after ``after`` at most, discounted reward up to there, and last discount."""
        rewards = self._packed.view(self._schema.sample)["reward"][:, 0]
        far, reward, scale = after, rewards[after], np.ones(len(after), np.float32)
        for _ in range(horizon - 1):
            following = self._following[far]
            goes_on = following >= 0
            far = np.where(goes_on, following, far)
            scale = np.where(goes_on, np.float32(gamma) * scale, scale)
            reward = reward + goes_on * scale * rewards[far]
        return far, reward, scale

    def _take_slots(self, count: int) -> Slots:
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = count - len(reused)
        if self._end + fresh > len(self._packed):
            size = max(2 * len(self._packed), self._end + fresh)
            self._packed = _grown(self._packed, size, self._end)
            self._images = {key: _grown(images, size, self._end) for key, images in self._images.items()}
            following = np.full(size, -1, np.int64)
            following[: self._end] = self._following[: self._end]
            self._following = following
        slots = np.concatenate([np.array(reused, np.int64), np.arange(self._end, self._end + fresh)])
        self._end += fresh
        return slots


class _Slot:
    """Memory of one batch, and the batch as views of it."""

    def __init__(self, schema: Schema, rows: int) -> None:
        self.before = np.zeros((rows, schema.sample.itemsize), np.uint8)
        self.after, self.far = np.zeros_like(self.before), np.zeros_like(self.before)
        shapes = {key: schema.observation[key].shape for key in schema.images}
        self.images_before = {key: np.zeros((rows, *shape), np.uint8) for key, shape in shapes.items()}
        self.images_far = {key: np.zeros((rows, *shape), np.uint8) for key, shape in shapes.items()}
        before, after, far = (part.view(schema.sample).reshape(-1) for part in (self.before, self.after, self.far))
        self.batch = Batch(
            observation={k: before[f"observation/{k}"] for k in schema.low_dim} | self.images_before,
            action=after["action"],
            reward=after["reward"],
            discount=far["discount"],
            next_observation={k: far[f"observation/{k}"] for k in schema.low_dim} | self.images_far,
            demo=after["demo"],
        )


class _Ring:
    def __init__(self, schema: Schema, rows: int) -> None:
        self._slots = [_Slot(schema, rows) for _ in range(RING)]
        self._next = 0

    def next(self) -> _Slot:
        slot = self._slots[self._next]
        self._next = (self._next + 1) % RING
        return slot


class PairView:
    """A growing list of (slot before, slot after) pairs: the transitions of one view."""

    def __init__(self) -> None:
        self._pairs = np.empty((2, 1024), np.int64)
        self.size = 0

    def extend(self, before: Slots, after: Slots) -> None:
        """Add transitions."""
        end = self.size + len(after)
        if end > self._pairs.shape[1]:
            grown = np.empty((2, max(2 * self._pairs.shape[1], end)), np.int64)
            grown[:, : self.size] = self._pairs[:, : self.size]
            self._pairs = grown
        self._pairs[0, self.size : end], self._pairs[1, self.size : end] = before, after
        self.size = end

    def clear(self) -> None:
        """Forget all."""
        self.size = 0

    @property
    def before(self) -> Slots:
        """(size,) slots of the rows before."""
        return self._pairs[0, : self.size]

    @property
    def after(self) -> Slots:
        """(size,) slots of the rows after."""
        return self._pairs[1, : self.size]


def _grown(array: NDArray[np.uint8], size: int, used: int) -> NDArray[np.uint8]:
    grown = np.empty((size, *array.shape[1:]), array.dtype)
    grown[:used] = array[:used]
    return grown
