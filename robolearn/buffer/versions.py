"""Versions of a buffer's schema: keys may be added later, and what was written before reads as if it had them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.schema import FORMAT, Schema
from robolearn.core.errors import CorruptDataError, SpecError, StoreError
from robolearn.core.spec import Array, ArraySpec


@dataclass(frozen=True)
class Versions:
    """All schemas a buffer has had.

    Attributes:
        schemas: oldest first; each has one key more than the one before.
        fill: added observation key -> what rows have there that were written before (a number or nested lists).
    """

    schemas: tuple[Schema, ...]
    fill: dict[str, Any]

    @property
    def newest(self) -> Schema:
        """The schema that rows are read and written with."""
        return self.schemas[-1]

    def find(self, fingerprint: str) -> Schema:
        """The schema of a log or segment.

        Raises:
            StoreError: none has this fingerprint.
        """
        for schema in self.schemas:
            if schema.fingerprint == fingerprint:
                return schema
        raise StoreError(
            f"no schema has fingerprint {fingerprint} (have: {', '.join(s.fingerprint for s in self.schemas)}); "
            "if a key was added a moment ago, open the buffer again"
        )

    def with_key(self, spec: ArraySpec, fill: Any) -> Versions:
        """These and one more that has an observation key more.

        Args:
            spec: the new key; its name is the key.
            fill: a number for all elements, or an array of the key's shape.

        Raises:
            StoreError: the key exists, or cannot be stored.
            SpecError: the fill value does not fit the spec.
        """
        key, old = spec.name, self.newest
        if key in old.observation:
            raise StoreError(f"observation key '{key}' exists already; have: {', '.join(sorted(old.observation))}")
        value = np.asarray(fill)
        try:
            spec.validate(np.broadcast_to(_cast(value, spec.dtype), spec.shape))
        except (TypeError, ValueError) as error:
            raise SpecError(f"fill of '{key}': {error}") from error
        new = Schema({**old.observation, key: spec}, old.action)
        return Versions((*self.schemas, new), {**self.fill, key: value.tolist()})

    def filled(self, key: str) -> Array:
        """What rows have for an added key that were written before it was added: an array of the key's shape."""
        spec = self.newest.observation[key]
        return np.broadcast_to(np.asarray(self.fill[key]).astype(spec.dtype), spec.shape)

    def upgraded(self, rows: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Rows of an older schema with the fields of ``dtype`` (the newest ``row`` or ``low_row``)."""
        if rows.dtype == dtype:
            return rows
        new = np.zeros(len(rows), dtype)
        for name in dtype.names or ():
            if name in (rows.dtype.names or ()):
                new[name] = rows[name]
            else:
                new[name] = self.filled(name.partition("/")[2])
        return new

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable description, with a checksum."""
        data = {"format": FORMAT, "versions": [s.to_json() for s in self.schemas], "fill": self.fill}
        return {**data, "checksum": _checksum(data)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Versions:
        """Inverse of ``to_json``.

        Raises:
            StoreError: a format this version does not know.
            CorruptDataError: damaged, or no schema at all.
        """
        try:
            if data["format"] != FORMAT and "checksum" not in data:
                raise StoreError(f"buffer has format {data['format']}, this version reads format {FORMAT}")
            body = {k: v for k, v in data.items() if k != "checksum"}
            if data["checksum"] != _checksum(body):
                raise CorruptDataError("the schema fails its checksum")
            if data["format"] != FORMAT:
                raise StoreError(f"buffer has format {data['format']}, this version reads format {FORMAT}")
            return cls(tuple(Schema.from_json(v) for v in data["versions"]), dict(data["fill"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptDataError(f"not a buffer schema: {error!r} in {str(data)[:200]}") from error


def _cast(value: Array, dtype: str) -> Array:
    """Raises: ValueError, TypeError: the numbers are not of this dtype; floats may be rounded."""
    with np.errstate(invalid="ignore", over="ignore"):
        cast = value.astype(dtype)
    if cast.dtype.kind != "f" and not np.array_equal(cast, value):
        raise ValueError(f"expected numbers of dtype {dtype}, got {value.tolist()}")
    return cast


def _checksum(data: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(data, sort_keys=True).encode()):08x}"
