"""Segments: sealed episodes as a zarr v3 group, written here byte by byte and readable by plain zarr."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.jpeg import decode
from robolearn.buffer.layout import (
    CRC_BYTES,
    ArrayLayout,
    crc_name,
    crc_of,
    encoded,
    end_name,
    group_metadata,
    groups,
    jpeg_name,
    layouts,
)
from robolearn.buffer.log import checksum, read_error, storage_error
from robolearn.buffer.records import EpisodeRecord, Images, Wanted
from robolearn.buffer.schema import FORMAT, Schema
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.files import fsync_dir

METADATA = "zarr.json"
JPEG_FORMAT = 3
"""Format of a segment with JPEG files, which versions that know nothing of them refuse."""
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
    jpeg: Mapping[str, Iterator[bytes]] | None = None,
) -> int:
    """Write a segment and make it durable; its size in bytes. A few MB of memory are enough for any size.

    Args:
        folder: made here; its parent is left to the caller to sync.
        schema: of the rows.
        writer: who wrote the episodes.
        logs: which logs they come from.
        episodes: in order, each with its ``first_row``.
        parts: all their rows in order, in arrays of dtype ``schema.row``.
        jpeg: image keys to be stored as JPEG files -> the files in order; what ``parts`` have there is not read.

    Raises:
        StoreError: the disk does not take it, or the rows do not fit the episodes; nothing is left then.
    """
    rows, files = sum(e.rows for e in episodes), jpeg or {}
    try:
        folder.mkdir()
        names = groups(layouts(schema, rows, dict.fromkeys(files, 0)))
        for name in names:
            (folder / name).mkdir()
            _write(folder / name / METADATA, group_metadata())
        sizes = _write_arrays(folder, schema, rows, parts, files)
        arrays = layouts(schema, rows, sizes)
        attributes = segment_attributes(schema, writer, rows, logs, episodes, sizes)
        _write(folder / METADATA, group_metadata({"robolearn": _signed(attributes)}))
        for name in [*(a.name for a in arrays), *reversed(names), "."]:
            fsync_dir(folder / name)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise storage_error(f"cannot write segment {folder}", error) from error
        raise
    metadata = sum((folder / n / METADATA).stat().st_size for n in [".", *names, *(a.name for a in arrays)])
    return metadata + sum(a.size for a in arrays)


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


def _write_arrays(
    folder: Path, schema: Schema, rows: int, parts: Iterable[NDArray[Any]], jpeg: Mapping[str, Iterator[bytes]]
) -> dict[str, int]:
    """Bytes of the JPEG files of each key that has some."""
    with ExitStack() as stack:
        streams = {key: stack.enter_context(_StreamWriter(folder, jpeg_name(key))) for key in jpeg}
        written = {jpeg_name(key) for key in jpeg}
        arrays = [a for a in layouts(schema, rows, dict.fromkeys(jpeg, 0)) if a.name not in written]
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
            for key, stream in streams.items():
                files = list(islice(jpeg[key], len(part)))
                if len(files) < len(part):
                    raise StoreError(f"cannot write segment {folder}: expected {rows} files of '{key}', got fewer")
                writers[crc_name(key)].put(_bytes_of(np.array([crc_of(file) for file in files], "<u4")))
                writers[end_name(key)].put(_bytes_of(stream.put(files)))
        if done != rows:
            raise StoreError(f"cannot write segment {folder}: expected {rows} rows, got {done}")
        for array_writer in writers.values():
            array_writer.finish()
        for stream in streams.values():
            stream.finish()
    return {key: stream.size for key, stream in streams.items()}


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


class _StreamWriter:
    """Writes an array of bytes whose length shows at the end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.size = 0
        self._folder, self._name = folder, name
        (folder / name).mkdir()
        path = folder / self._layout.shard
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> _StreamWriter:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def _layout(self) -> ArrayLayout:
        return ArrayLayout(self._name, "", np.dtype("u1"), (), self.size, checked=False)

    def put(self, files: Sequence[bytes]) -> NDArray[np.uint64]:
        """Append files; where each ends."""
        _pwrite(self._fd, b"".join(files), self.size)
        ends = np.cumsum([self.size, *(len(file) for file in files)], dtype="<u8")
        self.size = int(ends[-1])
        return ends[1:]

    def finish(self) -> None:
        """Write the shard's index and the metadata, and make them durable."""
        layout = self._layout
        os.posix_fallocate(self._fd, 0, layout.size)
        _pwrite(self._fd, layout.index(), layout.chunks * layout.stride)
        os.fsync(self._fd)
        _write(self._folder / self._name / METADATA, layout.metadata())


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
        jpeg: image keys that are JPEG files -> bytes of all files.

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
                jpeg = attributes.get("jpeg", {})
            else:
                self.attributes, jpeg = attributes, None
            if attributes["format"] not in (FORMAT, JPEG_FORMAT):
                raise StoreError(
                    f"segment {path} has format {attributes['format']}, this version reads {FORMAT} and {JPEG_FORMAT}"
                )
            own = Schema.from_json(attributes["schema"])
            self.schema = own if versions is None else versions.find(own.fingerprint)
            self.rows: int = attributes["rows"]
            self.logs: list[str] = attributes["logs"]
            if jpeg is None:  # then the files say it, but not how many bytes, which reading rows does not need
                jpeg = {key: 0 for key in self.schema.images if (path / jpeg_name(key)).is_dir()}
            self.jpeg: dict[str, int] = jpeg
            self.arrays = {a.name: a for a in layouts(self.schema, self.rows, self.jpeg)}
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

    def whole(self, record: EpisodeRecord, first: int, count: int, *, without: Collection[str] = ()) -> NDArray[Any]:
        """(count,) rows of dtype ``schema.row`` from row ``first`` of an episode; images of keys ``without`` are 0."""
        rows = np.zeros(count, self.schema.row)
        self._fill(rows, record.first_row + first, [a for a in self.arrays.values() if a.field and a.checked])
        self._check_owner(record, first, rows)
        for key in [key for key in self.schema.images if key not in without]:
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
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            raise CorruptDataError(f"{self.path}: expected rows within [0, {self.rows}), the index says otherwise")
        order = np.argsort(rows, kind="stable")
        if key in self.jpeg:
            self._decoded(key, rows[order], [out[i] for i in order.tolist()])
        else:
            self._raw(key, rows[order], [out[i] for i in order.tolist()])

    def _raw(self, key: str, ordered: NDArray[np.int64], places: Sequence[NDArray[np.uint8]]) -> None:
        layout, sums = self.arrays[f"observation/{key}"], self._sums_of(key)
        fd, size = self._kept_open(layout), layout.row_bytes
        most = max(1, min(_READ_BYTES // size, _MOST_PARTS))
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

    def jpegs(self, key: str, rows: NDArray[np.int64]) -> Iterator[bytes]:
        """JPEG files of rows of the segment, in ascending order.

        Raises:
            CorruptDataError: one fails its checksum.
        """
        if not len(rows):
            return
        first, count = int(rows[0]), int(rows[-1] - rows[0]) + 1
        sums = self.values(self.arrays[crc_name(key)], first, count)
        ends = self._ends_of(key, first, count)
        fd = self._kept_open(self.arrays[jpeg_name(key)])
        for row in rows.tolist():
            start, stop = ends[row - first : row - first + 2].tolist()
            data = np.empty(stop - start, np.uint8)
            with self._explained():
                _preadv(fd, [data], start)
            data.flags.writeable = False
            if checksum(data) != int(sums[row - first]):
                raise CorruptDataError(f"segment {self.path}: row {row} of '{key}' fails its checksum")
            yield data.tobytes()

    def _decoded(self, key: str, ordered: NDArray[np.int64], places: Sequence[NDArray[np.uint8]]) -> None:
        for row, data, image in zip(ordered.tolist(), self.jpegs(key, ordered), places, strict=True):
            try:
                decode(data, image)
            except CorruptDataError as error:
                raise CorruptDataError(f"segment {self.path}: row {row} of '{key}': {error}") from error

    def _ends_of(self, key: str, first: int, count: int) -> NDArray[np.int64]:
        """(count + 1,) where the JPEG files of rows from ``first`` on begin, and where the last one ends."""
        before = min(first, 1)
        ends = np.zeros(count + 1, np.int64)
        ends[1 - before :] = self.values(self.arrays[end_name(key)], first - before, count + before)
        if (np.diff(ends) <= 0).any():
            raise CorruptDataError(f"segment {self.path}: '{end_name(key)}' does not ascend from row {first} on")
        return ends

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

    def _kept_open(self, layout: ArrayLayout) -> int:
        """The shard of images, open until the segment is closed."""
        if layout.shard not in self._files:
            with self._explained():
                self._files[layout.shard] = self._open(layout.shard)
        return self._files[layout.shard]

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
    schema: Schema,
    writer: str,
    rows: int,
    logs: Sequence[str],
    episodes: Sequence[EpisodeRecord],
    jpeg: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What the ``zarr.json`` of a segment says of it; the index can be made again from it."""
    return {
        "format": JPEG_FORMAT if jpeg else FORMAT,
        "writer": writer,
        "rows": rows,
        "logs": list(logs),
        "schema": schema.to_json(),
        **({"jpeg": dict(jpeg)} if jpeg else {}),
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
