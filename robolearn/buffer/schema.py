"""Schema: what a row of the buffer holds, and how it is packed into bytes."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import ArraySpec

FORMAT = 2
"""Version of the on-disk format: schema file, log frames, segments and index."""

Field = tuple[str, str, tuple[int, ...]]
_ALIGN = 8
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


@dataclass(frozen=True)
class Schema:
    """Observation keys and action of the rows of one buffer.

    A row is packed as bookkeeping, then low-dimensional fields (widest dtype first, else in alphabetical order), then
    images, each field aligned to its item size and the row to 8 bytes. Numbers are little-endian.

    Attributes:
        observation: key -> spec; uint8 keys with three dimensions are images.
        action: spec of the normalised action (A,).

    Raises:
        StoreError: a key, shape or dtype cannot be stored.
    """

    observation: dict[str, ArraySpec]
    action: ArraySpec

    def __post_init__(self) -> None:
        if not self.observation:
            raise StoreError("schema: expected at least one observation key, got none")
        if len(self.action.shape) != 1:
            raise StoreError(f"schema: expected an action of shape (A,), got {self.action.shape}")
        for key, spec in [*self.observation.items(), ("action", self.action)]:
            if np.dtype(spec.dtype).kind not in "fiub":
                raise StoreError(f"schema: '{key}' has dtype {spec.dtype}; numbers and booleans can be stored")
            if spec.size == 0:
                raise StoreError(f"schema: '{key}' has shape {spec.shape}; expected at least one element")
        _check_keys(self.observation)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Observation keys that are images, in alphabetical order."""
        return tuple(k for k, s in sorted(self.observation.items()) if s.dtype == "uint8" and len(s.shape) == 3)

    @cached_property
    def low_dim(self) -> tuple[str, ...]:
        """All other observation keys, in alphabetical order."""
        return tuple(k for k in sorted(self.observation) if k not in self.images)

    @cached_property
    def row(self) -> np.dtype[Any]:
        """Dtype of a whole row as it lies in a log."""
        images = [(f"observation/{k}", "u1", self.observation[k].shape) for k in self.images]
        return _layout([*self._numbers, *images])

    @cached_property
    def low_row(self) -> np.dtype[Any]:
        """Dtype of a row without its images: its fields lie where they lie in ``row``, since images come last."""
        return _layout(self._numbers)

    @cached_property
    def _numbers(self) -> list[Field]:
        """Fields of a row that are no images, as they are laid out."""
        numbers = [(f"observation/{k}", self.observation[k]) for k in self.low_dim]
        numbers += [(f"action/{k}", self.action) for k in ("executed", "human", "proposed")]
        head: list[Field] = [
            ("episode", "V16", ()),
            ("stamp_ns", "<i8", ()),
            ("policy_version", "<i8", ()),
            ("reward", "<f8", ()),
            ("index", "<u4", ()),
            ("kind", "u1", ()),
            ("source", "u1", ()),
            ("has_human", "u1", ()),
            ("reserved", "u1", ()),
        ]
        return [*head, *_by_width((n, _little(s.dtype), s.shape) for n, s in numbers)]

    @cached_property
    def sample(self) -> np.dtype[Any]:
        """Dtype of the part of a row that is gathered for a batch (images are gathered apart)."""
        fields: list[Field] = [
            (f"observation/{k}", self.observation[k].dtype, self.observation[k].shape) for k in self.low_dim
        ]
        fields += [("action", self.action.dtype, self.action.shape), ("reward", "f4", ()), ("discount", "f4", ())]
        return _layout([*_by_width(fields), ("demo", "?", ())])

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the layout, written into every log."""
        return f"{zlib.crc32(json.dumps(self.to_json(), sort_keys=True).encode()):08x}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable description."""
        return {
            "format": FORMAT,
            "observation": {k: _describe(self.observation[k]) for k in sorted(self.observation)},
            "action": _describe(self.action),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        """Inverse of ``to_json``.

        Raises:
            StoreError: a format this version does not know.
            CorruptDataError: not a schema at all.
        """
        try:
            found = data["format"]
            if found != FORMAT:
                raise StoreError(f"buffer has format {found}, this version reads format {FORMAT}")
            observation = {k: ArraySpec.from_json(v) for k, v in data["observation"].items()}
            return cls(observation, ArraySpec.from_json(data["action"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptDataError(f"not a buffer schema: {error!r} in {str(data)[:200]}") from error

    def difference(self, other: Schema) -> list[str]:
        """What ``other`` has differently, one line each; empty when they are the same."""
        lines = []
        pairs = [
            (f"observation '{k}'", self.observation.get(k), other.observation.get(k))
            for k in sorted(set(self.observation) | set(other.observation))
        ]
        for name, mine, theirs in [*pairs, ("action", self.action, other.action)]:
            if mine is None or theirs is None:
                lines.append(
                    f"{name}: {'missing' if mine is None else _show(mine)}"
                    f" -> {'missing' if theirs is None else _show(theirs)}"
                )
            elif _describe(mine) != _describe(theirs):
                a, b = _describe(mine), _describe(theirs)
                lines.append(f"{name}: " + ", ".join(f"{k} {a[k]} -> {b[k]}" for k in a if a[k] != b[k]))
        return lines


def _describe(spec: ArraySpec) -> dict[str, Any]:
    """JSON of a spec as it reads after a round trip: bounds given as 1 and 1.0 are the same."""
    return ArraySpec.from_json(spec.to_json()).to_json()


def _check_keys(keys: Iterable[str]) -> None:
    """Keys become names of arrays and folders in a segment."""
    names = set(keys)
    for key in names:
        if not _KEY.fullmatch(key) or key.rpartition("/")[2] == "zarr.json":
            raise StoreError(
                f"schema: observation key '{key}': expected letters, digits, '_', '.', '-', in parts joined by '/'"
            )
        parts = key.split("/")
        above = next((p for p in ("/".join(parts[:n]) for n in range(1, len(parts))) if p in names), None)
        if above is not None:
            raise StoreError(f"schema: observation key '{key}' lies below key '{above}'; expected other names")


def _show(spec: ArraySpec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"


def _little(dtype: str) -> str:
    return np.dtype(dtype).newbyteorder("<").str


def _by_width(fields: Iterable[Field]) -> list[Field]:
    """Widest items first (so that alignment costs nothing), equal ones in the given order."""
    return sorted(fields, key=lambda f: (-np.dtype(f[1]).itemsize, np.dtype(f[1]).str))


def _layout(fields: list[Field]) -> np.dtype[Any]:
    """Structured dtype with every field aligned to its items and the whole to 8 bytes."""
    offsets, end = [], 0
    for _, base, shape in fields:
        dtype = np.dtype(base)
        align = min(dtype.itemsize, _ALIGN)
        start = -(-end // align) * align
        offsets.append(start)
        end = start + dtype.itemsize * int(np.prod(shape))
    return np.dtype(
        {
            "names": [name for name, _, _ in fields],
            "formats": [(base, shape) for _, base, shape in fields],
            "offsets": offsets,
            "itemsize": -(-end // _ALIGN) * _ALIGN,
        }
    )
