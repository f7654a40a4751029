"""Rows for the tests of the buffer: every one can be told from every other and made again from its numbers."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from robolearn.buffer.index import EpisodeRecord, Index, LogRecord
from robolearn.buffer.log import LogReader
from robolearn.buffer.rows import unpack
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Kind, Source, Transition

SCHEMA = Schema(
    {
        "q": ArraySpec("q", (3,), unit="rad"),
        "count": ArraySpec("count", (), "int64"),
        "flag": ArraySpec("flag", (2,), "bool"),
    },
    ArraySpec("action", (2,), low=-1.0, high=1.0),
)
IMAGES = Schema({**SCHEMA.observation, "camera": ArraySpec("camera", (4, 5, 3), "uint8", "rgb")}, SCHEMA.action)


def row(
    number: int,
    index: int,
    kind: Kind,
    *,
    source: Source = Source.POLICY,
    schema: Schema = SCHEMA,
) -> Transition:
    """Row ``index`` of episode ``number``."""
    rng = np.random.default_rng([number, index])
    observation = {
        "q": np.array([number, index, rng.normal()], np.float32),
        "count": np.int64(1000 * number + index),
        "flag": rng.random(2) > 0.5,
    }
    if "camera" in schema.observation:
        observation["camera"] = rng.integers(0, 256, (4, 5, 3), np.uint8)
    actions = rng.uniform(-1, 1, (3, 2)).astype(np.float32) * (index > 0)
    return Transition(
        episode=uuid_of(number),
        index=index,
        observation=observation,
        proposed=actions[0],
        executed=actions[1],
        human=actions[2] if source is Source.HUMAN else None,
        source=source,
        reward=0.0 if index == 0 else float(rng.normal()),
        discount=1.0 if kind.bootstraps else 0.0,
        kind=kind,
        policy_version=number + index,
        stamp_ns=10_000 * number + index,
    )


def uuid_of(number: int) -> str:
    """Id of episode ``number``."""
    return uuid.uuid5(uuid.NAMESPACE_OID, str(number)).hex


def episode(
    number: int,
    steps: int,
    *,
    end: Kind = Kind.TERMINATED,
    source: Source = Source.POLICY,
    humans: Sequence[int] = (),
    schema: Schema = SCHEMA,
) -> list[Transition]:
    """Episode ``number``: steps + 1 rows; a human executed the steps in ``humans``."""
    kinds = [Kind.FIRST, *[Kind.MID] * (steps - 1), end]
    return [
        row(number, i, kind, source=Source.HUMAN if i in humans else source, schema=schema)
        for i, kind in enumerate(kinds)
    ]


def same(left: Iterable[Transition], right: Iterable[Transition]) -> bool:
    """Whether two lists of rows are identical, bit by bit."""
    return [_key(t) for t in left] == [_key(t) for t in right]


def _key(t: Transition) -> tuple[object, ...]:
    arrays = [
        t.proposed,
        t.executed,
        *([t.human] if t.human is not None else []),
        *(t.observation[k] for k in sorted(t.observation)),
    ]
    return (
        t.episode, t.index, t.human is None, t.source, t.reward, t.discount, t.kind, t.policy_version, t.stamp_ns,
        *[(np.asarray(a).dtype.str, np.asarray(a).shape, np.asarray(a).tobytes()) for a in arrays],
    )  # fmt: skip


def records(root: Path) -> list[EpisodeRecord]:
    """Everything in the index."""
    index = Index(StorePaths(root).index, writable=False)
    try:
        return index.changes()
    finally:
        index.close()


def logs(root: Path) -> list[LogRecord]:
    """Logs in the index, oldest first."""
    index = Index(StorePaths(root).index, writable=False)
    try:
        return [record for _, record in sorted(index.logs().items())]
    finally:
        index.close()


def contents(root: Path) -> dict[str, list[Transition]]:
    """Episode id -> rows, read back from the logs."""
    schema, found = read_schema(root), {}
    for record in records(root):
        if record.state == "dropped":
            continue
        reader = LogReader(StorePaths(root).logs / record.log, schema)
        try:
            rows = reader.rows(record.offset, 0, record.rows, record.uuid)
        finally:
            reader.close()
        found[record.uuid] = [unpack(r, schema) for r in rows]
    return found


def crash_image(root: Path, target: Path) -> Path:
    """What a kill of every process at this moment would leave on disk."""
    shutil.copytree(root, target)
    return target
