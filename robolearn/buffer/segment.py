"""Segments: sealed episodes as a zarr v3 group, written here byte by byte and readable by plain zarr."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.layout import CRC_BYTES, ArrayLayout, crc_name, crc_of, encoded, group_metadata, groups, layouts
from robolearn.buffer.log import checksum, read_error, storage_error
from robolearn.buffer.records import EpisodeRecord, Images, Wanted
from robolearn.buffer.schema import FORMAT, Schema
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.files import fsync_dir

METADATA = "zarr.json"
_EPISODES = b',"episodes":['  # a list of this name is nowhere else, and comes last
_READ_BYTES = 256 << 10  # read at once, so that a processor's cache still holds it when it is checked
_MOST_PARTS = 256
_PATIENCE_S, _POLL_S = 0.5, 0.005  # for who looks whether a segment is in use
_LEFT_OUT = ("id", "revision", "log", "offset", "segment")


def write_segment(
    folder: Path,
    schema: Schema,
    *,
    writer: str,
    logs: Sequence[str],
    episodes: Sequence[EpisodeRecord],
    parts: Iterable[NDArray[Any]],
) -> int:
    """Write a segment and make it durable; its size in bytes. A few MB of memory are enough for any size.

    Args:
        folder: made here; its parent is left to the caller to sync.
        schema: of the rows.
        writer: who wrote the episodes.
        logs: which logs they come from.
        episodes: in order, each with its ``first_row``.
        parts: all their rows in order, in arrays of dtype ``schema.row``.

    Raises:
        StoreError: the disk does not take it, or the rows do not fit the episodes; nothing is left then.
    """
    rows = sum(e.rows for e in episodes)
    arrays = layouts(schema, rows)
    try:
        folder.mkdir()
        names = groups(arrays)
        for name in names:
            (folder / name).mkdir()
            _write(folder / name / METADATA, group_metadata())
        size = _write_arrays(folder, arrays, parts)
        _write(
            folder / METADATA,
            group_metadata({"robolearn": _signed(segment_attributes(schema, writer, rows, logs, episodes))}),
        )
        for name in [*(a.name for a in arrays), *reversed(names), "."]:
            fsync_dir(folder / name)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise storage_error(f"cannot write segment {folder}", error) from error
        raise
    return size + sum((folder / n / METADATA).stat().st_size for n in [".", *names, *(a.name for a in arrays)])


def remove_segment(folder: Path) -> None:
    """Remove a segment. A crash leaves it whole, or as ``.tmp``, which the next sealing removes: never a part of it."""
    tmp = folder.with_name(f"{folder.name}.tmp")
    os.rename(folder, tmp)
    fsync_dir(folder.parent)
    shutil.rmtree(tmp)


def remove_unused(folder: Path) -> bool:
    """Remove a segment that the index has let go, if nobody reads it any more; whether that was so."""
    with opened(folder) as fd:
        if not lock_alone(fd):
            return False
        remove_segment(folder)
    return True


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """The folder of a segment, to be locked."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def lock_alone(folder: int) -> bool:
    """Take the lock that no reader shares; False while one has the segment open."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_arrays(folder: Path, arrays: list[ArrayLayout], parts: Iterable[NDArray[Any]]) -> int:
    rows = arrays[0].rows
    with ExitStack() as stack:
        writers = {a.name: stack.enter_context(_ArrayWriter(folder, a)) for a in arrays}
        done = 0
        for part in parts:
            done += len(part)
            if done > rows:
                break
            for array in arrays:
                if array.field:
                    values = _bytes_of(part[array.field])
                    writers[array.name].put(values)
                    if not array.checked:
                        sums = np.array([checksum(row) for row in values], "<u4")
                        writers[crc_name(array.name.partition("/")[2])].put(_bytes_of(sums))
        if done != rows:
            raise StoreError(f"cannot write segment {folder}: expected {rows} rows, got {done}")
        for array_writer in writers.values():
            array_writer.finish()
    return sum(a.size for a in arrays)


def _bytes_of(values: NDArray[Any]) -> NDArray[np.uint8]:
    """(n, bytes of a row) of an array (n, ...); read-only."""
    data = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    data.flags.writeable = False
    return data


class _ArrayWriter:
    """Writes one array row by row, into space that was allocated before."""

    def __init__(self, folder: Path, layout: ArrayLayout) -> None:
        self._layout, self._chunk, self._filled = layout, 0, 0
        self._buffer = np.zeros((layout.chunk_rows, layout.row_bytes), np.uint8)
        (folder / layout.name).mkdir()
        _write(folder / layout.name / METADATA, layout.metadata())
        self._fd = os.open(folder / layout.shard, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(self._fd, 0, layout.size)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> _ArrayWriter:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def put(self, values: NDArray[np.uint8]) -> None:
        """Append rows (n, row_bytes)."""
        if not self._layout.checked:
            _pwrite(self._fd, values, self._filled * self._layout.row_bytes)
            self._filled += len(values)
            return
        while len(values):
            count = min(len(values), self._layout.chunk_rows - self._filled)
            self._buffer[self._filled : self._filled + count] = values[:count]
            self._filled += count
            values = values[count:]
            if self._filled == self._layout.chunk_rows:
                self._flush()

    def finish(self) -> None:
        """Write what is left and the shard's index, and make it durable."""
        if self._layout.checked and self._filled:
            self._buffer[self._filled :] = 0
            self._flush()
        _pwrite(self._fd, self._layout.index(), self._layout.chunks * self._layout.stride)
        os.fsync(self._fd)

    def _flush(self) -> None:
        data = self._buffer.tobytes()
        _pwrite(self._fd, data + crc_of(data).to_bytes(CRC_BYTES, "little"), self._chunk * self._layout.stride)
        self._chunk, self._filled = self._chunk + 1, 0


class SegmentReader:
    """Reads rows of one segment, each checked. It cannot be pruned meanwhile: a shared lock is held on its folder.

    Args:
        path: the segment.
        versions: schemas of the buffer; None takes what the segment says.
        attributes: what its ``zarr.json`` should say (see ``segment_attributes``), if that is damaged.

    Attributes:
        schema: its rows are of this schema.
        rows: how many.
        logs: names of the logs it was made from.

    Raises:
        CorruptDataError: it is missing or damaged.
        StoreError: it cannot be read, or is just being removed.
    """

    def __init__(
        self, path: Path, versions: Versions | None = None, *, attributes: dict[str, Any] | None = None
    ) -> None:
        self.path = path
        self._files: dict[str, int] = {}
        self._sums: dict[str, NDArray[np.uint32]] = {}
        with self._explained():
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._explained():
                self._hold()
            if attributes is None:
                with self._explained(), open(self._open(METADATA), "rb") as file:
                    self._plain = _checked_attributes(path, file.read())
                stop = self._plain.find(_EPISODES)  # of which there may be very many
                attributes = json.loads(self._plain if stop < 0 else self._plain[:stop] + b"}")
            else:
                self.attributes = attributes
            if attributes["format"] != FORMAT:
                raise StoreError(f"segment {path} has format {attributes['format']}, this version reads {FORMAT}")
            own = Schema.from_json(attributes["schema"])
            self.schema = own if versions is None else versions.find(own.fingerprint)
            self.rows: int = attributes["rows"]
            self.logs: list[str] = attributes["logs"]
            self.arrays = {a.name: a for a in layouts(self.schema, self.rows)}
        except BaseException:
            self.close()
            raise

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """All that its ``zarr.json`` says."""
        found: dict[str, Any] = json.loads(self._plain)
        return found

    @cached_property
    def episodes(self) -> list[EpisodeRecord]:
        """Records of its episodes as they were when it was sealed."""
        return [EpisodeRecord(**e, log="", offset=0, segment=self.path.name) for e in self.attributes["episodes"]]

    def low(self, record: EpisodeRecord, first: int, count: int) -> NDArray[Any]:
        """(count,) rows of dtype ``schema.low_row`` from row ``first`` of an episode."""
        rows = np.zeros(count, self.schema.low_row)
        self._fill(rows, record.first_row + first, [a for a in self.arrays.values() if a.field and a.checked])
        self._check_owner(record, first, rows)
        return rows

    def low_many(self, records: Sequence[EpisodeRecord]) -> NDArray[Any]:
        """All rows of episodes that follow each other in the segment, read at once, of dtype ``schema.low_row``."""
        counts = np.array([record.rows for record in records])
        rows = np.zeros(int(counts.sum()), self.schema.low_row)
        self._fill(rows, records[0].first_row, [a for a in self.arrays.values() if a.field and a.checked])
        ids = np.frombuffer(bytes.fromhex("".join(record.uuid for record in records)), "V16")
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        same = rows["episode"].copy().view("<u8") == np.repeat(ids, counts).view("<u8")
        if not same.all() or (rows["index"] != np.arange(len(rows)) - starts).any():
            raise CorruptDataError(f"{self.path}: rows {records[0].first_row} and on belong to other episodes")
        return rows

    def whole(self, record: EpisodeRecord, first: int, count: int) -> NDArray[Any]:
        """(count,) rows of dtype ``schema.row`` from row ``first`` of an episode."""
        rows = np.zeros(count, self.schema.row)
        self._fill(rows, record.first_row + first, [a for a in self.arrays.values() if a.field and a.checked])
        self._check_owner(record, first, rows)
        for key in self.schema.images:
            numbers = np.arange(record.first_row + first, record.first_row + first + count)
            self.segment_images(key, numbers, rows[f"observation/{key}"])
        return rows

    def images(self, wanted: Sequence[Wanted]) -> None:
        """Read images of episodes, in the order in which they lie."""
        rows = np.concatenate([np.asarray(one.rows, np.int64) + one.record.first_row for one in wanted])
        for key in wanted[0].out:
            self.segment_images(key, rows, [image for one in wanted for image in one.out[key]])

    def segment_images(self, key: str, rows: NDArray[np.int64], out: Images) -> None:
        """Read images to where they go, neighbours at once, in the order in which they lie.

        Args:
            key: observation key.
            rows: (n,) row numbers within the segment.
            out: n images, where they go.

        Raises:
            CorruptDataError: one fails its checksum.
        """
        layout, sums = self.arrays[f"observation/{key}"], self._sums_of(key)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            raise CorruptDataError(f"{self.path}: expected rows within [0, {self.rows}), the index says otherwise")
        if layout.shard not in self._files:
            with self._explained():
                self._files[layout.shard] = self._open(layout.shard)
        fd, size = self._files[layout.shard], layout.row_bytes
        most = max(1, min(_READ_BYTES // size, _MOST_PARTS))
        order = np.argsort(rows, kind="stable")
        ordered, places = rows[order], [out[i] for i in order.tolist()]
        views, expected = [image.view() for image in places], sums[ordered].tolist()
        for view in views:
            view.flags.writeable = False  # as checksums want it
        cuts = (np.flatnonzero(np.diff(ordered) != 1) + 1).tolist()
        with self._explained():
            for a, b in pairwise([0, *cuts, len(views)]):
                for start in range(a, b, most):
                    stop = min(start + most, b)
                    first = int(ordered[start])
                    _preadv(fd, places[start:stop], first * size)
                    for i in range(start, stop):
                        if checksum(views[i]) != expected[i]:
                            raise CorruptDataError(
                                f"segment {self.path}: row {first + i - start} of '{key}' fails its checksum"
                            )

    def values(self, layout: ArrayLayout, first: int, count: int) -> NDArray[Any]:
        """(count, ...) rows of a checked array, from row ``first`` of the segment.

        Raises:
            CorruptDataError: a chunk fails its checksum, or is not there.
        """
        if not count:
            return np.zeros((0, *layout.shape), layout.dtype)
        start, stop = first // layout.chunk_rows, -(-(first + count) // layout.chunk_rows)
        data = np.zeros((stop - start, layout.stride), np.uint8)
        with self._explained():
            fd = self._open(layout.shard)
            try:
                _preadv(fd, [data], start * layout.stride)
            finally:
                os.close(fd)
        data.flags.writeable = False
        for number, chunk in enumerate(data, start):
            if checksum(chunk[:-CRC_BYTES]) != int.from_bytes(chunk[-CRC_BYTES:].tobytes(), "little"):
                raise CorruptDataError(
                    f"{self.path}: '{layout.name}' fails its checksum in rows {number * layout.chunk_rows} to "
                    f"{min((number + 1) * layout.chunk_rows, layout.rows) - 1}"
                )
        flat = np.ascontiguousarray(data[:, :-CRC_BYTES]).reshape(-1).view(layout.dtype)
        skip = first - start * layout.chunk_rows
        return flat.reshape(-1, *layout.shape)[skip : skip + count]

    def close(self) -> None:
        """Close all files; idempotent."""
        while self._files:
            os.close(self._files.popitem()[1])
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _hold(self) -> None:
        """Share the lock. Who asks whether the segment is in use has it alone for a moment."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return fcntl.flock(self._folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL_S)

    def _fill(self, rows: NDArray[Any], first: int, arrays: list[ArrayLayout]) -> None:
        if first < 0 or first + len(rows) > self.rows:
            raise CorruptDataError(
                f"{self.path}: expected rows within [0, {self.rows}), the index says {first} to {first + len(rows)}"
            )
        for array in arrays:
            values = self.values(array, first, len(rows))
            if rows.dtype[array.field].kind == "V" and not rows.dtype[array.field].shape:
                values = np.ascontiguousarray(values).view(rows.dtype[array.field]).reshape(-1)
            rows[array.field] = values

    def _check_owner(self, record: EpisodeRecord, first: int, rows: NDArray[Any]) -> None:
        owner = np.frombuffer(bytes.fromhex(record.uuid), dtype="V16")
        if (rows["episode"] != owner).any() or (rows["index"] != np.arange(first, first + len(rows))).any():
            raise CorruptDataError(
                f"episode {record.uuid}: rows {record.first_row + first} and on of {self.path} belong to others"
            )

    def _sums_of(self, key: str) -> NDArray[np.uint32]:
        if key not in self._sums:
            self._sums[key] = self.values(self.arrays[crc_name(key)], 0, self.rows)
        return self._sums[key]

    def _open(self, name: str) -> int:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The system's errors as ours."""
        try:
            yield
        except FileNotFoundError as error:
            raise CorruptDataError(f"segment {self.path} is in the index but not (whole) on disk") from error
        except BlockingIOError as error:
            raise StoreError(f"segment {self.path} is being removed") from error
        except EOFError as error:
            raise CorruptDataError(f"segment {self.path}: a file is too short") from error
        except OSError as error:
            raise read_error(f"cannot read segment {self.path}", error) from error


def segment_attributes(
    schema: Schema, writer: str, rows: int, logs: Sequence[str], episodes: Sequence[EpisodeRecord]
) -> dict[str, Any]:
    """What the ``zarr.json`` of a segment says of it; the index can be made again from it."""
    return {
        "format": FORMAT,
        "writer": writer,
        "rows": rows,
        "logs": list(logs),
        "schema": schema.to_json(),
        "episodes": [{k: v for k, v in dataclasses.asdict(e).items() if k not in _LEFT_OUT} for e in episodes],
    }


def _signed(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "checksum": f"{crc_of(encoded(body)):08x}"}


def _checked_attributes(path: Path, data: bytes) -> bytes:
    """JSON of what ``zarr.json`` says, every byte of which is checked."""
    before, after = group_metadata({"robolearn": None}).split(b"null")
    end = len(data) - len(after) - len(_checksum_end(b""))
    plain = data[len(before) : end] + b"}"
    if end < len(before) or not (data.startswith(before) and data.endswith(_checksum_end(plain) + after)):
        raise CorruptDataError(f"{path / METADATA} fails its checksum")
    return plain


def _checksum_end(plain: bytes) -> bytes:
    """What follows the attributes: the checksum of their JSON comes last."""
    return f',"checksum":"{crc_of(plain):08x}"}}'.encode()


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _pwrite(fd: int, data: Any, offset: int) -> None:
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _preadv(fd: int, out: Sequence[NDArray[np.uint8]], offset: int) -> None:
    """Raises: EOFError: the file ends before all of ``out`` are full."""
    if os.preadv(fd, [part.data for part in out], offset) == sum(part.nbytes for part in out):
        return
    for part in out:  # it may stop early: read piece by piece
        view = part.data.cast("B")
        while view:
            done = os.preadv(fd, [view], offset)
            if not done:
                raise EOFError
            view, offset = view[done:], offset + done
