"""Transitions to packed rows and back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.index import EpisodeRecord, State
from robolearn.buffer.log import HEAD, FrameType, seal_frame
from robolearn.buffer.schema import Schema
from robolearn.core.errors import SpecError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Kind, Source, Transition


class RowPacker:
    """Packs transitions into one reused ROW frame."""

    def __init__(self, schema: Schema) -> None:
        self._specs = schema.observation
        self._action = schema.action
        self._frame = bytearray(HEAD.size + schema.row.itemsize)
        self._row: NDArray[Any] = np.frombuffer(self._frame, dtype=schema.row, offset=HEAD.size)
        self._fields = {name: self._row[name][0:1] for name in schema.row.names or ()}
        self._floats = [f for f in self._fields.values() if f.dtype.kind == "f"]
        self._finite = _float_blocks(self._frame, schema.row)

    def pack(self, t: Transition) -> bytearray:
        """The frame of a transition, valid until the next call.

        Raises:
            SpecError: an array has another shape or dtype than the schema's, or a number is not finite.
        """
        fields = self._fields
        if t.observation.keys() != self._specs.keys():
            missing, extra = (
                sorted(set(self._specs) - set(t.observation)),
                sorted(set(t.observation) - set(self._specs)),
            )
            raise SpecError(f"observation keys differ: missing {missing}, unexpected {extra}")
        for key, spec in self._specs.items():
            fields[f"observation/{key}"][0] = _fitting(spec, key, t.observation[key])
        fields["action/proposed"][0] = _fitting(self._action, "proposed", t.proposed)
        fields["action/executed"][0] = _fitting(self._action, "executed", t.executed)
        fields["action/human"][0] = 0 if t.human is None else _fitting(self._action, "human", t.human)
        fields["has_human"][0] = t.human is not None
        fields["episode"][0] = bytes.fromhex(t.episode)
        fields["index"][0], fields["kind"][0], fields["source"][0] = t.index, t.kind, t.source
        fields["reward"][0], fields["policy_version"][0], fields["stamp_ns"][0] = t.reward, t.policy_version, t.stamp_ns
        if not all(np.isfinite(block).all() for block in self._finite):
            self._name_what_is_not_finite()
        seal_frame(self._frame, FrameType.ROW)
        return self._frame

    def _name_what_is_not_finite(self) -> None:
        for name, field in self._fields.items():
            if field.dtype.kind == "f" and not np.isfinite(field).all():
                raise SpecError(f"{name}: expected finite numbers, got {field[0]}")


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


class Tally:
    """What the index wants to know of the rows of an episode, counted as they come."""

    def __init__(self, uuid: str, offset: int, unix_ns: int) -> None:
        self.uuid, self.offset, self.unix_ns = uuid, offset, unix_ns
        self.rows = 0
        self.kind = Kind.FIRST
        self.total_reward = 0.0
        self._sources: Counter[Source] = Counter()
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
        source = max(self._sources, key=lambda s: (self._sources[s], -s), default=Source.POLICY)
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


def _fitting(spec: ArraySpec, name: str, value: Array) -> Array:
    """``value`` if shape and dtype fit the spec, without looking at bounds: what happened is stored as it was."""
    value = np.asarray(value)
    if value.shape != spec.shape:
        raise SpecError(f"{name}: expected shape {spec.shape}, got {value.shape}")
    if value.dtype != spec.dtype and not np.can_cast(value.dtype, spec.dtype, casting="same_kind"):
        raise SpecError(f"{name}: expected dtype {spec.dtype}, got {value.dtype}")
    return value


def _native(value: Any) -> Array:
    array = np.asarray(value)
    return array.astype(array.dtype.newbyteorder("="))


def _float_blocks(frame: bytearray, row: np.dtype[Any]) -> list[NDArray[Any]]:
    """Views over runs of neighbouring float fields: few calls check a whole row."""
    blocks: list[tuple[np.dtype[Any], int, int]] = []
    for name in row.names or ():
        dtype, offset = row.fields[name][:2]  # type: ignore[index]
        base = dtype.base
        if base.kind != "f" or dtype.itemsize == 0:
            continue
        if blocks and blocks[-1][0] == base and blocks[-1][2] == offset:
            blocks[-1] = (base, blocks[-1][1], offset + dtype.itemsize)
        else:
            blocks.append((base, offset, offset + dtype.itemsize))
    return [
        np.frombuffer(frame, dtype=base, count=(end - start) // base.itemsize, offset=HEAD.size + start)
        for base, start, end in blocks
    ]
