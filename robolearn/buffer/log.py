"""Append logs: checksummed frames, one file per writer and session.

A frame is a 16-byte head (magic, type, payload length, checksum) and a payload that is a multiple of 8 bytes long. The
checksum is CRC-32C of head and payload, which common processors compute faster than zlib's CRC-32. A log holds
``HEADER`` once, then per episode ``BEGIN`` (JSON), one ``ROW`` (packed, fixed length) per row, and ``END`` (JSON); the
index could be rebuilt from it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.schema import FORMAT, Schema
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.files import fsync_dir

HEAD = struct.Struct("<IHHII")
_CHECKSUM = struct.Struct("<I")
_CHECKED = 12  # bytes of the head that the checksum covers
_MAGIC = 0x32474C52  # "RLG2"

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
        errno.EMFILE: "too many open files in this process (ulimit -n)",
        errno.ENFILE: "too many open files on this machine",
    }
    hint = hints.get(error.errno or 0)
    return StoreError(f"{what}: {error.strerror or error}" + (f"; {hint}" if hint else ""))


def read_error(what: str, error: OSError) -> StoreError:
    """As ``storage_error``; what is not there, or the disk cannot give back, is damage."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.EBADMSG, errno.EUCLEAN):
        return CorruptDataError(f"{what}: {error.strerror}")
    return storage_error(what, error)


def new_frame(type_: FrameType, payload_bytes: int) -> bytearray:
    """A frame with a payload of zeros, to be filled and then sealed."""
    frame = bytearray(HEAD.size + payload_bytes)
    HEAD.pack_into(frame, 0, _MAGIC, type_, 0, payload_bytes, 0)
    return frame


class FrameSeal:
    """Writes the checksum of one reused frame whose type and length stay as they are."""

    def __init__(self, frame: bytearray) -> None:
        self._frame = frame
        self._head = checksum(np.frombuffer(bytes(frame[:_CHECKED]), np.uint8))
        self._payload = _readonly(frame)[HEAD.size :]

    def __call__(self) -> None:
        """Take the payload as it is now."""
        _CHECKSUM.pack_into(self._frame, _CHECKED, checksum(self._payload, self._head))


def checksum(data: NDArray[np.uint8], before: int = 0) -> int:
    """CRC-32C of bytes, going on from the checksum of those ``before``. The array must be read-only."""
    crc: int = google_crc32c.extend(before, cast(bytes, data))
    return crc


def _readonly(data: bytearray | memoryview) -> NDArray[np.uint8]:
    view = np.frombuffer(data, np.uint8)
    view.flags.writeable = False
    return view


def json_frame(type_: FrameType, data: Mapping[str, Any]) -> bytearray:
    """A frame with a JSON payload, padded with spaces."""
    payload = json.dumps(data).encode()
    payload += b" " * (-len(payload) % 8)
    frame = new_frame(type_, len(payload))
    frame[HEAD.size :] = payload
    FrameSeal(frame)()
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
    position, size, raw = start, len(data), _readonly(data)
    while position + HEAD.size <= size:
        magic, type_, _, length, crc = HEAD.unpack_from(data, position)
        end = position + HEAD.size + length
        if magic != _MAGIC or type_ > FrameType.END or end > size:
            return
        payload = position + HEAD.size
        if checksum(raw[payload:end], checksum(raw[position : position + _CHECKED])) != crc:
            return
        yield Frame(FrameType(type_), position, data[payload:end], end)
        position = end


class LogWriter:
    """Appends frames to a new log file. One thread may append while another syncs.

    The file grows with every append. Allocating or zeroing ahead was tried and left out: it made the syncs no faster.

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
        except BaseException as error:
            self.close()
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise storage_error(f"cannot create log {path}", error) from error
            raise

    def append(self, frame: bytearray | memoryview) -> int:
        """Write one frame; return where it starts. When this returns it survives a kill of the process.

        Raises:
            StoreError: nothing was appended; the log is as before and can be appended to again.
        """
        self._check()
        size, start = len(frame), self.offset
        try:
            done = self._pwrite(self._fd, frame, start)
            while done < size:
                done += self._pwrite(self._fd, memoryview(frame)[done:], start + done)
        except OSError as error:
            with contextlib.suppress(OSError):  # what is left is a torn tail, overwritten by the next append
                os.ftruncate(self._fd, start)
            raise storage_error(f"cannot append to {self.path}", error) from error
        self.offset = start + size
        return start

    def sync(self) -> None:
        """Make everything appended survive a power cut.

        Raises:
            StoreError: the kernel could not write; what reached the disk is unknown, so this log takes no more.
        """
        self._check()
        reached = self.offset  # another thread may append meanwhile
        if self.synced == reached:
            return
        try:
            self._sync(self._fd)
        except OSError as error:
            self._failed = True  # the kernel forgets failed pages: a second fdatasync would report a false success
            raise storage_error(f"cannot sync {self.path}", error) from error
        self.synced = reached

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _check(self) -> None:
        if self._failed or self._fd < 0:
            state = "failed to sync" if self._failed else "is closed"
            raise StoreError(f"log {self.path} {state}; close the writer and open it again to go on")


class LogReader:
    """Reads rows of one log by extent, checking every frame.

    Raises:
        CorruptDataError: the file is missing, or not a log of this schema.
        StoreError: it cannot be read.
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
            raise read_error(f"cannot read log {path}", error) from error
        try:
            self._check_header()
        except BaseException:
            self.close()
            raise

    def rows(self, offset: int, first: int, count: int, episode: str) -> NDArray[Any]:
        """(count,) rows of dtype ``schema.row``, from row ``first`` of an episode whose row 0 is at byte ``offset``.

        Raises:
            CorruptDataError: a checksum, the episode or the row numbers do not fit.
            StoreError: they cannot be read.
        """
        start = offset + first * self.stride
        data = self._pread(count * self.stride, start)
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
        frame = next(scan(memoryview(self._pread(4096, 0))), None)
        if frame is None or frame.type is not FrameType.HEADER:
            raise CorruptDataError(f"{self.path} does not start like a log")
        header = frame.json()
        if header.get("schema") != self._schema.fingerprint:
            raise CorruptDataError(
                f"{self.path} was written under schema {header.get('schema')}, expected {self._schema.fingerprint}"
            )

    def _pread(self, count: int, offset: int) -> bytes:
        try:
            return _pread(self._fd, count, offset)
        except OSError as error:
            raise read_error(f"cannot read log {self.path}", error) from error


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
        raise read_error(f"cannot read log {path}", error) from error


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
