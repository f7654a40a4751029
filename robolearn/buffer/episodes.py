"""Whole episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robolearn.buffer.files import MovedError
from robolearn.buffer.hot import HotTier
from robolearn.buffer.index import EpisodeRecord
from robolearn.buffer.many import Resident
from robolearn.core.errors import StoreError
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Kind

_ATTEMPTS = 8


@dataclass(frozen=True)
class Episode:
    """An episode of T steps in arrays of its own.

    Attributes:
        record: its entry of the index: robot, task, success, tag, ...
        observation: key -> (T+1, *shape).
        action: (T, A) executed actions; number t was taken at observation t.
        reward: (T,) float32 reward of each action.
        discount: (T,) float32, 0 for a terminal step, else 1.
        source: (T,) who executed it (``core.types.Source``).
        policy_version: (T,) version of the weights that acted.
        stamp_ns: (T+1,) monotonic time of each observation [ns].
    """

    record: EpisodeRecord
    observation: Observation
    action: Array
    reward: Array
    discount: Array
    source: Array
    policy_version: Array
    stamp_ns: Array


def read_episode(hot: HotTier, uuid: str) -> Episode:
    """A whole episode from disk, as far as it is committed.

    Raises:
        StoreError: it is not known, or gone.
    """
    for _ in range(_ATTEMPTS):
        known = hot.episodes.get(uuid)
        if known is None:
            raise StoreError(f"episode {uuid}: not in this replay; refresh() takes in new ones")
        try:
            return _read(hot, known)
        except MovedError:
            hot.refresh()
    raise StoreError(f"episode {uuid}: was moved on disk {_ATTEMPTS} times while it was read")


def _read(hot: HotTier, known: Resident) -> Episode:
    record, files, schema = known.record, known.source.files, hot.schema
    rows = files.low_dim(record, 0, record.rows)
    observation = {key: np.array(rows[f"observation/{key}"], schema.observation[key].dtype) for key in schema.low_dim}
    for key in schema.images:
        observation[key] = np.empty((record.rows, *schema.observation[key].shape), np.uint8)
        files.images(record, key, np.arange(record.rows), observation[key])
    return Episode(
        record=record,
        observation=observation,
        action=np.array(rows["action/executed"][1:], schema.action.dtype),
        reward=rows["reward"][1:].astype(np.float32),
        discount=(rows["kind"][1:] != Kind.TERMINATED).astype(np.float32),
        source=rows["source"][1:].copy(),
        policy_version=rows["policy_version"][1:].copy(),
        stamp_ns=rows["stamp_ns"].copy(),
    )
