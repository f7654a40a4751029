"""What actor and robot host say to each other, and its form on the wire: labelled runs of float64.

A message is a list of ``(label, values)``; over ROS it is a std_msgs/Float64MultiArray whose layout names the fields,
so ``ros2 topic echo`` shows what is what. Times are nanoseconds of the host's monotonic clock, as two numbers each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from robolearn.core.errors import SpecError
from robolearn.core.spec import Array

Fields = list[tuple[str, Array]]
_OBSERVED = "observation/"
_SECOND = 1_000_000_000
_EXACT = 2**53
"""Whole numbers up to here are exact in a float64."""


class OrderKind(IntEnum):
    """What an order asks for.

    DELTA: a policy action, one control period long. GOTO: move the tip to a pose and stay; sent again and again while
    it is wanted. HOLD: decelerate and hold where the arm is.
    """

    DELTA = 0
    GOTO = 1
    HOLD = 2


class Mode(IntEnum):
    """What a host is doing: nothing, following orders, holding, or stopped until a person clears it."""

    IDLE = 0
    DRIVING = 1
    HOLDING = 2
    STOPPED = 3


@dataclass(frozen=True)
class Order:
    """One command.

    Attributes:
        kind: see ``OrderKind``.
        epoch: epoch of the sender's lease.
        sender: random number of the sending process.
        sequence: rises with every order of a sender.
        answers: number of the report it answers; -1 for none.
        policy_s: time the sender spent between receiving that report and sending this [s].
        values: (7,) action of a DELTA, tip pose of a GOTO (position [m], quaternion wxyz), ignored for a HOLD.
    """

    kind: OrderKind
    epoch: int
    sender: int
    sequence: int
    answers: int
    policy_s: float
    values: Array

    def pack(self) -> Fields:
        """Labelled numbers."""
        head = [int(self.kind), self.epoch, self.sender, self.sequence, self.answers]
        numbers: Fields = [
            (name, np.array([float(value)]))
            for name, value in zip(("kind", "epoch", "sender", "sequence", "answers"), head, strict=True)
        ]
        return [*numbers, ("policy_s", np.array([self.policy_s])), ("values", np.asarray(self.values, dtype=float))]

    @classmethod
    def unpack(cls, fields: Mapping[str, Array]) -> Order:
        """Inverse of ``pack``; raises SpecError when a field is missing or malformed. ``values`` is not judged here."""
        kind, epoch = _whole(fields, "kind"), _whole(fields, "epoch")
        if not 0 <= epoch < _EXACT:
            raise SpecError(f"order: epoch: expected 0 to 2^53, got {epoch}")
        if kind not in tuple(OrderKind):
            raise SpecError(f"order: kind: expected one of {[int(k) for k in OrderKind]}, got {kind}")
        return cls(
            kind=OrderKind(kind),
            epoch=epoch,
            sender=_whole(fields, "sender"),
            sequence=_whole(fields, "sequence"),
            answers=_whole(fields, "answers"),
            policy_s=_number(fields, "policy_s"),
            values=_values(fields, "values"),
        )


@dataclass(frozen=True)
class Report:
    """What the host says once a control period.

    Attributes:
        number: rises by one.
        stamp_ns: when the observation was taken (host's monotonic clock) [ns].
        mode: see ``Mode``.
        epoch: highest epoch seen.
        sender, sequence: last order that was carried out or refused; -1 before the first.
        executed: (7,) action it came to (no motion when it was refused or is no action).
        altered, rejected: it was changed, or refused.
        settled: a GOTO has arrived and the arm is at rest.
        fresh: the observation can be trusted; False while the arm's feedback is missing, old or frozen.
        latency_s: from the stamp of the observation that was answered to the application of the order, less the
            sender's policy time [s]; NaN when nothing was answered.
        observation: key -> numbers, see ``robolearn.hal.host.core.observation_spec``.
    """

    number: int
    stamp_ns: int
    mode: Mode
    epoch: int
    sender: int
    sequence: int
    executed: Array
    altered: bool
    rejected: bool
    settled: bool
    fresh: bool
    latency_s: float
    observation: Mapping[str, Array] = field(default_factory=dict)

    def pack(self) -> Fields:
        """Labelled numbers."""
        head = {
            "number": self.number,
            "stamp_s": self.stamp_ns // _SECOND,
            "stamp_rest_ns": self.stamp_ns % _SECOND,
            "mode": int(self.mode),
            "epoch": self.epoch,
            "sender": self.sender,
            "sequence": self.sequence,
            "altered": self.altered,
            "rejected": self.rejected,
            "settled": self.settled,
            "fresh": self.fresh,
            "latency_s": self.latency_s,
        }
        fields: Fields = [(name, np.array([float(value)])) for name, value in head.items()]
        fields.append(("executed", np.asarray(self.executed, dtype=float)))
        return fields + [(_OBSERVED + key, np.asarray(value).ravel()) for key, value in self.observation.items()]

    @classmethod
    def unpack(cls, fields: Mapping[str, Array]) -> Report:
        """Inverse of ``pack``; raises SpecError when a field is missing or malformed."""
        mode = _whole(fields, "mode")
        if mode not in tuple(Mode):
            raise SpecError(f"report: mode: expected one of {[int(m) for m in Mode]}, got {mode}")
        return cls(
            number=_whole(fields, "number"),
            stamp_ns=_whole(fields, "stamp_s") * _SECOND + _whole(fields, "stamp_rest_ns"),
            mode=Mode(mode),
            epoch=_whole(fields, "epoch"),
            sender=_whole(fields, "sender"),
            sequence=_whole(fields, "sequence"),
            executed=_values(fields, "executed"),
            altered=bool(_whole(fields, "altered")),
            rejected=bool(_whole(fields, "rejected")),
            settled=bool(_whole(fields, "settled")),
            fresh=bool(_whole(fields, "fresh")),
            latency_s=_number(fields, "latency_s"),
            observation={key.removeprefix(_OBSERVED): v for key, v in fields.items() if key.startswith(_OBSERVED)},
        )


def split(labels: Sequence[tuple[str, int]], data: Array) -> dict[str, Array]:
    """Label -> values of a flat message; raises SpecError when the sizes do not add up."""
    found: dict[str, Array] = {}
    start = 0
    for label, size in labels:
        found[label] = data[start : start + size]
        start += size
    if start != len(data) or any(size < 0 for _, size in labels):
        raise SpecError(f"message: expected {start} numbers for its {len(labels)} fields, got {len(data)}")
    return found


def _values(fields: Mapping[str, Array], name: str) -> Array:
    if name not in fields:
        raise SpecError(f"message: no field '{name}' (have: {', '.join(sorted(fields))})")
    return fields[name]


def _number(fields: Mapping[str, Array], name: str) -> float:
    values = _values(fields, name)
    if values.shape != (1,):
        raise SpecError(f"message: {name}: expected one number, got {len(values)}")
    return float(values[0])


def _whole(fields: Mapping[str, Array], name: str) -> int:
    value = _number(fields, name)
    if not value.is_integer():
        raise SpecError(f"message: {name}: expected a whole number, got {value}")
    return int(value)
