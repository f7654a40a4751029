"""Rows of episodes, wherever they lie: in the log of their writer, or in a segment once they are sealed."""

from __future__ import annotations

import dataclasses
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.log import FrameType, mapped, scan
from robolearn.buffer.log_images import ImageLog
from robolearn.buffer.records import Wanted
from robolearn.buffer.schema import Schema
from robolearn.buffer.segment import SegmentReader
from robolearn.buffer.store import StorePaths, read_versions
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError

_READ_BYTES = 8 << 20


class MovedError(StoreError):
    """The rows are no longer where the record says: they were sealed or pruned since. Read the index again."""


class _Place(Protocol):
    """An open log or segment; rows come in its own schema."""

    schema: Schema

    def low(self, record: EpisodeRecord, first: int, count: int) -> NDArray[Any]: ...
    def low_many(self, records: Sequence[EpisodeRecord]) -> NDArray[Any]: ...
    def whole(self, record: EpisodeRecord, first: int, count: int) -> NDArray[Any]: ...
    def images(self, wanted: Sequence[Wanted]) -> None: ...
    def close(self) -> None: ...


class EpisodeFiles:
    """Reads rows of episodes, checked, with later corrections, as rows of the newest schema.

    Use from one thread, and not after a fork: a connection to the index does not survive that.

    Args:
        paths: the buffer.
        index: where corrections are looked up, and whether an episode has moved.
        handles: logs and segments to keep open; a segment takes one file handle and two per image key.

    Attributes:
        schema: the newest when this was made; rows come back as it says.

    Raises:
        StoreError: there is no buffer.
    """

    def __init__(self, paths: StorePaths, index: Index, *, handles: int = 16) -> None:
        self._paths, self._index, self._handles = paths, index, handles
        self._versions = read_versions(paths.root)
        self.schema = self._versions.newest
        self._open: OrderedDict[Path, _Place] = OrderedDict()
        self._pid = os.getpid()

    def low_dim(self, record: EpisodeRecord, first: int = 0, count: int | None = None) -> NDArray[Any]:
        """(count,) rows of dtype ``schema.low_row`` from row ``first`` of an episode; to its end for None.

        Raises:
            CorruptDataError: the stored bytes are damaged.
            MovedError: they are elsewhere by now.
            StoreError: they cannot be read.
        """
        count = _checked_count(record, first, count)
        with self._place(record) as place:
            rows = self._versions.upgraded(place.low(record, first, count), self.schema.low_row)
        return self._corrected(record, first, rows)

    def low_dim_many(self, records: Sequence[EpisodeRecord]) -> NDArray[Any]:
        """All rows of many episodes one after the other, as ``low_dim``: neighbours in a segment are read at once."""
        parts, start = [], 0
        while start < len(records):
            stop = start + 1
            if records[start].segment and not records[start].relabels:
                while stop < len(records) and _follows(records[stop], records[stop - 1]):
                    stop += 1
            if stop == start + 1:
                parts.append(self.low_dim(records[start]))
            else:
                with self._place(*records[start:stop]) as place:
                    rows = place.low_many(records[start:stop])
                    parts.append(self._versions.upgraded(rows, self.schema.low_row))
            start = stop
        return _joined(parts, self.schema.low_row)

    def rows(self, record: EpisodeRecord, first: int = 0, count: int | None = None) -> NDArray[Any]:
        """As ``low_dim`` with images: (count,) rows of dtype ``schema.row``."""
        count = _checked_count(record, first, count)
        with self._place(record) as place:
            rows = self._versions.upgraded(place.whole(record, first, count), self.schema.row)
        return self._corrected(record, first, rows)

    def images(self, record: EpisodeRecord, key: str, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Read images of an episode, each checked.

        Args:
            record: the episode.
            key: observation key of an image.
            rows: (n,) row numbers within the episode, in any order.
            out: (n, H, W, C) where they go.

        Raises:
            CorruptDataError, MovedError, StoreError: as ``low_dim``; what ``out`` holds then is undefined.
        """
        if key not in self.schema.images:
            raise StoreError(f"'{key}' is no image; have: {', '.join(self.schema.images) or 'none'}")
        if out.shape != (len(rows), *self.schema.observation[key].shape) or out.dtype != np.uint8:
            raise StoreError(
                f"images '{key}': expected out of shape {(len(rows), *self.schema.observation[key].shape)}, uint8; "
                f"got {out.shape}, {out.dtype}"
            )
        straight = out[:1].flags.c_contiguous
        target = out if straight else np.empty(out.shape, np.uint8)
        self.images_many([Wanted(record, np.asarray(rows, np.int64), {key: target})])
        if not straight:
            out[...] = target

    def images_many(self, wanted: Sequence[Wanted]) -> None:
        """Read images of many episodes, each checked, in the order in which they lie on disk.

        Raises:
            CorruptDataError, MovedError, StoreError: as ``low_dim``; what the outputs hold then is undefined.
        """
        places: dict[Path, list[Wanted]] = {}
        for one in wanted:
            if len(one.rows):
                first = int(one.rows.min())
                _checked_count(one.record, first, int(one.rows.max()) - first + 1)
                places.setdefault(self._path(one.record), []).append(one)
        for _, parts in sorted(places.items()):
            with self._place(*(one.record for one in parts)) as place:
                place.images([self._stored(one, place.schema) for one in parts])

    def _stored(self, wanted: Wanted, schema: Schema) -> Wanted:
        """What of it is stored; keys added later are filled here."""
        out = {}
        for key, images in wanted.out.items():
            if key in schema.observation:
                out[key] = images
                continue
            for image in images:
                image[...] = self._versions.filled(key)
        return dataclasses.replace(wanted, out=out)

    def close(self) -> None:
        """Close all files; idempotent."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> EpisodeFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _path(self, record: EpisodeRecord) -> Path:
        """The log or segment of an episode."""
        if not record.segment and not record.log:
            raise MovedError(f"episode {record.uuid}: its rows were removed")
        return self._paths.segments / record.segment if record.segment else self._paths.logs / record.log

    @contextmanager
    def _place(self, *records: EpisodeRecord) -> Iterator[_Place]:
        """The open log or segment of episodes that lie together; tells damage from a move."""
        if os.getpid() != self._pid:
            raise StoreError(
                f"these files were opened by process {self._pid} and came here (process {os.getpid()}) by a fork; open "
                "the buffer here"
            )
        path = self._path(records[0])
        try:
            yield self._opened(path, sealed=bool(records[0].segment))
        except StoreError as error:
            if path in self._open:
                self._open.pop(path).close()
            for record in records:
                now = self._index.episode(record.uuid)
                if now is None or now.place != record.place or self._is_pruned(record.segment):
                    raise MovedError(f"episode {record.uuid} is no longer in {path}; read the index again") from error
            raise

    def _opened(self, path: Path, *, sealed: bool) -> _Place:
        """The least recently used are closed."""
        place = self._open.get(path)
        if place is None:
            while len(self._open) >= self._handles:
                self._open.popitem(last=False)[1].close()
            place = SegmentReader(path, self._versions) if sealed else LogRows(path, self._versions)
            self._open[path] = place
        self._open.move_to_end(path)
        return place

    def _is_pruned(self, segment: str) -> bool:
        if not segment:
            return False
        known = self._index.segments().get(segment)
        return known is not None and known.state == "dropped"

    def _corrected(self, record: EpisodeRecord, first: int, rows: NDArray[Any]) -> NDArray[Any]:
        """Apply what was relabelled."""
        if not record.relabels:
            return rows
        relabels = self._index.relabels(record.uuid)
        if len(relabels) < record.relabels:
            raise CorruptDataError(
                f"episode {record.uuid}: expected {record.relabels} corrections in the index, found {len(relabels)}"
            )
        rows = rows if rows.flags.writeable else rows.copy()
        for relabel in relabels:
            start = max(relabel.first, first)
            stop = min(relabel.first + len(relabel.values), first + len(rows))
            if start < stop:
                values = relabel.values[start - relabel.first : stop - relabel.first]
                rows[relabel.field][start - first : stop - first] = values
        return rows


class LogRows:
    """Rows of the episodes of one log."""

    def __init__(self, path: Path, versions: Versions) -> None:
        self.schema = versions.find(fingerprint_of(path))
        self._reader = ImageLog(path, self.schema)

    def low(self, record: EpisodeRecord, first: int, count: int) -> NDArray[Any]:
        """(count,) rows of dtype ``schema.low_row``."""
        rows, done = np.zeros(count, self.schema.low_row), 0
        for part in self._parts(record, first, count):
            for name in rows.dtype.names or ():
                rows[name][done : done + len(part)] = part[name]
            done += len(part)
        return rows

    def low_many(self, records: Sequence[EpisodeRecord]) -> NDArray[Any]:
        """All rows of episodes of dtype ``schema.low_row``."""
        return _joined([self.low(record, 0, record.rows) for record in records], self.schema.low_row)

    def whole(self, record: EpisodeRecord, first: int, count: int) -> NDArray[Any]:
        """(count,) rows of dtype ``schema.row``."""
        return self._reader.rows(record.offset, first, count, record.uuid)

    def images(self, wanted: Sequence[Wanted]) -> None:
        """Read images; a checksum covers a whole row, so that of all keys at once."""
        for one in sorted(wanted, key=lambda w: w.record.offset):
            for i in np.argsort(one.rows, kind="stable").tolist():
                self._reader.images(one.record, int(one.rows[i]), {key: images[i] for key, images in one.out.items()})

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def _parts(self, record: EpisodeRecord, first: int, count: int) -> Iterator[NDArray[Any]]:
        step = max(1, _READ_BYTES // self._reader.stride)
        for start in range(first, first + count, step):
            yield self._reader.rows(record.offset, start, min(step, first + count - start), record.uuid)


def fingerprint_of(log: Path) -> str:
    """Which schema a log was written under.

    Raises:
        CorruptDataError: it does not start like a log, or is missing.
        StoreError: it cannot be read.
    """
    data = mapped(log)
    frame = next(scan(data), None)
    if frame is None or frame.type is not FrameType.HEADER:
        raise CorruptDataError(f"{log} does not start like a log")
    return str(frame.json().get("schema"))


def _joined(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Parts one after the other; ``np.concatenate`` would give another layout."""
    if len(parts) == 1:
        return parts[0]
    rows, done = np.zeros(sum(len(part) for part in parts), dtype), 0
    for part in parts:
        rows[done : done + len(part)] = part
        done += len(part)
    return rows


def _follows(record: EpisodeRecord, before: EpisodeRecord) -> bool:
    """Whether its rows, uncorrected, lie right behind those of another episode in a segment."""
    return (
        record.segment == before.segment and record.first_row == before.first_row + before.rows and not record.relabels
    )


def _checked_count(record: EpisodeRecord, first: int, count: int | None) -> int:
    """Raises: StoreError: the rows asked for are not all there."""
    count = record.rows - first if count is None else count
    if first < 0 or count < 0 or first + count > record.rows:
        raise StoreError(
            f"episode {record.uuid}: expected rows within [0, {record.rows}), got {count} rows from {first}"
        )
    return count
