"""Writing foreign episodes into a buffer: checked first, whole or not at all, and repeatable."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from robolearn.buffer.interchange.common import Episode, Reader, Steps, Summary, check_finite
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Kind, Source, Transition

ActionRange = Literal["unit", "data"] | tuple[Sequence[float], Sequence[float]]
"""How actions become normalised: ``unit``: they are within [-1, 1] already, anything else is refused; ``data``: the
smallest and largest value of each dimension become -1 and 1; ``(low, high)``: these become -1 and 1."""

_TOLERANCE = 1e-5


def import_episodes(
    reader: Reader,
    source: Path,
    root: Path,
    *,
    action_range: ActionRange = "unit",
    format_: str,
    writer: str = "imported",
) -> Summary:
    """Check every episode, then write them; an episode is visible only when it is whole.

    Everything but images is checked before the first episode is written. Ids follow from names and content, so calling
    again after an interruption writes only what is missing.

    Raises:
        StoreError: there is nothing to import, or the buffer holds something else.
        CorruptDataError: an episode is damaged; the message names it and the key.
    """
    count = len(reader.labels)
    if not count:
        raise StoreError(f"{source}: there are no episodes to import")
    schema = fitting_schema(root, reader.schema, source)
    scale = _scale(reader, count, schema, action_range, source)
    order = sorted(range(count), key=lambda i: reader.labels[i])
    written = skipped = steps = 0
    done: set[str] = set()
    for (robot, task), group in groupby(order, key=lambda i: reader.labels[i]):
        with Writer(root, schema, name=writer, robot=robot, task=task, partial=False) as out:
            for number in group:
                episode = _converted(reader.episode(number), schema, scale)
                uuid = episode.uuid or content_id(episode, format_)
                if uuid in done or out.has(uuid):
                    skipped += 1
                    continue
                images = episode.images()
                _check_images(episode, images, schema, source)
                for transition in _transitions(episode, images, uuid):
                    out.append(transition)
                out.end_episode(episode.success, demo=episode.demo, wait=False)
                done.add(uuid)
                written += 1
                steps += len(episode.steps.kind) - 1
    low, high = (None, None) if scale is None else (tuple(map(float, s)) for s in scale)
    return Summary(root, written, steps, skipped, low, high)


def fitting_schema(root: Path, schema: Schema, source: Path) -> Schema:
    """The schema of an existing buffer if keys and shapes agree and numbers convert, or the source's for a new one.

    Raises:
        StoreError: they differ; the message shows how.
    """
    if not StorePaths(root).schema.exists():
        return schema
    stored = read_schema(root)
    pairs = [
        (k, stored.observation.get(k), schema.observation.get(k))
        for k in sorted({*stored.observation, *schema.observation})
    ]
    wrong = [
        f"{k}: {_show(a)} -> {_show(b)}"
        for k, a, b in [*pairs, ("action", stored.action, schema.action)]
        if not _same(a, b)
    ]
    if wrong:
        raise StoreError(
            f"{source} does not fit buffer {root} (buffer -> source):\n  "
            + "\n  ".join(wrong)
            + "\nname keys with the mapping"
        )
    return stored


def content_id(episode: Episode, format_: str) -> str:
    """32 hex digits that follow from name and content (images excepted), wherever the source lies."""
    digest = hashlib.blake2b(f"{format_}\0{episode.name}\0{episode.task}".encode(), digest_size=16)
    arrays = {**episode.low_dim, **{f.name: getattr(episode.steps, f.name) for f in dataclasses.fields(Steps)}}
    for key in sorted(arrays):
        digest.update(f"{key}{arrays[key].dtype.str}{arrays[key].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()


def _same(stored: ArraySpec | None, found: ArraySpec | None) -> bool:
    if stored is None or found is None:
        return False
    return stored.shape == found.shape and np.can_cast(found.dtype, stored.dtype, casting="same_kind")


def _show(spec: ArraySpec | None) -> str:
    return "missing" if spec is None else f"{spec.dtype}{list(spec.shape)}"


def _check(episode: Episode, schema: Schema, source: Path) -> None:
    rows, where = len(episode.steps.kind), f"{source}: {episode.name}"
    if rows < 2:
        raise CorruptDataError(f"{where}: expected at least one step, got none")
    columns = [("action", schema.action, episode.steps.executed)]
    columns += [(k, schema.observation[k], episode.low_dim[k]) for k in schema.low_dim]
    for key, spec, values in columns:
        if values.shape != (rows, *spec.shape):
            raise CorruptDataError(f"{where}: '{key}': expected shape {(rows, *spec.shape)}, got {values.shape}")
    for key, values in [
        *((k, v) for k, _, v in columns),
        ("reward", episode.steps.reward),
        ("proposed", episode.steps.proposed),
        ("human", episode.steps.human),
    ]:
        check_finite(where, key, values)


def _check_images(episode: Episode, images: Mapping[str, Array], schema: Schema, source: Path) -> None:
    for key in schema.images:
        expected = (len(episode.steps.kind), *schema.observation[key].shape)
        if images[key].shape != expected or images[key].dtype != np.uint8:
            raise CorruptDataError(
                f"{source}: {episode.name}: '{key}': expected uint8 {expected}, "
                f"got {images[key].dtype} {images[key].shape}"
            )


def _scale(reader: Reader, count: int, schema: Schema, wanted: ActionRange, source: Path) -> tuple[Array, Array] | None:
    """Check all but images; the action values that become -1 and 1, or None to take actions as they are."""
    width = schema.action.shape[0]
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for number in range(count):
        episode = reader.episode(number)
        _check(episode, schema, source)
        actions = episode.steps.executed[1:].astype(np.float64)
        low, high = np.minimum(low, actions.min(0)), np.maximum(high, actions.max(0))
        if wanted == "unit" and (np.abs(actions) > 1 + _TOLERANCE).any():
            raise StoreError(
                f"{source}: {episode.name}: actions are outside [-1, 1]: smallest {_short(actions.min(0))}, largest "
                f"{_short(actions.max(0))}; action_range='data' scales the range of the data to [-1, 1], "
                "(low, high) a range of your own"
            )
    if wanted == "unit":
        return None
    if wanted == "data":
        return low, high
    given = np.asarray(wanted, np.float64)
    if given.shape != (2, width) or not (given[0] < given[1]).all():
        raise StoreError(f"action_range: expected {width} lows below {width} highs, got {wanted}")
    if ((low - given[0]) < -_TOLERANCE).any() or ((high - given[1]) > _TOLERANCE).any():
        raise StoreError(f"{source}: actions from {_short(low)} to {_short(high)} are outside of action_range {wanted}")
    return given[0], given[1]


def _short(values: Array) -> list[float]:
    return [round(float(v), 4) for v in values]


def _converted(episode: Episode, schema: Schema, scale: tuple[Array, Array] | None) -> Episode:
    """With the dtypes of the schema and normalised actions."""

    def normal(actions: Array) -> Array:
        if scale is None:
            return actions.astype(schema.action.dtype)
        low, high = scale
        span = np.where(high > low, high - low, 1.0)
        unit = np.where(high > low, 2 * (actions.astype(np.float64) - low) / span - 1, 0.0)
        unit[0] = 0  # no action led to the first row
        return np.clip(unit, -1, 1).astype(schema.action.dtype)

    s = episode.steps
    human = np.where(s.has_human[:, None], normal(s.human), 0).astype(schema.action.dtype)
    return dataclasses.replace(
        episode,
        low_dim={k: episode.low_dim[k].astype(schema.observation[k].dtype) for k in schema.low_dim},
        steps=dataclasses.replace(s, executed=normal(s.executed), proposed=normal(s.proposed), human=human),
    )


def _transitions(episode: Episode, images: Mapping[str, Array], uuid: str) -> Iterator[Transition]:
    s, observation = episode.steps, {**episode.low_dim, **images}
    for t in range(len(s.kind)):
        kind = Kind(int(s.kind[t]))
        yield Transition(
            episode=uuid,
            index=t,
            observation={k: v[t] for k, v in observation.items()},
            proposed=s.proposed[t],
            executed=s.executed[t],
            human=s.human[t] if s.has_human[t] else None,
            source=Source(int(s.source[t])),
            reward=float(s.reward[t]),
            discount=1.0 if kind.bootstraps else 0.0,
            kind=kind,
            policy_version=int(s.policy_version[t]),
            stamp_ns=int(s.stamp_ns[t]),
        )
