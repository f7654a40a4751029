"""Append logs: checksummed frames, one file per writer and session.

A frame is a 16-byte head (magic, type, payload length, checksum) and a payload that is a multiple of 8 bytes long. The
checksum is CRC-32 (zlib, in the standard library) of head and payload. A log holds ``HEADER`` once, then per episode
``BEGIN`` (JSON), one ``ROW`` (packed, fixed length) per row, and ``END`` (JSON); the index could be rebuilt from it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.schema import FORMAT, Schema
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.files import fsync_dir

HEAD = struct.Struct("<IHHII")
_CHECKED = 12  # bytes of the head that the checksum covers
_MAGIC = 0x31474C52  # "RLG1"

PWrite = Callable[[int, Any, int], int]


class FrameType(IntEnum):
    """What a frame carries."""

    HEADER = 0
    BEGIN = 1
    ROW = 2
    END = 3


@dataclass(frozen=True)
class Frame:
    """A sound frame: where it starts, where its payload lies, where the next one starts."""

    type: FrameType
    start: int
    payload: memoryview
    end: int

    def json(self) -> dict[str, Any]:
        """Payload of a HEADER, BEGIN or END frame."""
        data = json.loads(bytes(self.payload))
        if not isinstance(data, dict):
            raise CorruptDataError(f"frame at byte {self.start}: expected a JSON object")
        return data


def storage_error(what: str, error: OSError) -> StoreError:
    """A StoreError that says what failed, why, and what would help."""
    hints = {
        errno.ENOSPC: "the disk is full: free some space and try again",
        errno.EDQUOT: "the disk quota is used up: free some space and try again",
        errno.EFBIG: "the file size limit (ulimit -f) is reached",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "no permission to write here",
        errno.EPERM: "no permission to write here",
        errno.EMFILE: "too many open files (ulimit -n)",
    }
    hint = hints.get(error.errno or 0)
    return StoreError(f"{what}: {error.strerror or error}" + (f"; {hint}" if hint else ""))


def seal_frame(frame: bytearray | memoryview, type_: FrameType) -> None:
    """Write the head of a frame whose payload is already in place."""
    view = memoryview(frame)
    HEAD.pack_into(view, 0, _MAGIC, type_, 0, len(view) - HEAD.size, 0)
    crc = zlib.crc32(view[HEAD.size :], zlib.crc32(view[:_CHECKED]))
    struct.pack_into("<I", view, _CHECKED, crc)


def json_frame(type_: FrameType, data: Mapping[str, Any]) -> bytearray:
    """A frame with a JSON payload, padded with spaces."""
    payload = json.dumps(data).encode()
    frame = bytearray(HEAD.size) + payload + b" " * (-len(payload) % 8)
    seal_frame(frame, type_)
    return frame


def sound_frame_after(data: memoryview, start: int) -> int:
    """Where the first sound frame at or after ``start`` begins, wherever it may lie; -1 for none."""
    raw = data.obj if isinstance(data.obj, bytes | mmap.mmap) else bytes(data)
    magic = _MAGIC.to_bytes(4, "little")
    position = raw.find(magic, start)
    while position >= 0:
        if next(scan(data, position), None) is not None:
            return position
        position = raw.find(magic, position + 1)
    return -1


def scan(data: memoryview, start: int = 0) -> Iterator[Frame]:
    """Sound frames from ``start`` on; stops at the first byte that is none (end, torn tail or damage)."""
    position, size = start, len(data)
    while position + HEAD.size <= size:
        magic, type_, _, length, crc = HEAD.unpack_from(data, position)
        end = position + HEAD.size + length
        if magic != _MAGIC or type_ > FrameType.END or end > size:
            return
        payload = data[position + HEAD.size : end]
        if zlib.crc32(payload, zlib.crc32(data[position : position + _CHECKED])) != crc:
            return
        yield Frame(FrameType(type_), position, payload, end)
        position = end


class LogWriter:
    """Appends frames to a new log file.

    Attributes:
        offset: bytes written so far; every frame before it is whole.
        synced: bytes that survive a power cut.

    Raises:
        StoreError: the file cannot be made or written.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        writer: str,
        *,
        pwrite: PWrite = os.pwrite,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        self.path, self._pwrite, self._sync = path, pwrite, sync
        self.offset, self.synced, self._failed = 0, 0, False
        header = {"format": FORMAT, "writer": writer, "schema": schema.fingerprint, "row_bytes": schema.row.itemsize}
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(f"cannot create log {path}", error) from error
        try:
            self.append(json_frame(FrameType.HEADER, header))
            fsync_dir(path.parent)
        except BaseException:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            raise

    def append(self, frame: bytearray | memoryview) -> int:
        """Write one frame; return where it starts. When this returns it survives a kill of the process.

        Raises:
            StoreError: nothing was appended; the log is as before and can be appended to again.
        """
        self._check()
        view, done, start = memoryview(frame), 0, self.offset
        try:
            while done < len(view):
                done += self._pwrite(self._fd, view[done:], start + done)
        except OSError as error:
            with contextlib.suppress(OSError):  # what is left is a torn tail, overwritten by the next append
                os.ftruncate(self._fd, start)
            raise storage_error(f"cannot append to {self.path}", error) from error
        self.offset = start + len(view)
        return start

    def sync(self) -> None:
        """Make everything appended survive a power cut.

        Raises:
            StoreError: the kernel could not write; what reached the disk is unknown, so this log takes no more.
        """
        self._check()
        if self.synced == self.offset:
            return
        try:
            self._sync(self._fd)
        except OSError as error:
            self._failed = True  # the kernel forgets failed pages: a second fdatasync would report a false success
            raise storage_error(f"cannot sync {self.path}", error) from error
        self.synced = self.offset

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self) -> None:
        if self._failed or self._fd < 0:
            state = "failed to sync" if self._failed else "is closed"
            raise StoreError(f"log {self.path} {state}; close the writer and open it again to go on")


class LogReader:
    """Reads rows of one log by extent, checking every frame.

    Raises:
        CorruptDataError: the file is missing, or not a log of this schema.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path, self._schema = path, schema
        self.stride = HEAD.size + schema.row.itemsize
        self._frames = np.dtype([("head", f"V{HEAD.size}"), ("row", schema.row)])
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise CorruptDataError(f"log {path} is in the index but not on disk") from error
        except OSError as error:
            raise storage_error(f"cannot read log {path}", error) from error
        try:
            self._check_header()
        except BaseException:
            self.close()
            raise

    def rows(self, offset: int, first: int, count: int, episode: str) -> NDArray[Any]:
        """(count,) rows of dtype ``schema.row``, from row ``first`` of an episode whose row 0 is at byte ``offset``.

        Raises:
            CorruptDataError: a checksum, the episode or the row numbers do not fit.
        """
        start = offset + first * self.stride
        data = _pread(self._fd, count * self.stride, start)
        view, sound = memoryview(data), 0
        for frame in scan(view):
            if frame.type is not FrameType.ROW or frame.end - frame.start != self.stride:
                break
            sound += 1
        if sound < count:
            raise CorruptDataError(
                f"episode {episode}: row {first + sound} at byte {start + sound * self.stride} of {self.path} "
                "fails its checksum"
            )
        rows: NDArray[Any] = np.frombuffer(data, dtype=self._frames)["row"]
        owner = np.frombuffer(bytes.fromhex(episode), dtype="V16")
        if (rows["episode"] != owner).any() or (rows["index"] != np.arange(first, first + count)).any():
            raise CorruptDataError(f"episode {episode}: bytes {start} and on of {self.path} belong to other rows")
        return rows

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _check_header(self) -> None:
        frame = next(scan(memoryview(_pread(self._fd, 4096, 0))), None)
        if frame is None or frame.type is not FrameType.HEADER:
            raise CorruptDataError(f"{self.path} does not start like a log")
        header = frame.json()
        if header.get("schema") != self._schema.fingerprint:
            raise CorruptDataError(
                f"{self.path} was written under schema {header.get('schema')}, expected {self._schema.fingerprint}"
            )


def mapped(path: Path) -> memoryview:
    """The bytes of a file, without reading them all at once; unmapped when the last view of it is gone.

    Raises:
        CorruptDataError: the file is missing.
        StoreError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) if size else b"")
    except FileNotFoundError as error:
        raise CorruptDataError(f"log {path} is in the index but not on disk") from error
    except OSError as error:
        raise storage_error(f"cannot read log {path}", error) from error


def _pread(fd: int, count: int, offset: int) -> bytes:
    """Up to ``count`` bytes; fewer only at the end of the file."""
    parts, done = [], 0
    while done < count:
        part = os.pread(fd, count - done, offset + done)
        if not part:
            break
        parts.append(part)
        done += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
