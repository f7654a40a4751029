"""A robomimic HDF5 file into a buffer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.buffer.interchange.common import (
    Assumed,
    Episode,
    Summary,
    foreign_steps,
    inferred_spec,
    renamed,
    require,
    unit_action,
    with_last,
)
from robolearn.buffer.interchange.importing import ActionRange, import_episodes
from robolearn.buffer.schema import Schema
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import Array
from robolearn.core.types import Kind, Source


def import_robomimic(
    source: Path,
    root: Path,
    *,
    keys: Mapping[str, str] | None = None,
    mask: str = "",
    action_range: ActionRange = "unit",
    robot: str = "",
    task: str = "",
    demo: bool = True,
    success: bool = False,
    actor: Source = Source.HUMAN,
    fps: float = 20.0,
) -> Summary:
    """Import the demonstrations of a robomimic file, one in memory at a time; call again after an interruption.

    Observations are ``obs/*`` (floats become float32), the one after the last action is that of ``next_obs``, or the
    last one again where there is none; simulator states are left out. A demonstration is a success if it ever has a
    positive reward, or with shaped rewards if its last ``dones`` is set. It ends TERMINATED if it is a success and its
    last ``dones`` is set, else TRUNCATED.

    Args:
        source: the HDF5 file.
        root: the buffer; made when it does not exist.
        keys: key below ``obs`` -> key of the buffer; only these are imported.
        mask: name of a filter below ``mask`` (``train``, ``valid``, ...); empty for all demonstrations.
        action_range: see ``ActionRange``.
        robot, task: written into every episode; empty takes what the file's environment says.
        demo: they are demonstrations.
        success: they are successes, where the file does not tell.
        actor: who acted.
        fps: control rate [Hz], where the file does not tell.

    Raises:
        StoreError: it is no such file, or does not fit.
        CorruptDataError: it is damaged; the message names demonstration and key.
        MissingDependencyError: h5py is not installed.
    """
    h5py = require("h5py", "interchange", "robomimic import")
    if not source.is_file():
        raise StoreError(f"{source}: no such file")
    try:
        with h5py.File(source, "r") as file:
            reader = _File(file, source, keys, mask, Assumed(robot, task, demo, success, actor), fps)
            return import_episodes(reader, source, root, action_range=action_range, format_="robomimic")
    except OSError as error:
        raise CorruptDataError(f"{source} cannot be read as HDF5, it may be truncated: {error}") from error


class _File:
    """Demonstrations of an open file."""

    def __init__(
        self,
        file: Any,
        source: Path,
        keys: Mapping[str, str] | None,
        mask: str,
        assumed: Assumed,
        fps: float,
    ) -> None:
        self._file, self._source, self._assumed = file, source, assumed
        if "data" not in file:
            raise StoreError(f"{source}: no robomimic file (there is no group 'data')")
        self.names = self._chosen(mask)
        if not self.names:
            raise StoreError(f"{source}: there are no demonstrations to import")
        env = _env(file, source)
        kwargs = env.get("env_kwargs") or {}
        self._fps = float(kwargs.get("control_freq") or fps)
        self._shaped = bool(kwargs.get("reward_shaping", False))
        robots = kwargs.get("robots") or "unknown"
        label = assumed.robot or ("+".join(robots) if isinstance(robots, list) else str(robots))
        self.labels = [(label, assumed.task or str(env.get("env_name", "unknown")))] * len(self.names)
        first = self._group(self.names[0])
        specs = {}
        for key, data in self._observations(first, self.names[0]).items():
            if data.dtype.kind in "fiub":
                specs[key] = inferred_spec(key, data.shape[1:], data.dtype.name)
        found = renamed(specs, {k: k for k in specs}, keys, source)
        self._key = {ours: theirs for theirs, ours in found.items()}
        observation = {k: inferred_spec(k, specs[t].shape, specs[t].dtype) for k, t in self._key.items()}
        self.schema = Schema(observation, unit_action(self._actions(self.names[0]).shape[1]))

    def episode(self, number: int) -> Episode:
        """Rows of a demonstration."""
        name = self.names[number]
        group, actions = self._group(name), self._actions(name)
        count = len(actions)
        rewards = self._optional(group, name, "rewards", count)
        dones = self._optional(group, name, "dones", count)
        success = self._assumed.success
        if rewards is not None and not self._shaped:
            success = bool((rewards > 0).any())
        elif dones is not None and self._shaped:
            success = bool(dones[-1])
        terminal = success and dones is not None and bool(dones[-1])
        robot, task = self.labels[number]
        return Episode(
            name=name,
            robot=robot,
            task=task,
            success=success,
            demo=self._assumed.demo,
            low_dim={k: self._observation(number, k) for k in self.schema.low_dim},
            images=lambda: {k: self._observation(number, k) for k in self.schema.images},
            steps=foreign_steps(
                actions,
                reward=np.zeros(count) if rewards is None else rewards,
                last=Kind.TERMINATED if terminal else Kind.TRUNCATED,
                stamp_s=np.arange(count) / self._fps,
                source=self._assumed.actor,
            ),
        )

    def _chosen(self, mask: str) -> list[str]:
        names = sorted(self._file["data"], key=_number)
        if not mask:
            return names
        masks = self._file.get("mask") or {}
        if mask not in masks:
            raise StoreError(f"{self._source}: no mask '{mask}' (have: {', '.join(sorted(masks)) or 'none'})")
        wanted = {n.decode() if isinstance(n, bytes) else str(n) for n in masks[mask][()]}
        if wanted - set(names):
            raise CorruptDataError(
                f"{self._source}: mask '{mask}' names {sorted(wanted - set(names))[:3]}, which do not exist"
            )
        return [n for n in names if n in wanted]

    def _group(self, name: str) -> Any:
        group = self._file["data"][name]
        for key in ("actions", "obs"):
            if key not in group:
                raise CorruptDataError(f"{self._source}: {name}: '{key}' is missing (have: {', '.join(sorted(group))})")
        return group

    def _actions(self, name: str) -> Array:
        actions = self._read(self._group(name)["actions"], name, "actions")
        if actions.ndim != 2 or not len(actions) or actions.dtype.kind not in "fiu":
            raise CorruptDataError(
                f"{self._source}: {name}: 'actions': expected numbers (T, A) with T > 0, "
                f"got {actions.dtype} {actions.shape}"
            )
        return actions.astype(np.float64) if actions.dtype.kind != "f" else actions

    def _observations(self, group: Any, name: str) -> Mapping[str, Any]:
        return {k: v for k, v in group["obs"].items() if hasattr(v, "dtype")}

    def _observation(self, number: int, key: str) -> Array:
        name, theirs = self.names[number], self._key[key]
        group, spec = self._group(name), self.schema.observation[key]
        data = self._observations(group, name).get(theirs)
        where = f"{self._source}: {name}: 'obs/{theirs}'"
        if data is None:
            raise CorruptDataError(f"{where} is missing")
        expected = (len(group["actions"]), *spec.shape)
        if data.shape != expected or not np.can_cast(data.dtype, spec.dtype, casting="same_kind"):
            raise CorruptDataError(f"{where}: expected {spec.dtype} {expected}, got {data.dtype} {data.shape}")
        after = group["next_obs"].get(theirs) if "next_obs" in group else None
        if after is not None and after.shape != expected:
            raise CorruptDataError(
                f"{self._source}: {name}: 'next_obs/{theirs}': expected {expected}, got {after.shape}"
            )
        last = None if after is None else self._read(after, name, f"next_obs/{theirs}", slice(-1, None))[0]
        return with_last(self._read(data, name, f"obs/{theirs}"), last)

    def _optional(self, group: Any, name: str, key: str, count: int) -> Array | None:
        if key not in group:
            return None
        values = self._read(group[key], name, key)
        if values.shape not in ((count,), (count, 1)):
            raise CorruptDataError(
                f"{self._source}: {name}: '{key}': expected {(count,)} like actions, got {values.shape}"
            )
        return values.reshape(count)

    def _read(self, data: Any, name: str, key: str, rows: Any = ()) -> Array:
        try:
            return np.asarray(data[rows] if rows != () else data[()])
        except (OSError, RuntimeError) as error:
            raise CorruptDataError(f"{self._source}: {name}: '{key}' cannot be read: {error}") from error


def _number(name: str) -> tuple[int, str]:
    """demo_2 comes before demo_10."""
    digits = name.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else -1, name)


def _env(file: Any, source: Path) -> dict[str, Any]:
    text = file["data"].attrs.get("env_args", "{}")
    try:
        env = json.loads(text)
    except (TypeError, ValueError) as error:
        raise CorruptDataError(f"{source}: attribute env_args of 'data' is no JSON: {error}") from error
    return env if isinstance(env, dict) else {}
