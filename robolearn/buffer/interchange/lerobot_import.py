"""A LeRobotDataset v3.0 into a buffer; ``lerobot_layout`` says which feature holds what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.buffer.interchange import lerobot_layout as layout
from robolearn.buffer.interchange.common import (
    Assumed,
    Episode,
    Steps,
    Summary,
    foreign_steps,
    inferred_spec,
    renamed,
    require,
    unit_action,
    with_last,
)
from robolearn.buffer.interchange.importing import ActionRange, import_episodes
from robolearn.buffer.interchange.lerobot_frames import Frames, read_json
from robolearn.buffer.interchange.parquet import Tables
from robolearn.buffer.interchange.pictures import from_picture
from robolearn.buffer.schema import Schema
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import Array
from robolearn.core.types import Kind, Source


def import_lerobot(
    source: Path,
    root: Path,
    *,
    keys: Mapping[str, str] | None = None,
    action_range: ActionRange = "unit",
    robot: str = "",
    task: str = "",
    demo: bool = True,
    success: bool = False,
    actor: Source = Source.HUMAN,
) -> Summary:
    """Import all episodes of a LeRobotDataset v3.0, one in memory at a time; call again to go on after an interruption.

    What ``export_lerobot`` wrote comes back as it was; the options below are then not used. Of other datasets:
    observations are the features ``observation.*`` (without that prefix, and ``images.``); floats become float32; the
    observation after the last action, which the format lacks, is the last one again. An episode ends TERMINATED if its
    last frame has ``next.done`` and not ``next.truncated`` nor a false ``next.success``, else TRUNCATED.

    Args:
        source: directory of the dataset.
        root: the buffer; made when it does not exist.
        keys: feature -> key of the buffer; only these are imported.
        action_range: see ``ActionRange``.
        robot, task: written into every episode; empty takes the dataset's.
        demo: they are demonstrations.
        success: they are successes, where the dataset has no ``next.success``.
        actor: who acted, where the dataset has no ``complementary_info.is_intervention``.

    Raises:
        StoreError: it is no such dataset, or does not fit.
        CorruptDataError: a file is damaged; the message names episode and key.
        MissingDependencyError: pyarrow is not installed.
    """
    require("pyarrow", "interchange", "LeRobot import")
    with Tables(source) as tables:
        dataset = Frames(source, tables)
        own = source / layout.OWN_SCHEMA
        if own.exists():
            if keys is not None or action_range != "unit":
                raise StoreError(
                    f"{source} was exported by robolearn and comes back as it was; leave out keys and action_range"
                )
            reader: _Own | _Foreign = _Own(dataset, read_json(own))
        else:
            reader = _Foreign(dataset, keys, Assumed(robot, task, demo, success, actor))
        try:
            return import_episodes(reader, source, root, action_range=action_range, format_="lerobot")
        finally:
            dataset.video.close()


class _Own:
    """A dataset that ``export_lerobot`` wrote."""

    def __init__(self, dataset: Frames, own: Mapping[str, Any]) -> None:
        self._dataset = dataset
        self.schema, self._places = layout.read_own_schema(own, layout.OWN_SCHEMA)
        missing = sorted({p.feature for p in self._places.values()} - dataset.features.keys())
        if missing:
            raise CorruptDataError(
                f"{dataset.root}: {layout.OWN_SCHEMA} names features that {layout.INFO} lacks: {missing}"
            )
        entries = dataset.tables.all(layout.OWN_EPISODES, lambda key: not key.startswith("last."))
        lengths = [dataset.length(i) for i in range(len(dataset.episodes))]
        if [e["length"] for e in entries] != lengths:
            raise CorruptDataError(
                f"{dataset.root}: episodes were changed since robolearn exported them; remove meta/robolearn to import "
                "what is left as a foreign dataset"
            )
        self._entries = entries
        self.labels = [(str(e["robot"]), str(e["task"])) for e in entries]

    def episode(self, number: int) -> Episode:
        """Rows of an episode."""
        entry, schema, places = self._entries[number], self.schema, self._places
        low = sorted({places[k].feature for k in schema.low_dim})
        extra = [
            "robolearn.proposed",
            "robolearn.human",
            "robolearn.has_human",
            "robolearn.source",
            "robolearn.policy_version",
        ]
        names = [*low, layout.ACTION, layout.REWARD, layout.TRUNCATED, *extra, "robolearn.stamp_ns"]
        frames = self._dataset.columns(number, names)
        last = self._last(number)
        low_dim = {}
        for key in schema.low_dim:
            spec, place = schema.observation[key], places[key]
            values = frames[place.feature]
            if place.start >= 0:
                values = values.reshape(len(values), -1)[:, place.start : place.start + spec.size]
            low_dim[key] = with_last(
                values.reshape(-1, *spec.shape).astype(spec.dtype), _decoded(last[key], spec.dtype, spec.shape)
            )
        width = schema.action.shape

        def later(name: str, first: Any, shape: tuple[int, ...] = ()) -> Array:
            values = frames[name].reshape(-1, *shape)
            return np.concatenate([np.full((1, *shape), first, values.dtype), values])

        kind = np.full(len(frames[layout.ACTION]) + 1, Kind.MID, np.uint8)
        kind[0] = Kind.FIRST
        kind[-1] = Kind.TRUNCATED if frames[layout.TRUNCATED][-1] else Kind.TERMINATED
        steps = Steps(
            executed=later(layout.ACTION, 0, width),
            proposed=later("robolearn.proposed", 0, width),
            human=later("robolearn.human", 0, width),
            has_human=later("robolearn.has_human", False),
            source=later("robolearn.source", entry["first_source"]).astype(np.uint8),
            kind=kind,
            reward=later(layout.REWARD, 0.0),
            policy_version=later("robolearn.policy_version", entry["first_policy_version"]),
            stamp_ns=np.append(frames["robolearn.stamp_ns"], np.int64(entry["last_stamp_ns"])),
        )
        return Episode(
            name=self._dataset.name(number),
            robot=entry["robot"],
            task=entry["task"],
            success=bool(entry["success"]),
            demo=bool(entry["demo"]),
            low_dim=low_dim,
            images=lambda: {k: self._images(number, k, last[k]) for k in schema.images},
            steps=steps,
            uuid=entry["uuid"],
        )

    def _last(self, number: int) -> dict[str, bytes]:
        table = self._dataset.tables.rows(
            layout.OWN_EPISODES, [f"last.{k}" for k in self.schema.observation], number, 1
        )
        return {k: table.column(f"last.{k}")[0].as_py() for k in self.schema.observation}

    def _images(self, number: int, key: str, last: bytes) -> Array:
        shape, feature = self.schema.observation[key].shape, self._places[key].feature
        pixels = self._dataset.features[feature]["dtype"] in ("image", "video")
        end = from_picture(last, shape) if pixels else _decoded(last, "uint8", shape)
        return with_last(self._dataset.pictures(number, feature, shape), end)


class _Foreign:
    """A dataset that others wrote."""

    def __init__(self, dataset: Frames, keys: Mapping[str, str] | None, assumed: Assumed) -> None:
        self._dataset, self._assumed = dataset, assumed
        features = dataset.features
        if layout.ACTION not in features:
            raise StoreError(f"{dataset.root}: there is no feature 'action'")
        specs = {}
        for name, feature in features.items():
            picture = feature["dtype"] in ("image", "video")
            if name.startswith("observation") and (picture or _is_number(feature["dtype"])):
                shape = dataset.shapes[name]
                if picture and shape[0] in (1, 3) and shape[-1] not in (1, 3):  # (C, H, W)
                    shape = (*shape[1:], shape[0])
                specs[name] = inferred_spec(name, shape, "uint8" if picture else feature["dtype"])
        names = renamed(specs, _short_names(list(specs)), keys, dataset.root)
        self._feature = {key: name for name, key in names.items()}
        width = int(np.prod(dataset.shapes[layout.ACTION]))
        self.schema = Schema({k: _named(specs[n], k) for k, n in self._feature.items()}, unit_action(width))
        kind = assumed.robot or str(dataset.info.get("robot_type") or "unknown")
        self.labels = [(kind, assumed.task or self._task(i)) for i in range(len(dataset.episodes))]

    def episode(self, number: int) -> Episode:
        """Rows of an episode."""
        dataset, schema = self._dataset, self.schema
        optional = (layout.REWARD, layout.DONE, layout.TRUNCATED, layout.SUCCESS, layout.INTERVENTION, "timestamp")
        extra = [n for n in optional if n in dataset.features]
        frames = dataset.columns(number, [*(self._feature[k] for k in schema.low_dim), layout.ACTION, *extra])
        count = len(frames[layout.ACTION])
        if not count:
            raise CorruptDataError(f"{dataset.root}: {dataset.name(number)}: expected at least one frame, got none")

        def flag(name: str, default: bool) -> bool:
            return bool(frames[name][-1]) if name in frames else default

        success = flag(layout.SUCCESS, self._assumed.success)
        terminal = flag(layout.DONE, False) and not flag(layout.TRUNCATED, False) and flag(layout.SUCCESS, True)
        actor: Source | Array = self._assumed.actor
        if layout.INTERVENTION in frames:
            actor = np.where(frames[layout.INTERVENTION].astype(bool), Source.HUMAN, Source.POLICY).astype(np.uint8)
        robot, task = self.labels[number]
        return Episode(
            name=dataset.name(number),
            robot=robot,
            task=task,
            success=success,
            demo=self._assumed.demo,
            low_dim={
                k: with_last(frames[self._feature[k]].reshape(count, *schema.observation[k].shape))
                for k in schema.low_dim
            },
            images=self._images(number),
            steps=foreign_steps(
                frames[layout.ACTION].reshape(count, -1),
                reward=frames.get(layout.REWARD, np.zeros(count)),
                last=Kind.TERMINATED if terminal else Kind.TRUNCATED,
                stamp_s=frames.get("timestamp", np.arange(count) / dataset.fps),
                source=actor,
            ),
        )

    def _images(self, number: int) -> Callable[[], dict[str, Array]]:
        return lambda: {
            k: with_last(self._dataset.pictures(number, self._feature[k], self.schema.observation[k].shape))
            for k in self.schema.images
        }

    def _task(self, number: int) -> str:
        tasks = self._dataset.episodes[number].get("tasks") or []
        return str(tasks[0]) if len(tasks) else next(iter(self._dataset.tasks.values()), "unknown")


def _named(spec: Any, name: str) -> Any:
    return inferred_spec(name, spec.shape, spec.dtype)


def _short_names(features: list[str]) -> dict[str, str]:
    """Feature -> name without the prefix, where that stays unique."""
    short = {}
    for name in features:
        rest = name.removeprefix("observation").lstrip(".")
        short[name] = rest.removeprefix("images.") or name
    values = list(short.values())
    return {n: s if values.count(s) == 1 else n for n, s in short.items()}


def _is_number(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "fiub"
    except TypeError:
        return False


def _decoded(data: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    try:
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)
    except (ValueError, TypeError) as error:
        raise CorruptDataError(f"{layout.OWN_EPISODES}: a last observation is damaged: {error}") from error
