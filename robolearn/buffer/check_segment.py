"""Check every byte of one segment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from robolearn.buffer.index import EpisodeRecord, SegmentRecord
from robolearn.buffer.layout import ArrayLayout, end_name, group_metadata, groups, jpeg_name
from robolearn.buffer.log import read_error
from robolearn.buffer.segment import METADATA, SegmentReader
from robolearn.buffer.store import StorePaths
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError

_READ_BYTES = 8 << 20


class SegmentCheck:
    """What is wrong with a segment.

    Attributes:
        problems: one line each.
        unreadable: errors that say nothing of the data (no permission, no file handle, ...).
        sound: uuid -> rows of the episodes whose every byte checks out.

    Args:
        path: the segment.
        versions: schemas of the buffer.
        known: what the index says of the segment, and of its episodes; None to check the segment by itself.
    """

    def __init__(
        self,
        path: Path,
        versions: Versions | None,
        known: tuple[SegmentRecord, Sequence[EpisodeRecord]] | None,
    ) -> None:
        self.problems: list[str] = []
        self.unreadable: list[StoreError] = []
        self.sound: dict[str, int] = {}
        self._path = path
        try:
            reader = SegmentReader(path, versions)
        except StoreError as error:
            self._note(error)
            return
        try:
            self._check(reader, known)
        except OSError as error:
            self._note(read_error(f"segment {path.name}", error))
        finally:
            reader.close()

    def _check(self, reader: SegmentReader, known: tuple[SegmentRecord, Sequence[EpisodeRecord]] | None) -> None:
        self._files(reader)
        bad = np.zeros(reader.rows, bool)
        for array in reader.arrays.values():
            if array.checked:
                self._chunks(reader, array, bad)
        for key in reader.schema.images:
            self._images(reader, key, bad)
        episodes = reader.episodes
        if known is not None:
            self._agreement(reader, *known)
            episodes = [e for e in known[1] if e.state != "dropped"]
        for record in episodes:
            extent = bad[record.first_row : record.first_row + record.rows]
            if not extent.any() and self._owns(reader, record):
                self.sound[record.uuid] = record.rows

    def _agreement(self, reader: SegmentReader, segment: SegmentRecord, episodes: Sequence[EpisodeRecord]) -> None:
        if reader.rows != segment.rows:
            self._tell(f"holds {reader.rows} rows, the index says {segment.rows}")
        listed = {e.uuid: (e.first_row, e.rows) for e in reader.episodes}
        indexed = {e.uuid: (e.first_row, e.rows) for e in episodes}
        for uuid in sorted(listed.keys() | indexed.keys()):
            if uuid not in indexed:
                self._tell(f"episode {uuid} is not in the index")
            elif listed.get(uuid) != indexed[uuid]:
                self._tell(f"episode {uuid} lies at (row, rows) {listed.get(uuid)}, the index says {indexed[uuid]}")

    def _files(self, reader: SegmentReader) -> None:
        """Metadata, sizes, shard indexes, and nothing else."""
        arrays = list(reader.arrays.values())
        expected = {f"{name}/{METADATA}": group_metadata() for name in groups(arrays)}
        expected |= {f"{a.name}/{METADATA}": a.metadata() for a in arrays}
        sizes = {a.shard: a for a in arrays}
        found = {str(p.relative_to(self._path)) for p in self._path.rglob("*") if not p.is_dir()}
        for name in sorted(found - expected.keys() - sizes.keys() - {METADATA}):
            self._tell(f"'{name}' does not belong here")
        for name, data in expected.items():
            if name not in found or (self._path / name).read_bytes() != data:
                self._tell(f"'{name}' is missing or damaged")
        for name, array in sizes.items():
            size = (self._path / name).stat().st_size if name in found else -1
            if size != array.size:
                self._tell(f"'{name}': expected {array.size} bytes, found {max(size, 0)}")
            elif _tail(self._path / name, len(array.index())) != array.index():
                self._tell(f"'{name}': its index is damaged")

    def _chunks(
        self, reader: SegmentReader, array: ArrayLayout, bad: np.ndarray[tuple[int], np.dtype[np.bool_]]
    ) -> None:
        for first in range(0, array.rows, array.chunk_rows):
            count = min(array.chunk_rows, array.rows - first)
            try:
                reader.values(array, first, count)
            except StoreError as error:
                self._note(error)
                bad[first : first + count] = True

    def _images(self, reader: SegmentReader, key: str, bad: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        array = reader.arrays[jpeg_name(key) if key in reader.jpeg else f"observation/{key}"]
        for first, stop in _steps(0, reader.rows, reader.schema.observation[key].size):
            for start, end in self._unsound(reader, key, first, stop):
                bad[start:end] = True
        if key in reader.jpeg:
            with suppress(StoreError):  # told already
                end = int(reader.values(reader.arrays[end_name(key)], reader.rows - 1, 1)[0])
                if end != array.rows:
                    self._tell(f"'{array.shard}': expected {array.rows} bytes of files, they end at {end}")
        used = array.rows * array.row_bytes
        padding = array.chunks * array.stride - used
        with open(self._path / array.shard, "rb") as file:
            os.lseek(file.fileno(), used, os.SEEK_SET)
            if any(file.read(padding)):
                self._tell(f"'{array.shard}': bytes behind the last row are not 0")

    def _unsound(self, reader: SegmentReader, key: str, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Which rows of an image key fail, found by halving."""
        out = np.empty((stop - first, *reader.schema.observation[key].shape), np.uint8)
        try:
            reader.segment_images(key, np.arange(first, stop), out)
        except CorruptDataError as error:
            if stop - first > 1:
                middle = (first + stop) // 2
                yield from self._unsound(reader, key, first, middle)
                yield from self._unsound(reader, key, middle, stop)
            else:
                if self.problems[-1:] != [str(error)]:  # many rows may share a damaged chunk of checksums
                    self.problems.append(str(error))
                yield first, stop

    def _owns(self, reader: SegmentReader, record: EpisodeRecord) -> bool:
        try:
            for first, stop in _steps(0, record.rows, reader.schema.low_row.itemsize):
                reader.low(record, first, stop - first)
        except StoreError as error:
            self._note(error)
            return False
        return True

    def _note(self, error: StoreError) -> None:
        self.problems.append(str(error))
        if not isinstance(error, CorruptDataError):
            self.unreadable.append(error)

    def _tell(self, what: str) -> None:
        self.problems.append(f"segment {self._path.name}: {what}")


def listed_in(path: Path) -> list[str]:
    """Ids of the episodes a segment lists; [] if it cannot say."""
    try:
        reader = SegmentReader(path)
    except StoreError:
        return []
    reader.close()
    return [e.uuid for e in reader.episodes]


def has_rows(paths: StorePaths, record: EpisodeRecord) -> bool:
    """Whether there is something where the index says that the rows of an episode lie."""
    if record.segment:
        return (paths.segments / record.segment).is_dir()
    if not record.log:
        return False
    try:
        return (paths.logs / record.log).stat().st_size > record.offset
    except FileNotFoundError:  # never there, or removed just now because it was sealed
        return False


def lacking(path: Path, episodes: Sequence[EpisodeRecord]) -> list[str]:
    """Episodes that a segment lists and the index does not have there, one line each."""
    indexed = {e.uuid for e in episodes}
    return [f"segment {path.name}: episode {u} is not in the index" for u in listed_in(path) if u not in indexed]


def _tail(path: Path, count: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(-count, os.SEEK_END)
        return file.read(count)


def _steps(first: int, stop: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    step = max(1, _READ_BYTES // row_bytes)
    for start in range(first, stop, step):
        yield start, min(start + step, stop)
