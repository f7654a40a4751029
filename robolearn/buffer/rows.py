"""Transitions to packed rows and back."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.index import EpisodeRecord, State
from robolearn.buffer.log import HEAD, FrameSeal, FrameType, new_frame
from robolearn.buffer.schema import Schema
from robolearn.core.errors import SpecError, StoreError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Kind, Source, Transition

_BOOKKEEPING = struct.Struct("<16sqqdIBBBB")
_BOOKKEEPING_FIELDS = (
    "episode", "stamp_ns", "policy_version", "reward", "index", "kind", "source", "has_human", "reserved",
)  # fmt: skip


class RowPacker:
    """Packs transitions into one reused ROW frame."""

    def __init__(self, schema: Schema) -> None:
        self._frame = new_frame(FrameType.ROW, schema.row.itemsize)
        self._seal = FrameSeal(self._frame)
        row: NDArray[Any] = np.frombuffer(self._frame, dtype=schema.row, offset=HEAD.size)
        _check_bookkeeping(schema.row)
        self._keys = schema.observation.keys()
        self._fields = [
            _Field(key, spec, row[f"observation/{key}"].squeeze(0)) for key, spec in schema.observation.items()
        ]
        self._proposed, self._executed, self._human = (
            _Field(name, schema.action, row[f"action/{name}"].squeeze(0)) for name in ("proposed", "executed", "human")
        )
        self._finite = [_Finite(block) for block in _float_blocks(self._frame, schema.row)]

    def pack(self, t: Transition, *, episode: str | None = None, index: int | None = None) -> bytearray:
        """The frame of a transition, valid until the next call; ``episode`` and ``index`` replace its own.

        Raises:
            SpecError: an array has another shape or dtype than the schema's, or a number is not finite.
        """
        if t.observation.keys() != self._keys:
            missing, extra = sorted(self._keys - t.observation.keys()), sorted(t.observation.keys() - self._keys)
            raise SpecError(f"observation keys differ: missing {missing}, unexpected {extra}")
        for field in self._fields:
            field.put(t.observation[field.name])
        self._proposed.put(t.proposed)
        self._executed.put(t.executed)
        if t.human is None:
            self._human.place[...] = 0
        else:
            self._human.put(t.human)
        if not (math.isfinite(t.reward) and all(block.is_finite() for block in self._finite)):
            self._name_what_is_not_finite(t.reward)
        name = bytes.fromhex(t.episode if episode is None else episode)
        number = t.index if index is None else index
        try:
            _BOOKKEEPING.pack_into(
                self._frame, HEAD.size,
                name, t.stamp_ns, t.policy_version, t.reward, number, t.kind, t.source, t.human is not None, 0,
            )  # fmt: skip
        except struct.error as error:
            raise SpecError(
                f"row {number}: expected whole numbers for stamp_ns, policy_version and index, got {t.stamp_ns!r}, "
                f"{t.policy_version!r}, {number!r}: {error}"
            ) from error
        self._seal()
        return self._frame

    def _name_what_is_not_finite(self, reward: float) -> None:
        fields = [(f"observation/{f.name}", f.place) for f in self._fields]
        fields += [(f"action/{f.name}", f.place) for f in (self._proposed, self._executed, self._human)]
        found = [field for field in fields if field[1].dtype.kind == "f" and not np.isfinite(field[1]).all()]
        name, value = found[0] if found else ("reward", reward)
        raise SpecError(f"{name}: expected finite numbers, got {value}")


class _Field:
    """Where a value goes in the frame."""

    def __init__(self, name: str, spec: ArraySpec, place: NDArray[Any]) -> None:
        self.name, self.place = name, place
        self._spec, self._shape, self._dtype = spec, spec.shape, np.dtype(spec.dtype)

    def put(self, value: Array) -> None:
        """Copy a value of the right shape and kind, without looking at bounds: what happened is stored as it was."""
        if type(value) is not np.ndarray or value.dtype != self._dtype or value.shape != self._shape:
            value = np.asarray(value)
            if value.shape != self._shape:
                raise SpecError(f"{self.name}: expected shape {self._shape}, got {value.shape}")
            if not np.can_cast(value.dtype, self._dtype, casting="same_kind"):
                raise SpecError(f"{self.name}: expected dtype {self._spec.dtype}, got {value.dtype}")
        self.place[...] = value


class _Finite:
    """Whether a run of floats is finite, without allocating."""

    def __init__(self, block: NDArray[Any]) -> None:
        self._block, self._bytes = block, bytearray(len(block))
        self._out = np.frombuffer(self._bytes, bool)

    def is_finite(self) -> bool:
        """True when every number is."""
        np.isfinite(self._block, out=self._out)
        return 0 not in self._bytes


def unpack(row: Any, schema: Schema) -> Transition:
    """Inverse of ``pack``: one row (a record of ``schema.row``) as a transition with its own arrays."""
    kind = Kind(int(row["kind"]))
    return Transition(
        episode=bytes(row["episode"]).hex(),
        index=int(row["index"]),
        observation={k: _native(row[f"observation/{k}"]) for k in schema.observation},
        proposed=_native(row["action/proposed"]),
        executed=_native(row["action/executed"]),
        human=_native(row["action/human"]) if row["has_human"] else None,
        source=Source(int(row["source"])),
        reward=float(row["reward"]),
        discount=1.0 if kind.bootstraps else 0.0,
        kind=kind,
        policy_version=int(row["policy_version"]),
        stamp_ns=int(row["stamp_ns"]),
    )


def first_row(last: Transition, episode: str) -> Transition:
    """Row 0 of an episode that goes on from the last row of another."""
    zeros = np.zeros_like(last.executed)
    return replace(
        last, episode=episode, index=0, proposed=zeros, executed=zeros, human=None, source=Source.POLICY, reward=0.0,
        discount=1.0, kind=Kind.FIRST,
    )  # fmt: skip


class Tally:
    """What the index wants to know of the rows of an episode, counted as they come."""

    def __init__(self, uuid: str, offset: int, unix_ns: int) -> None:
        self.uuid, self.offset, self.unix_ns = uuid, offset, unix_ns
        self.rows = 0
        self.kind = Kind.FIRST
        self.total_reward = 0.0
        self._sources = [0] * len(Source)  # rows by who acted
        self._policy = (-1, -1)
        self._stamps = (0, 0)

    def add(self, kind: Kind, source: Source, reward: float, policy_version: int, stamp_ns: int) -> None:
        """Count one row."""
        if self.rows == 0:
            self._stamps = (stamp_ns, stamp_ns)
        else:
            low, high = self._policy if self.rows > 1 else (policy_version, policy_version)
            self._policy = (min(low, policy_version), max(high, policy_version))
            self._stamps = (self._stamps[0], stamp_ns)
            self._sources[source] += 1
            self.total_reward += float(reward)
        self.kind = kind
        self.rows += 1

    def record(
        self,
        state: State,
        *,
        writer: str,
        log: str,
        robot: str,
        task: str,
        demo: bool,
        success: bool = False,
        recovered: bool = False,
    ) -> EpisodeRecord:
        """Index entry of the rows so far; a complete one that did not end in a terminal state is truncated."""
        source = Source(self._sources.index(max(self._sources)))  # the first of equals
        return EpisodeRecord(
            uuid=self.uuid,
            writer=writer,
            log=log,
            offset=self.offset,
            rows=self.rows,
            state=state,
            robot=robot,
            task=task,
            source=source.name.lower(),
            demo=bool(demo),
            success=bool(success),
            interventions=self._sources[Source.HUMAN],
            total_reward=self.total_reward,
            policy_min=int(self._policy[0]),
            policy_max=int(self._policy[1]),
            truncated=state == "complete" and self.kind is not Kind.TERMINATED,
            recovered=recovered,
            first_stamp_ns=int(self._stamps[0]),
            last_stamp_ns=int(self._stamps[1]),
            unix_ns=int(self.unix_ns),
        )


def _check_bookkeeping(row: np.dtype[Any]) -> None:
    """The one ``struct`` call that packs the bookkeeping must agree with the dtype."""
    end = 0
    for name in _BOOKKEEPING_FIELDS:
        dtype, offset = row.fields[name][:2]  # type: ignore[index]
        if offset != end:
            raise StoreError(f"schema: expected '{name}' at byte {end} of a row, found it at {offset}")
        end += dtype.itemsize


def _native(value: Any) -> Array:
    array = np.asarray(value)
    return array.astype(array.dtype.newbyteorder("="))


def _float_blocks(frame: bytearray, row: np.dtype[Any]) -> list[NDArray[Any]]:
    """Views over runs of neighbouring float arrays: few calls check a whole row."""
    blocks: list[tuple[np.dtype[Any], int, int]] = []
    for name in row.names or ():
        dtype, offset = row.fields[name][:2]  # type: ignore[index]
        base = dtype.base
        if name in _BOOKKEEPING_FIELDS or base.kind != "f" or dtype.itemsize == 0:
            continue
        if blocks and blocks[-1][0] == base and blocks[-1][2] == offset:
            blocks[-1] = (base, blocks[-1][1], offset + dtype.itemsize)
        else:
            blocks.append((base, offset, offset + dtype.itemsize))
    return [
        np.frombuffer(frame, dtype=base, count=(end - start) // base.itemsize, offset=HEAD.size + start)
        for base, start, end in blocks
    ]
