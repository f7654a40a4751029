"""Episodes of one buffer for another: the only way in which they are copied."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.filters import Filter
from robolearn.buffer.index import EpisodeRecord, Index, Relabel
from robolearn.buffer.rows import unpack
from robolearn.buffer.schema import Schema
from robolearn.buffer.selecting import selected, wherever
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.buffer.writer import GROUP, Writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind, Transition

WRITER = "copied"
"""Writer name of copied episodes."""
_READ_BYTES = 32 << 20


@dataclass
class Copied:
    """What a copy did.

    Attributes:
        episodes, steps: copied by this call.
        known: episodes the target had already; also those that were dropped there.
        removed: episodes that were removed from the source meanwhile.
    """

    episodes: int = 0
    steps: int = 0
    known: int = 0
    removed: int = 0


Alter = Callable[[Transition], Transition]
"""What a row becomes in a copy; called with the rows of an episode in order."""


def copy_demonstrations(
    source: Path,
    target: Path,
    schema: Schema,
    *,
    limit: int | None = None,
    alter: Alter | None = None,
    altered: Collection[str] = (),
) -> int:
    """Copy complete demonstrations, oldest first; as ``copy_episodes``. How many of them ``target`` has now."""
    copied = copy_episodes(source, target, schema, select="demo", limit=limit, alter=alter, altered=altered)
    return copied.episodes + copied.known


def copy_episodes(
    source: Path,
    target: Path,
    schema: Schema,
    *,
    select: str = "",
    limit: int | None = None,
    alter: Alter | None = None,
    altered: Collection[str] = (),
) -> Copied:
    """Copy complete episodes, checking every byte; the source is only read.

    Episodes keep ids, robot, task, times, marks, tags and corrections, so a copy that was interrupted goes on when
    called again. One that a crash had cut short ends truncated. They arrive by robot and task, oldest first.

    Args:
        source: buffer to copy from; others may be writing it.
        target: buffer to copy into; made when it does not exist.
        schema: what the target holds; the source too, but for the keys in ``altered``.
        select: a filter (see ``filters``); an episode is copied whole if any of its steps passes.
        limit: at most so many, the oldest; None for all.
        alter: changes rows on the way.
        altered: observation keys that it adds, drops or replaces.

    Raises:
        StoreError: the source is no buffer or has another schema (the message shows the difference), or the target
            does not take it.
        CorruptDataError: the source is damaged; what was copied before stays.
    """
    check_schema(source, schema, altered=altered)
    passes, paths = Filter.parse(select), StorePaths(source)
    index = Index(paths.index, writable=False)
    try:
        with EpisodeFiles(paths, index) as files:
            found = sorted(islice(selected(index, files, passes), limit), key=lambda r: (r.robot, r.task))
            copied = Copied()
            for (robot, task), group in groupby(found, key=lambda r: (r.robot, r.task)):
                copy = _Copy(index, files, StorePaths(target), copied, alter)
                with Writer(
                    target, schema, name=WRITER, robot=robot, task=task, partial=False, unix_ns=copy.unix_ns
                ) as writer:
                    copy.run(group, writer)
            return copied
    finally:
        index.close()


def check_schema(source: Path, schema: Schema, *, altered: Collection[str] = ()) -> None:
    """Raises: StoreError: a buffer has another schema, ``altered`` keys aside; the message shows the difference."""
    difference = _without(read_schema(source), altered).difference(_without(schema, altered))
    if difference:
        raise StoreError(
            f"buffer {source} has another schema than asked for (stored -> asked):\n  " + "\n  ".join(difference)
        )


def _without(schema: Schema, keys: Collection[str]) -> Schema:
    return Schema({key: spec for key, spec in schema.observation.items() if key not in keys}, schema.action)


@dataclass
class _Copy:
    """Copies episodes of one robot and task."""

    index: Index
    files: EpisodeFiles
    target: StorePaths
    copied: Copied
    alter: Alter | None = None
    waiting: list[EpisodeRecord] = field(default_factory=list)
    began_ns: int = 0

    def unix_ns(self) -> int:
        """When the episode at hand was recorded."""
        return self.began_ns

    def run(self, records: Iterable[EpisodeRecord], writer: Writer) -> None:
        """Copy all that are not there yet."""
        for record in records:
            if writer.has(record.uuid):
                self.copied.known += 1
            elif self._rows(record, writer):
                writer.end_episode(record.success, demo=record.demo, wait=False)
                self.copied.episodes += 1
                self.copied.steps += record.transitions
            else:
                self.copied.removed += 1
                continue
            self.waiting.append(record)
            if len(self.waiting) >= GROUP:
                self._describe(writer)
        self._describe(writer)

    def _rows(self, record: EpisodeRecord, writer: Writer) -> bool:
        """Append the rows as they were recorded; False when they were removed from the source."""
        self.began_ns = record.unix_ns
        step = max(1, _READ_BYTES // self.files.schema.row.itemsize)
        for first in range(0, record.rows, step):
            count = min(step, record.rows - first)

            def read(now: EpisodeRecord, first: int = first, count: int = count) -> NDArray[Any]:
                return self.files.rows(dataclasses.replace(now, relabels=0), first, count)

            rows = wherever(record, self.index, read)
            if rows is None:
                writer.truncate_episode()
                return False
            for row in rows:
                t = unpack(row, self.files.schema)
                if t.index == record.rows - 1 and not t.kind.is_last:  # cut short by a crash
                    t = dataclasses.replace(t, kind=Kind.TRUNCATED)
                writer.append(t if self.alter is None else self.alter(t))
        return True

    def _describe(self, writer: Writer) -> None:
        """Give copies that are on disk by now what rows do not say; also those an interrupted copy left without."""
        writer.flush(durable=True)
        records, self.waiting = self.waiting, []
        index = Index(self.target.index, writable=True)
        try:
            wanted = [r for r in records if _lacks(index.episode(r.uuid), r)]
            if wanted:
                with index.transaction(durable=True) as revision:
                    for record in wanted:
                        self._describe_one(index, record, revision)
        finally:
            index.close()

    def _describe_one(self, index: Index, record: EpisodeRecord, revision: int) -> None:
        relabels: Sequence[Relabel] = self.index.relabels(record.uuid)[: record.relabels]
        mine = index.episode(record.uuid)
        if mine is None or not _lacks(mine, record):
            return
        if relabels and not mine.relabels:
            for relabel in relabels:
                index.put_relabel(relabel)
            mine = dataclasses.replace(
                mine,
                relabels=len(relabels),
                total_reward=record.total_reward,
                interventions=record.interventions,
                source=record.source,
            )
        index.put_episode(
            dataclasses.replace(mine, tag=mine.tag or record.tag, recovered=mine.recovered or record.recovered),
            revision,
        )


def _lacks(mine: EpisodeRecord | None, record: EpisodeRecord) -> bool:
    """Whether a copy lacks something its original has; what was edited in the copy is left alone."""
    if mine is None or mine.writer != WRITER or mine.state != "complete":
        return False
    return bool(
        (record.tag and not mine.tag)
        or (record.relabels and not mine.relabels)
        or (record.recovered and not mine.recovered)
    )
