"""Where LeRobotDataset v3.0 keeps things, and which of its features hold what of our rows.

A LeRobot frame holds an observation and the action taken *there*; in ours, row t holds the action that led to
observation t. Frame t of an episode of T steps is therefore: the observation of row t, and action, reward and end of
row t+1. There are T frames. The observation after the last action has no frame; it lies in ``meta/robolearn``, which
other readers pass over.

Features of a frame:

| feature | meaning |
|---|---|
| ``observation.state`` | all float32 numbers of the observation, in alphabetical order of their keys |
| ``observation.<key>`` | other numbers, one feature per key |
| ``observation.images.<key>`` | images of one or three channels, PNG or video |
| ``action`` | executed action, normalised to [-1, 1] |
| ``next.reward`` | reward of the action |
| ``next.done`` | the episode ended with it, terminal or not |
| ``next.truncated`` | it ended without a terminal state: bootstrap from here |
| ``next.success`` | it ended with success |
| ``complementary_info.is_intervention`` | a human executed the action |
| ``robolearn.proposed`` | action the policy proposed |
| ``robolearn.human``, ``robolearn.has_human`` | the human's action, and whether there was one |
| ``robolearn.source`` | who executed: 0 policy, 1 human, 2 script, 3 safety |
| ``robolearn.policy_version`` | weights that acted; -1 for none |
| ``robolearn.stamp_ns`` | monotonic time of the observation [ns] |

``meta/robolearn/schema.json`` holds the schema and where each key lies; ``meta/robolearn/episodes.parquet`` per episode
its id, robot, task, success, demo, what only row 0 knows, and the last observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robolearn.buffer.schema import Schema
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import ArraySpec

VERSION = "v3.0"
FILES_PER_CHUNK = 1000
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA = f"data/{FILE}.parquet"
VIDEO = f"videos/{{video_key}}/{FILE}.mp4"
EPISODES = "meta/episodes"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
OWN_SCHEMA, OWN_EPISODES = "meta/robolearn/schema.json", "meta/robolearn/episodes.parquet"
STATE, ACTION, REWARD = "observation.state", "action", "next.reward"
DONE, TRUNCATED, SUCCESS = "next.done", "next.truncated", "next.success"
INTERVENTION = "complementary_info.is_intervention"

COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Columns every LeRobot dataset has."""

Feature = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where an observation key lies.

    Attributes:
        feature: name of the feature.
        start: its first number in the feature, for keys that share one; -1 for the whole feature.
    """

    feature: str
    start: int = -1


def places(schema: Schema) -> dict[str, Place]:
    """Key -> place of every observation of a schema.

    Raises:
        StoreError: two keys would share a name.
    """
    found, start = {}, 0
    for key in schema.low_dim:
        spec = schema.observation[key]
        if spec.dtype == "float32":
            found[key] = Place(STATE, start)
            start += spec.size
        else:
            found[key] = Place(f"observation.{_name(key)}")
    for key in schema.images:
        pixels = schema.observation[key].shape[-1] in (1, 3)
        found[key] = Place(f"observation.images.{_name(key)}" if pixels else f"observation.{_name(key)}")
    names = [p.feature for p in found.values() if p.start < 0] + ([STATE] if start else [])
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise StoreError(f"LeRobot has no '/' in names, and without it several observations are called {twice}")
    return found


def features(schema: Schema, *, video: bool) -> dict[str, Feature]:
    """``features`` of ``info.json``."""
    found: dict[str, Feature] = {}
    state: list[str] = []
    for key, place in places(schema).items():
        spec = schema.observation[key]
        if place.start >= 0:
            state += [key] if spec.size == 1 else [f"{key}.{i}" for i in range(spec.size)]
            found[STATE] = _feature("float32", (len(state),), list(state))
        elif place.feature.startswith("observation.images."):
            moving = video and spec.shape[-1] == 3
            found[place.feature] = _feature("video" if moving else "image", spec.shape, ["height", "width", "channels"])
        else:
            found[place.feature] = _feature(spec.dtype, spec.shape or (1,), None)
    action = (schema.action.dtype, schema.action.shape)
    found[ACTION] = _feature(*action, None)
    found[REWARD] = _feature("float64", (1,), None)
    for name in (DONE, TRUNCATED, SUCCESS, INTERVENTION, "robolearn.has_human"):
        found[name] = _feature("bool", (1,), None)
    found["robolearn.proposed"] = _feature(*action, None)
    found["robolearn.human"] = _feature(*action, None)
    for name in ("robolearn.source", "robolearn.policy_version", "robolearn.stamp_ns"):
        found[name] = _feature("int64", (1,), None)
    return found | {name: _feature(dtype, (1,), None) for name, dtype in COUNTERS.items()}


def own_schema(schema: Schema) -> dict[str, Any]:
    """Content of ``OWN_SCHEMA``."""
    return {
        "version": 1,
        "observation": {k: s.to_json() for k, s in sorted(schema.observation.items())},
        "action": schema.action.to_json(),
        "places": {k: [p.feature, p.start] for k, p in sorted(places(schema).items())},
        "index_shift": "frame t: observation of row t; action, reward and end of row t+1",
    }


def read_own_schema(data: Mapping[str, Any], where: str) -> tuple[Schema, dict[str, Place]]:
    """Inverse of ``own_schema``.

    Raises:
        CorruptDataError: it is something else.
    """
    try:
        if data["version"] != 1:
            raise StoreError(f"{where}: version {data['version']}, this robolearn reads version 1")
        observation = {k: ArraySpec.from_json(v) for k, v in data["observation"].items()}
        where_is = {k: Place(str(f), int(s)) for k, (f, s) in data["places"].items()}
        if where_is.keys() != observation.keys():
            raise ValueError("places and observations differ")
        return Schema(observation, ArraySpec.from_json(data["action"])), where_is
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptDataError(f"{where} is damaged: {error!r}") from error


def file_numbers(file: int) -> dict[str, int]:
    """Chunk and number within it of the n-th file."""
    return {"chunk_index": file // FILES_PER_CHUNK, "file_index": file % FILES_PER_CHUNK}


def _feature(dtype: str, shape: tuple[int, ...], names: list[str] | None) -> Feature:
    return {
        "dtype": np.dtype(dtype).name if dtype not in ("image", "video") else dtype,
        "shape": list(shape),
        "names": names,
    }


def _name(key: str) -> str:
    return key.replace("/", ".")
