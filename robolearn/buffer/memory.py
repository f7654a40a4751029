"""The arrays of a hot tier, as its owner writes them and others may read them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.arena import Arena, machine_bytes
from robolearn.buffer.schema import Schema

Positions = NDArray[np.int64]
VIEWS = 64
"""Views a replay can have."""
MAGIC = 0x524C_4859_0001
_NAMES_BYTES = 1 << 16


class Control(IntEnum):
    """Where what lies in the array ``control``."""

    MAGIC = 0
    SEQUENCE = 1
    CLOSED = 2
    ROWS = 3
    EPISODES = 4
    SLOTS = 5
    VIEWS = 6
    NEWEST_VERSION = 7
    FIRST_VIEW = 8


@dataclass
class Memory:
    """Rows at *positions*: an episode owns a run of them, so what comes before and after a row is arithmetic.

    Every array is reserved far larger than it is used.

    Attributes:
        schema: what the rows hold.
        control: (FIRST_VIEW + 2 * VIEWS,) int64, see ``Control``; then start and end of each view.
        names: JSON list of the filters of the views.
        packed: (N, row bytes) everything of a row but its images, as ``schema.sample``.
        source, policy: (N,) who executed each row's action, and which version of the weights.
        owner: (N,) number of the episode.
        first, last: (E,) first and last position of an episode.
        views: (VIEWS, N) positions of the rows each view's transitions lead to.
        slot: (N,) where a row's images are, -1 for nowhere.
        slot_changes: (S,) how often the images in a slot were given up.
        images: key -> (S, *shape) uint8.
    """

    schema: Schema
    control: NDArray[np.int64]
    names: NDArray[np.uint8]
    packed: NDArray[np.uint8]
    source: NDArray[np.uint8]
    policy: NDArray[np.int64]
    owner: NDArray[np.int32]
    first: Positions
    last: Positions
    views: Positions
    slot: NDArray[np.int32]
    slot_changes: NDArray[np.uint32]
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    _depth: int = 0

    @classmethod
    def reserve(cls, schema: Schema, arena: Arena) -> Memory:
        """New memory in an arena."""
        layout = _layout(schema)
        arrays = {name: arena.array(name, shape, dtype) for name, (shape, dtype) in layout.items()}
        memory = cls.of(schema, arrays)
        memory.control[Control.MAGIC] = MAGIC
        memory.control[Control.NEWEST_VERSION] = -1
        return memory

    @classmethod
    def of(cls, schema: Schema, arrays: Mapping[str, NDArray[Any]]) -> Memory:
        """Memory in given arrays."""
        images = {key: arrays[f"image/{key}"] for key in schema.images}
        rows: dict[str, Any] = {name: array for name, array in arrays.items() if not name.startswith("image/")}
        return cls(schema, images=images, **rows)

    def limits(self, view: int) -> tuple[int, int]:
        """Start and end of a view within its row of ``views``."""
        at = Control.FIRST_VIEW + 2 * view
        return self.control.item(at), self.control.item(at + 1)

    def set_limits(self, view: int, start: int, end: int) -> None:
        """Change them."""
        at = Control.FIRST_VIEW + 2 * view
        fence()
        self.control[at : at + 2] = start, end

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Others who read meanwhile notice, and read again: for all that is more than adding."""
        if self._depth == 0:
            self.control[Control.SEQUENCE] += 1
            fence()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                fence()
                self.control[Control.SEQUENCE] += 1

    def write_names(self, names: list[str]) -> None:
        """Say what the views are called."""
        data = json.dumps(names).encode()
        with self.changing():
            self.names[: len(data)] = np.frombuffer(data, np.uint8)
            self.names[len(data)] = 0
            self.control[Control.VIEWS] = len(names)

    def read_names(self) -> list[str]:
        """What the views are called."""
        data = self.names.tobytes().split(b"\0", 1)[0]
        return list(json.loads(data)) if data else []


_FENCE = threading.Lock()


def fence() -> None:
    """Order memory accesses before and after, also on processors that reorder them."""
    with _FENCE:
        pass


def _layout(schema: Schema) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> shape and dtype. As many rows as fit into the machine's memory."""
    rows = max(machine_bytes() // max(schema.sample.itemsize, 64), 1 << 16)
    frame = sum(int(np.prod(schema.observation[key].shape)) for key in schema.images)
    slots = min(rows, max(machine_bytes() // frame, 1 << 10)) if frame else 1
    layout: dict[str, tuple[tuple[int, ...], str]] = {
        "control": ((Control.FIRST_VIEW + 2 * VIEWS,), "<i8"),
        "names": ((_NAMES_BYTES,), "u1"),
        "packed": ((rows, schema.sample.itemsize), "u1"),
        "source": ((rows,), "u1"),
        "policy": ((rows,), "<i8"),
        "owner": ((rows,), "<i4"),
        "first": ((rows,), "<i8"),
        "last": ((rows,), "<i8"),
        "views": ((VIEWS, rows), "<i8"),
        "slot": ((rows,), "<i4"),
        "slot_changes": ((slots,), "<u4"),
    }
    return layout | {f"image/{key}": ((slots, *schema.observation[key].shape), "u1") for key in schema.images}
