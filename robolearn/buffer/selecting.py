"""Which episodes of a buffer a filter selects, as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from robolearn.buffer.files import EpisodeFiles, MovedError
from robolearn.buffer.filters import Filter
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.core.errors import StoreError

T = TypeVar("T")

_MOVES = 8  # an episode moves once, into its segment, and again when that is repaired; more is a fault


def selected(index: Index, files: EpisodeFiles, passes: Filter) -> Iterator[EpisodeRecord]:
    """Complete episodes of which at least one step passes, in order of arrival.

    Rows are read only where the index does not tell. Episodes that are removed meanwhile are left out.

    Raises:
        CorruptDataError: stored bytes of an episode are damaged.
    """
    for record in index.changes():
        if record.state == "complete" and record.transitions and any_step(record, index, files, passes):
            yield record


def any_step(record: EpisodeRecord, index: Index, files: EpisodeFiles, passes: Filter) -> bool:
    """Whether a step of an episode passes; False when it was removed meanwhile."""
    if not passes.episode(record):
        return False
    if _all_by_index(record, passes):
        return True
    mask = _steps(record, index, files, passes)
    return mask is not None and any(mask)


def every_step(record: EpisodeRecord, index: Index, files: EpisodeFiles, passes: Filter) -> bool:
    """Whether all steps of an episode pass; True when it was removed meanwhile."""
    if not passes.episode(record):
        return False
    if _all_by_index(record, passes):
        return True
    mask = _steps(record, index, files, passes)
    return mask is None or all(mask)


def wherever(record: EpisodeRecord, index: Index, read: Callable[[EpisodeRecord], T]) -> T | None:
    """What ``read`` returns of an episode, wherever it is moved meanwhile; None when it was removed.

    Raises:
        StoreError, CorruptDataError: as ``read``.
    """
    now: EpisodeRecord | None = record
    for _ in range(_MOVES):
        if now is None or now.state == "dropped":
            return None
        try:
            return read(now)
        except MovedError:
            now = index.episode(record.uuid)
    raise StoreError(f"episode {record.uuid} was moved {_MOVES} times while it was read")


def _all_by_index(record: EpisodeRecord, passes: Filter) -> bool:
    return all(any(condition.episode(record) for condition in term) for term in passes.terms)


def _steps(record: EpisodeRecord, index: Index, files: EpisodeFiles, passes: Filter) -> list[bool] | None:
    low = wherever(record, index, files.low_dim)
    if low is None:
        return None
    mask: list[bool] = passes.steps(record, low["source"][1:], low["policy_version"][1:]).tolist()
    return mask
