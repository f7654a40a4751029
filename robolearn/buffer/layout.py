"""How rows lie in a segment: one zarr v3 array per field, each with its metadata and one shard file.

Images are stored raw, so that row r lies at byte r * row_bytes of its shard; their checksums are an array of their own.
Image keys of an archived segment are JPEG files instead, one behind the other in an array of bytes, with an array of
where each ends; the checksums are those of the files. All other arrays have inner chunks of many rows, each followed by
its CRC-32C, which plain zarr checks too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from robolearn.buffer.log import checksum
from robolearn.buffer.schema import Schema

IMAGE_ROWS = 16
CHUNK_ROWS = 256
CHUNK_BYTES = 64 << 10
CRC_BYTES = 4
_UNSTORED = "reserved"


@dataclass(frozen=True)
class ArrayLayout:
    """Where the values of one array lie.

    Attributes:
        name: path of the array in the segment.
        field: field of the row it holds; empty for checksums and JPEG files.
        dtype: of one element, little-endian.
        shape: of one row.
        rows: how many.
        checked: every chunk is followed by its checksum.
    """

    name: str
    field: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int
    checked: bool

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * prod(self.shape)

    @cached_property
    def chunk_rows(self) -> int:
        """Rows of an inner chunk; so many that the last one is nearly full."""
        if self.checked:
            most = min(CHUNK_ROWS, max(IMAGE_ROWS, CHUNK_BYTES // self.row_bytes))
        else:
            most = IMAGE_ROWS if self.shape else CHUNK_BYTES  # a file's bytes are rows without a shape
        return -(-self.rows // -(-self.rows // most))

    @property
    def chunks(self) -> int:
        """Inner chunks of the shard."""
        return -(-self.rows // self.chunk_rows)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, without its checksum."""
        return self.chunk_rows * self.row_bytes

    @property
    def stride(self) -> int:
        """Bytes from one chunk to the next."""
        return self.chunk_bytes + (CRC_BYTES if self.checked else 0)

    @property
    def shard(self) -> str:
        """Path of the shard file in the segment."""
        return f"{self.name}/c" + ".0" * (1 + len(self.shape))

    @property
    def size(self) -> int:
        """Bytes of the shard file."""
        return self.chunks * (self.stride + 16) + CRC_BYTES

    def index(self) -> bytes:
        """The shard's index of (offset, length) of every chunk, with its checksum: the last bytes of the file."""
        index = np.empty((self.chunks, 2), "<u8")
        index[:, 0] = np.arange(self.chunks) * self.stride
        index[:, 1] = self.stride
        index.flags.writeable = False
        data = index.tobytes()
        return data + crc_of(data).to_bytes(CRC_BYTES, "little")

    def metadata(self) -> bytes:
        """Contents of the array's ``zarr.json``."""
        raw: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
        if self.dtype.itemsize == 1:
            raw = {"name": "bytes"}
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        sharding = {
            "chunk_shape": [self.chunk_rows, *self.shape],
            "codecs": [raw, {"name": "crc32c"}] if self.checked else [raw],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        shard_shape = [self.chunks * self.chunk_rows, *self.shape]
        fill = {"b": False, "f": 0.0}.get(self.dtype.kind, 0)
        return encoded(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": [self.rows, *self.shape],
                "data_type": self.dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard_shape}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
                "fill_value": fill,
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
                "attributes": {},
            }
        )


def layouts(schema: Schema, rows: int, jpeg: Mapping[str, int]) -> list[ArrayLayout]:
    """Arrays of a segment.

    Args:
        schema: of its rows.
        rows: how many.
        jpeg: image keys that are JPEG files -> bytes of all files.
    """
    found = []
    images = {f"observation/{k}" for k in schema.images}
    for field in schema.row.names or ():
        if field == _UNSTORED or (field in images and field.partition("/")[2] in jpeg):
            continue
        dtype = schema.row.fields[field][0]  # type: ignore[index]
        base, shape = dtype.base, dtype.shape
        if base.kind == "V":  # ids: bytes
            base, shape = np.dtype("u1"), (base.itemsize,)
        found.append(ArrayLayout(field, field, base, shape, rows, checked=field not in images))
    found += [ArrayLayout(crc_name(key), "", np.dtype("<u4"), (), rows, checked=True) for key in schema.images]
    found += [ArrayLayout(end_name(key), "", np.dtype("<u8"), (), rows, checked=True) for key in jpeg]
    found += [ArrayLayout(jpeg_name(key), "", np.dtype("u1"), (), size, checked=False) for key, size in jpeg.items()]
    return found


def crc_name(key: str) -> str:
    """Array of the checksums of an image key."""
    return f"crc/{key}"


def jpeg_name(key: str) -> str:
    """Array of the JPEG files of an image key, one behind the other."""
    return f"jpeg/{key}"


def end_name(key: str) -> str:
    """Array of where each JPEG file of an image key ends."""
    return f"jpeg_end/{key}"


def groups(arrays: list[ArrayLayout]) -> list[str]:
    """Folders between the segment and its arrays."""
    found = set()
    for array in arrays:
        parts = array.name.split("/")
        found |= {"/".join(parts[:n]) for n in range(1, len(parts))}
    return sorted(found)


def group_metadata(attributes: dict[str, Any] | None = None) -> bytes:
    """Contents of a group's ``zarr.json``."""
    return encoded({"zarr_format": 3, "node_type": "group", "attributes": attributes or {}})


def encoded(data: dict[str, Any]) -> bytes:
    """JSON whose every byte follows from the data."""
    return json.dumps(data, separators=(",", ":")).encode()


def crc_of(data: bytes) -> int:
    """CRC-32C of bytes."""
    return checksum(np.frombuffer(data, np.uint8))
