"""Images of a log, read straight to where they go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.log import HEAD, FrameType, LogReader, checksum, new_frame, read_error
from robolearn.buffer.records import EpisodeRecord
from robolearn.buffer.schema import Schema
from robolearn.core.errors import CorruptDataError

_CHECKED = 12  # bytes of the head that come before the checksum and are covered by it


class ImageLog(LogReader):
    """A log that can also be read without copying images: a row's parts go to different places at once."""

    def __init__(self, path: Path, schema: Schema) -> None:
        super().__init__(path, schema)
        names = [name for name in schema.row.names or () if name.partition("/")[2] in schema.images]
        starts = [_start(schema, name) for name in names]
        end = starts[-1] + schema.row[names[-1]].itemsize if names else schema.row.itemsize
        self._front = np.zeros(HEAD.size + (starts[0] if names else end), np.uint8)
        self._back = np.zeros(schema.row.itemsize - end, np.uint8)
        self._unwanted = {name.partition("/")[2]: np.zeros(schema.row[name].shape, np.uint8) for name in names}
        self._expected = bytes(new_frame(FrameType.ROW, schema.row.itemsize)[:_CHECKED])
        self._owner_at = HEAD.size + _start(schema, "episode")
        self._number_at = HEAD.size + _start(schema, "index")

    def images(self, record: EpisodeRecord, row: int, out: Mapping[str, NDArray[np.uint8]]) -> None:
        """Read images of one row, key -> (H, W, C) contiguous; those of ``out`` and of no other key.

        Raises:
            CorruptDataError: the row fails its checksum, or is another one.
            StoreError: it cannot be read.
        """
        parts = [self._front, *(out.get(key, spare) for key, spare in self._unwanted.items()), self._back]
        start = record.offset + row * self.stride
        try:
            read = os.preadv(self._fd, [part.data for part in parts if part.nbytes], start)
        except OSError as error:
            raise read_error(f"cannot read log {self.path}", error) from error
        front = self._front.tobytes()
        crc = checksum(np.frombuffer(front, np.uint8)[:_CHECKED])
        crc = checksum(np.frombuffer(front, np.uint8)[HEAD.size :], crc)
        for part in parts[1:]:
            view = part.view()
            view.flags.writeable = False
            crc = checksum(view, crc)
        stored = int.from_bytes(front[_CHECKED : HEAD.size], "little")
        if read != self.stride or front[:_CHECKED] != self._expected or crc != stored:
            raise CorruptDataError(
                f"episode {record.uuid}: row {row} at byte {start} of {self.path} fails its checksum"
            )
        owner = front[self._owner_at : self._owner_at + 16]
        number = int.from_bytes(front[self._number_at : self._number_at + 4], "little")
        if owner.hex() != record.uuid or number != row:
            raise CorruptDataError(f"episode {record.uuid}: bytes {start} and on of {self.path} belong to other rows")


def _start(schema: Schema, name: str) -> int:
    """Byte within a row at which a field starts."""
    fields = schema.row.fields
    if fields is None:
        raise TypeError("a row has fields")
    return int(fields[name][1])
