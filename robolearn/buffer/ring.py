"""Output memory that is used again: fresh pages for every batch would cost more than filling them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.schema import Schema
from robolearn.core.errors import StoreError
from robolearn.core.types import Batch, ChunkBatch

Allocate = Callable[[tuple[int, ...], Any], NDArray[Any]]
Bytes = NDArray[np.uint8]
RING = 3
"""Batches of one kind and size that stay valid at the same time."""
_LINE = 64  # bytes of a cache line
_KINDS = 6  # sizes and kinds for which a ring is kept


class TransitionOut:
    """Memory of one batch of transitions, and the batch as views of it.

    Attributes:
        before, after, far: (rows, row bytes) packed rows; ``far`` is ``after`` if ``ahead`` is False.
        images_before, images_far: key -> (rows, *shape).
    """

    def __init__(self, schema: Schema, rows: int, ahead: bool, allocate: Allocate) -> None:
        shape = (rows, schema.sample.itemsize)
        self.before: Bytes = _aligned(shape, allocate)
        self.after: Bytes = _aligned(shape, allocate)
        self.far: Bytes = _aligned(shape, allocate) if ahead else self.after
        self.images_before, self.images_far = (_images(schema, (rows,), allocate) for _ in range(2))
        before, after, far = (_unpacked(part, schema) for part in (self.before, self.after, self.far))
        self.batch = Batch(
            observation={k: before[f"observation/{k}"] for k in schema.low_dim} | self.images_before,
            action=after["action"],
            reward=after["reward"],
            discount=far["discount"],
            next_observation={k: far[f"observation/{k}"] for k in schema.low_dim} | self.images_far,
            demo=after["demo"],
        )

    def put(self, which: NDArray[np.int64], other: TransitionOut) -> None:
        """Take some rows from another output, which has only these."""
        self.before[which], self.after[which] = other.before, other.after
        if self.far is not self.after:
            self.far[which] = other.far
        for mine, theirs in ((self.images_before, other.images_before), (self.images_far, other.images_far)):
            for key, images in mine.items():
                images[which] = theirs[key]


class ChunkOut:
    """Memory of one batch of chunks, and the batch as views of it."""

    def __init__(self, schema: Schema, rows: int, history: int, chunk: int, allocate: Allocate) -> None:
        self.past: Bytes = _aligned((rows, history, schema.sample.itemsize), allocate)
        self.coming: Bytes = _aligned((rows, chunk, schema.sample.itemsize), allocate)
        self.images = _images(schema, (rows, history), allocate)
        past, coming = _unpacked(self.past, schema), _unpacked(self.coming, schema)
        self.batch = ChunkBatch(
            observation={k: past[f"observation/{k}"] for k in schema.low_dim} | self.images,
            action=coming["action"],
            observation_pad=np.zeros((rows, history), bool),
            action_pad=np.zeros((rows, chunk), bool),
            demo=coming["demo"][:, 0],
            action_demo=coming["demo"],
        )

    def put(self, which: NDArray[np.int64], other: ChunkOut) -> None:
        """Take some rows from another output, which has only these."""
        self.past[which], self.coming[which] = other.past, other.coming
        for key, images in self.images.items():
            images[which] = other.images[key]
        for name in ("observation_pad", "action_pad"):
            getattr(self.batch, name)[which] = getattr(other.batch, name)


class Rings:
    """Rings of outputs by kind and size; the kind longest unused is given up when there are many.

    Args:
        schema: what rows hold.
        size: outputs per ring.
        allocate: makes an array of a shape and dtype, e.g. in pinned memory.
    """

    def __init__(self, schema: Schema, size: int = RING, allocate: Allocate = np.zeros) -> None:
        if size < RING:
            raise StoreError(f"ring: expected at least {RING} outputs, got {size}")
        self._schema, self._size, self._allocate = schema, size, allocate
        self._transitions: dict[tuple[int, bool], tuple[list[TransitionOut], list[int]]] = {}
        self._chunks: dict[tuple[int, int, int], tuple[list[ChunkOut], list[int]]] = {}

    def transitions(self, rows: int, ahead: bool) -> TransitionOut:
        """The next output for ``rows`` transitions; with ``ahead`` the row reached is not the one after."""
        ring = self._transitions.get((rows, ahead))
        if ring is None:
            _make_room(self._transitions)
            outs = [TransitionOut(self._schema, rows, ahead, self._allocate) for _ in range(self._size)]
            ring = self._transitions[rows, ahead] = (outs, [0])
        outs, turn = ring
        turn[0] = (turn[0] + 1) % self._size
        return outs[turn[0]]

    def chunks(self, rows: int, history: int, chunk: int) -> ChunkOut:
        """The next output for ``rows`` chunks."""
        ring = self._chunks.get((rows, history, chunk))
        if ring is None:
            _make_room(self._chunks)
            outs = [ChunkOut(self._schema, rows, history, chunk, self._allocate) for _ in range(self._size)]
            ring = self._chunks[rows, history, chunk] = (outs, [0])
        outs, turn = ring
        turn[0] = (turn[0] + 1) % self._size
        return outs[turn[0]]


B = TypeVar("B", Batch, ChunkBatch)


def copied(batch: B) -> B:
    """A batch with arrays of its own."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(batch):
        value = getattr(batch, item.name)
        values[item.name] = {k: v.copy() for k, v in value.items()} if isinstance(value, dict) else np.array(value)
    return type(batch)(**values)


def _images(schema: Schema, rows: tuple[int, ...], allocate: Allocate) -> dict[str, Bytes]:
    return {key: _aligned((*rows, *schema.observation[key].shape), allocate) for key in schema.images}


def _aligned(shape: tuple[int, ...], allocate: Allocate) -> Bytes:
    """Bytes that begin with a cache line.

    Images often fill whole pages. Copied to a few bytes further within a page, such an image takes twice as long on
    some processors: they take what they read for what they have just written.
    """
    size = math.prod(shape)
    room = allocate((size + _LINE - 1,), np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size].reshape(shape)


def _unpacked(packed: Bytes, schema: Schema) -> NDArray[Any]:
    return packed.view(schema.sample)[..., 0]


def _make_room(rings: dict[Any, Any]) -> None:
    while len(rings) >= _KINDS:
        rings.pop(next(iter(rings)))
