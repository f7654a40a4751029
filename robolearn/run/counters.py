"""Counters that the processes of a run share through one memory-mapped file.

One row per process, one writer per row, plain aligned 8-byte integers: reading needs no lock. The buffer and the
checkpoints are the truth; counters only pace the run and say who is alive.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

import numpy as np

MAX_ACTORS = 60


class Row(IntEnum):
    """Rows of the table; actor i has row ``ACTORS + i``."""

    SUPERVISOR = 0
    LEARNER = 1
    EVALUATOR = 2
    SEALER = 3
    ACTORS = 4


class Field(IntEnum):
    """Columns of the table."""

    HEARTBEAT_NS = 0
    STEPS = 1
    EPISODES = 2
    UPDATES = 3
    VERSION = 4
    DONE = 5
    PUBLISHED_NS = 6
    ROBOT_MS = 7


class Counters:
    """The table. Opens or creates ``path``."""

    def __init__(self, path: Path) -> None:
        shape = (Row.ACTORS + MAX_ACTORS, len(Field))
        if not path.exists():
            path.write_bytes(bytes(8 * shape[0] * shape[1]))
        self._table = np.memmap(path, dtype=np.int64, mode="r+", shape=shape)

    def set(self, row: int, field: Field, value: int) -> None:
        """Write one counter of one's own row."""
        self._table[row, field] = value

    def get(self, row: int, field: Field) -> int:
        """Read one counter."""
        return int(self._table[row, field])

    def actor_steps(self) -> int:
        """Robot steps of all actors together, as they count them (a crash may set them back a little)."""
        return int(self._table[Row.ACTORS :, Field.STEPS].sum())

    def robot_seconds(self) -> float:
        """Robot time of all actors together [s]."""
        return float(self._table[Row.ACTORS :, Field.ROBOT_MS].sum()) * 1e-3

    def reset(self) -> None:
        """Zero everything; the supervisor does this before it starts processes."""
        self._table[:] = 0
