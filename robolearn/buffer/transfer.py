"""Demonstrations of one buffer for another."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from pathlib import Path

from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.log import LogReader
from robolearn.buffer.rows import unpack
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind


def copy_demonstrations(source: Path, target: Path, schema: Schema, *, limit: int | None = None) -> int:
    """Copy complete demonstrations, oldest first, checking every byte; the source is only read.

    Episodes keep their ids, so a copy that was interrupted goes on when called again.

    Args:
        source: buffer to copy from.
        target: buffer to copy into; made when it does not exist.
        schema: what both must hold.
        limit: at most so many; None for all.

    Returns:
        How many demonstrations of ``source`` are in ``target`` now.

    Raises:
        StoreError: the source is no buffer, or has another schema (the message shows the difference).
        CorruptDataError: the source is damaged; what was copied before stays.
    """
    difference = read_schema(source).difference(schema)
    if difference:
        raise StoreError(
            f"demonstrations in {source} have another schema than asked for (stored -> asked):\n  "
            + "\n  ".join(difference)
        )
    index = Index(StorePaths(source).index, writable=False)
    try:
        demos = [r for r in index.changes() if r.demo and r.state == "complete" and r.transitions][:limit]
    finally:
        index.close()
    for (robot, task), group in groupby(demos, key=lambda r: (r.robot, r.task)):
        with Writer(target, schema, name="copied", robot=robot, task=task, demo=True, partial=False) as writer:
            for record in group:
                if not writer.has(record.uuid):
                    _copy(record, source, writer)
    return len(demos)


def _copy(record: EpisodeRecord, source: Path, writer: Writer) -> None:
    reader = LogReader(StorePaths(source).logs / record.log, writer.schema)
    try:
        rows = reader.rows(record.offset, 0, record.rows, record.uuid)
    finally:
        reader.close()
    for row in rows:
        step = unpack(row, writer.schema)
        if step.index == record.rows - 1 and not step.kind.is_last:  # cut short by a crash, tagged later
            step = dataclasses.replace(step, kind=Kind.TRUNCATED)
        writer.append(step)
    writer.end_episode(record.success)
