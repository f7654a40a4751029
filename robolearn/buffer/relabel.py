"""Corrections of single steps of episodes that are there: rewards and who acted, without rewriting data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import EpisodeRecord, Index, Relabel
from robolearn.buffer.store import StorePaths
from robolearn.core.errors import StoreError
from robolearn.core.types import Source


def relabel(root: Path, changes: Sequence[Relabel]) -> None:
    """Correct steps of complete episodes, of all or none; durable on return.

    Totals of the episodes in the index (reward, interventions, source) follow. Later changes go over earlier ones.

    Raises:
        StoreError: there is no such episode, it is still growing or dropped, or values do not fit.
        CorruptDataError: stored bytes of an episode are damaged.
    """
    index = Index(StorePaths(root).index, writable=True)
    try:
        with EpisodeFiles(StorePaths(root), index) as files, index.transaction(durable=True) as revision:
            for change in changes:
                record = index.editable(change.uuid)
                _check(record, change)
                index.put_relabel(change)
                record = dataclasses.replace(record, relabels=record.relabels + 1)
                index.put_episode(_with_totals(record, files.low_dim(record)), revision)
    finally:
        index.close()


def _check(record: EpisodeRecord, change: Relabel) -> None:
    values = np.asarray(change.values)
    if record.state == "dropped":
        raise StoreError(f"episode {record.uuid}: it is dropped; its steps cannot be relabelled")
    if values.ndim != 1 or change.first < 1 or change.first + len(values) > record.rows:
        raise StoreError(
            f"episode {record.uuid}: expected values for steps 1 to {record.rows - 1}, got shape {values.shape} from "
            f"step {change.first}"
        )
    if change.field == "reward":
        good = values.dtype.kind in "fiu" and bool(np.isfinite(values).all())
    elif change.field == "source":
        good = values.dtype.kind in "iu" and bool(np.isin(values, [int(s) for s in Source]).all())
    else:
        raise StoreError(f"relabel: expected field 'reward' or 'source', got '{change.field}'")
    if not good:
        raise StoreError(f"episode {record.uuid}: values that are no {change.field}: {values}")


def _with_totals(record: EpisodeRecord, rows: NDArray[Any]) -> EpisodeRecord:
    counts = np.bincount(rows["source"][1:], minlength=len(Source))
    return dataclasses.replace(
        record,
        total_reward=float(sum(rows["reward"][1:].tolist())),
        interventions=int(counts[Source.HUMAN]),
        source=Source(int(counts.argmax())).name.lower(),
    )
