"""What the index holds: episodes, logs, segments, and later corrections of single steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

State = Literal["open", "complete", "dropped"]
SegmentState = Literal["live", "dropped"]
Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""n images (H, W, C), each contiguous: arrays of their own, or one (n, H, W, C)."""
RelabelField = Literal["reward", "source"]


@dataclass(frozen=True)
class EpisodeRecord:
    """What the index knows of an episode.

    Attributes:
        uuid: unique id (hex).
        writer: who wrote it.
        log, offset, rows: where its rows lie before it is sealed: ``rows`` frames from byte ``offset`` of the log.
        state: ``open`` while it grows, ``complete``, or ``dropped`` (never read again; sealing leaves its rows out).
        robot, task: what it was recorded with.
        source: who executed most of its steps (``policy``, ``human``, ``script``, ``safety``).
        demo: a demonstration; editable later.
        success: the task was solved; editable later.
        interventions: steps executed by a human.
        total_reward: sum of rewards.
        policy_min, policy_max: versions of the weights that acted.
        truncated: did not end in a terminal state; also set when a crash cut it short.
        recovered: its writer died before it ended.
        first_stamp_ns, last_stamp_ns: monotonic stamps of its first and last row [ns].
        unix_ns: wall-clock time at its start [ns].
        tag: free text; editable later. Of an episode that ``repair`` dropped, the reason.
        segment, first_row: where its rows lie once it is sealed: from row ``first_row`` of ``segments/<segment>``;
            empty before. ``log`` is empty then.
        relabels: how many corrections of its steps there are.
        id, revision: given by the index: order of arrival, and number of the last change to it.
    """

    uuid: str
    writer: str
    log: str
    offset: int
    rows: int
    state: State
    robot: str
    task: str
    source: str
    demo: bool
    success: bool
    interventions: int
    total_reward: float
    policy_min: int
    policy_max: int
    truncated: bool
    recovered: bool
    first_stamp_ns: int
    last_stamp_ns: int
    unix_ns: int
    tag: str = ""
    segment: str = ""
    first_row: int = 0
    relabels: int = 0
    id: int = 0
    revision: int = 0

    @property
    def transitions(self) -> int:
        """Steps: one less than rows."""
        return max(self.rows - 1, 0)

    @property
    def place(self) -> tuple[str, str, int, int]:
        """Where its rows lie: (log, segment, offset, first row)."""
        return (self.log, self.segment, self.offset, self.first_row)


@dataclass(frozen=True)
class LogRecord:
    """What the index knows of a log.

    Attributes:
        length: bytes that are accounted for; what follows is a torn tail, or still being written.
        synced: bytes known to be on disk.
        closed: nothing will be appended any more. A closed log of length 0 holds nothing that counts: it was sealed.
        problem: damage found when it was closed after a crash; empty if none.
    """

    name: str
    writer: str
    length: int
    synced: int
    closed: bool
    problem: str = ""


@dataclass(frozen=True)
class SegmentRecord:
    """What the index knows of a segment.

    Attributes:
        rows: of all its episodes.
        bytes: of all its files.
        state: ``live``, or ``dropped`` when it was pruned.
    """

    name: str
    writer: str
    rows: int
    bytes: int
    state: SegmentState = "live"


@dataclass(frozen=True)
class Relabel:
    """A later correction of consecutive rows of an episode; the data itself stays as it is.

    Attributes:
        uuid: the episode.
        field: ``reward`` or ``source``.
        first: first row it is about.
        values: (n,) float64 rewards or uint8 sources.
    """

    uuid: str
    field: RelabelField
    first: int
    values: NDArray[Any] = dataclasses.field(repr=False)


@dataclass(frozen=True)
class Wanted:
    """Images to read.

    Attributes:
        record: the episode.
        rows: (n,) row numbers within it.
        out: image key -> where they go.
    """

    record: EpisodeRecord
    rows: NDArray[np.int64]
    out: Mapping[str, Images]
