"""What the formats share: an episode on its way into a buffer, and how to make one from foreign arrays."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robolearn.buffer.schema import Schema
from robolearn.core.errors import CorruptDataError, MissingDependencyError, StoreError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Kind, Source


@dataclass(frozen=True)
class Summary:
    """What an export or import did.

    Attributes:
        path: what was written.
        episodes, steps: how many were written.
        skipped: episodes that were there already.
        action_low, action_high: (A,) values that became -1 and 1; None when actions were taken as they are.
    """

    path: Path
    episodes: int
    steps: int
    skipped: int = 0
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Steps:
    """All of an episode's rows but the observations: each array has one entry per row, entry 0 is the first row's.

    Attributes:
        executed, proposed, human: (T+1, A) actions that led to a row.
        has_human: (T+1,) bool.
        source, kind: (T+1,) values of ``Source`` and ``Kind``.
        reward: (T+1,) float64.
        policy_version, stamp_ns: (T+1,) int64.
    """

    executed: Array
    proposed: Array
    human: Array
    has_human: Array
    source: Array
    kind: Array
    reward: Array
    policy_version: Array
    stamp_ns: Array


@dataclass(frozen=True)
class Episode:
    """One episode on its way into a buffer.

    Attributes:
        name: how the source calls it, wherever the source lies; part of its id and of messages.
        robot, task: what it was recorded with.
        success, demo: as in the index.
        low_dim: key -> (T+1, *shape).
        images: reads key -> (T+1, H, W, C) uint8.
        steps: the rest of its rows.
        uuid: its id; empty to derive one from name and content.
    """

    name: str
    robot: str
    task: str
    success: bool
    demo: bool
    low_dim: Mapping[str, Array]
    images: Callable[[], Mapping[str, Array]]
    steps: Steps
    uuid: str = ""


@dataclass(frozen=True)
class Assumed:
    """What the user says of episodes where their file does not.

    Attributes:
        robot, task: written into every episode; empty takes the file's.
        demo: they are demonstrations.
        success: they are successes.
        actor: who acted.
    """

    robot: str
    task: str
    demo: bool
    success: bool
    actor: Source


class Reader(Protocol):
    """A source of episodes."""

    @property
    def schema(self) -> Schema:
        """What its episodes hold."""

    @property
    def labels(self) -> Sequence[tuple[str, str]]:
        """(robot, task) of each episode."""

    def episode(self, number: int) -> Episode:
        """Read an episode; its images are read later."""


def require(module: str, extra: str, what: str) -> Any:
    """Import a library that only some formats need.

    Raises:
        MissingDependencyError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} needs {module.partition('.')[0]}: pip install 'robolearn[{extra}]'"
        ) from error


def renamed(
    found: Mapping[str, ArraySpec], names: Mapping[str, str], keys: Mapping[str, str] | None, source: Path
) -> dict[str, str]:
    """Key of the source -> key of the buffer, for those to be imported.

    Args:
        found: what the source has.
        names: proposed name of each.
        keys: the user's choice; None takes all.

    Raises:
        StoreError: a chosen key does not exist, two would get one name, or nothing is left.
    """
    unknown = sorted(set(keys or ()) - set(found))
    if unknown:
        raise StoreError(f"{source}: no observation {unknown} (have: {', '.join(sorted(found))})")
    chosen = {k: names[k] for k in found} if keys is None else dict(keys)
    twice = sorted({n for n in chosen.values() if list(chosen.values()).count(n) > 1})
    if twice:
        raise StoreError(f"{source}: several observations would be called {twice}; give them names with the mapping")
    if not chosen:
        raise StoreError(f"{source}: there are no observations to import")
    return chosen


def inferred_spec(name: str, shape: Sequence[int], dtype: str) -> ArraySpec:
    """Spec of an array nobody described: floats become float32 (policies take nothing else)."""
    kind = np.dtype(dtype)
    image = kind == np.uint8 and len(shape) == 3
    return ArraySpec(name, tuple(shape), "float32" if kind.kind == "f" else kind.name, "rgb" if image else "")


def unit_action(width: int, unit: str = "") -> ArraySpec:
    """Spec of a normalised action (A,)."""
    return ArraySpec("action", (width,), "float32", unit, -1.0, 1.0)


def foreign_steps(action: Array, *, reward: Array, last: Kind, stamp_s: Array, source: Source | Array) -> Steps:
    """Rows of an episode that knows T actions and rewards: each moves one row on, to the observation it led to.

    Args:
        action: (T, A) taken at frame t.
        reward: (T,) earned by it.
        last: how the episode ends.
        stamp_s: (T,) time of frame t [s].
        source: who acted, for all steps or (T,) each.
    """
    count = len(action)
    executed = _shifted(np.asarray(action))
    who = _shifted(
        np.broadcast_to(np.asarray(source, np.uint8), (count,)),
        source[0] if isinstance(source, np.ndarray) and count else source,
    )
    kind = np.full(count + 1, Kind.MID, np.uint8)
    kind[0], kind[-1] = Kind.FIRST, last
    period = float(np.median(np.diff(stamp_s))) if count > 1 else 0.0
    stamps = np.append(np.asarray(stamp_s, np.float64), float(stamp_s[-1]) + period)
    human = who == Source.HUMAN
    human[0] = False
    return Steps(
        executed=executed,
        proposed=executed,
        human=np.where(human[:, None], executed, 0).astype(executed.dtype),
        has_human=human,
        source=who,
        kind=kind,
        reward=_shifted(np.asarray(reward, np.float64)),
        policy_version=np.full(count + 1, -1, np.int64),
        stamp_ns=_nanoseconds(stamps),
    )


def _nanoseconds(seconds: Array) -> Array:
    return np.rint(np.nan_to_num(seconds) * 1e9).astype(np.int64)


def with_last(frames: Array, last: Array | None = None) -> Array:
    """(T+1, ...) observations: the one after the last action, or the last one again where the source has none."""
    return np.concatenate([frames, frames[-1:] if last is None else last[None]])


def _shifted(values: Array, first: Any = 0) -> Array:
    return np.concatenate([np.full_like(values[:1], first), values])


def check_finite(name: str, key: str, values: Array) -> None:
    """Raises CorruptDataError where a number is NaN or infinite."""
    if values.dtype.kind != "f":
        return
    good = np.isfinite(values)
    if not good.all():
        where = np.argwhere(~good)[0]
        raise CorruptDataError(f"{name}: '{key}' row {where[0]}: expected finite numbers, got {values[tuple(where)]}")
