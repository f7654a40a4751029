"""Episodes of a toy in which success can be seen: a slider that reaches its end, or gets stuck."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Kind, Source, Transition

SIZE = 6
STATE = Schema(
    {"slider": ArraySpec("slider", (SIZE,)), "step": ArraySpec("step", (), "int64")},
    ArraySpec("action", (2,), low=-1.0, high=1.0),
)
PIXELS = Schema({"camera": ArraySpec("camera", (12, 16, 3), "uint8")}, STATE.action)


def episode(
    number: int, *, success: bool, schema: Schema = STATE, humans: tuple[int, ...] = (), end: Kind | None = None
) -> list[Transition]:
    """A slider that moves by about 0.1 a step up to 1 (``success``) or 0.6; the other numbers of its key are noise.

    The camera shows a bar that is as long as the slider is far. A human executed the steps in ``humans``.
    """
    rng = np.random.default_rng([number, 5])
    goal = 1.0 if success else 0.6
    places = [0.0]
    while places[-1] < goal and len(places) < 18:
        places.append(min(places[-1] + float(rng.uniform(0.06, 0.14)), goal))
    if not success:
        places += [0.6 + 0.01 * float(rng.normal()) for _ in range(4)]
    kind = end or (Kind.TERMINATED if success else Kind.TRUNCATED)
    kinds = [Kind.FIRST, *[Kind.MID] * (len(places) - 2), kind]
    rows = []
    for index, (place, what) in enumerate(zip(places, kinds, strict=True)):
        action = rng.uniform(-1, 1, 2).astype(np.float32) * (index > 0)
        human = index in humans
        rows.append(
            Transition(
                episode=uuid.uuid5(uuid.NAMESPACE_OID, f"slider {number}").hex,
                index=index,
                observation=frame(place, index, rng, schema),
                proposed=action,
                executed=action,
                human=action if human else None,
                source=Source.HUMAN if human else Source.POLICY,
                reward=float(success and what.is_last),
                discount=1.0 if what.bootstraps else 0.0,
                kind=what,
                policy_version=3,
                stamp_ns=int(1e8 * (1000 * number + index)),
            )
        )
    return rows


def frame(place: float, index: int, rng: np.random.Generator, schema: Schema = STATE) -> dict[str, Array]:
    """What is seen of a slider that is at ``place``."""
    if schema is PIXELS:
        image = rng.integers(0, 60, (12, 16, 3)).astype(np.uint8)
        image[3:9, : round(16 * place)] += 150
        return {"camera": image}
    slider = rng.normal(size=SIZE).astype(np.float32)
    slider[0] = place
    return {"slider": slider, "step": np.int64(index)}


def write(
    root: Path, successes: int, failures: int, *, schema: Schema = STATE, first: int = 0, humans: tuple[int, ...] = ()
) -> dict[str, list[Transition]]:
    """A buffer of such episodes; episode id -> its rows."""
    written = {}
    with Writer(root, schema, name="slider", robot="arm", task="slide", unix_ns=lambda: 77) as writer:
        for number in range(first, first + successes + failures):
            success = number < first + successes
            rows = episode(number, success=success, schema=schema, humans=humans)
            for row in rows:
                writer.append(row)
            writer.end_episode(success, demo=number % 2 == 0, wait=False)
            written[rows[0].episode] = rows
    return written
