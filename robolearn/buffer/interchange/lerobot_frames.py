"""The frames of a LeRobotDataset v3.0 by episode and feature."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.buffer.interchange import lerobot_layout as layout
from robolearn.buffer.interchange.parquet import Tables
from robolearn.buffer.interchange.pictures import VideoReader, from_picture
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import Array


class Frames:
    """Frames of a dataset by episode and feature.

    Args:
        root: its directory.
        tables: reads its parquet files.

    Raises:
        StoreError: it is no LeRobotDataset v3.
        CorruptDataError: its description is damaged.
    """

    def __init__(self, root: Path, tables: Tables) -> None:
        self.root, self.tables, self.video = root, tables, VideoReader()
        if not (root / layout.INFO).is_file():
            raise StoreError(f"{root}: no LeRobot dataset ({layout.INFO} is missing)")
        self.info = read_json(root / layout.INFO)
        version = str(self.info.get("codebase_version"))
        if not version.startswith("v3."):
            raise StoreError(
                f"{root}: LeRobot format {version}; expected v3.x (LeRobot has a script that converts older ones)"
            )
        try:
            self.features: dict[str, layout.Feature] = dict(self.info["features"])
            self.fps, count = float(self.info["fps"]), int(self.info["total_episodes"])
            self.shapes = {k: tuple(int(n) for n in f["shape"]) for k, f in self.features.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptDataError(f"{root / layout.INFO} is damaged: {error!r}") from error
        self.episodes = self._episodes(count)
        self.tasks = self._tasks()
        self._file_start: dict[tuple[int, int], int] = {}
        for entry in self.episodes:
            at = (int(entry["data/chunk_index"]), int(entry["data/file_index"]))
            start = int(entry["dataset_from_index"])
            self._file_start[at] = min(start, self._file_start.get(at, start))

    def name(self, number: int) -> str:
        """Name of an episode."""
        return f"episode {int(self.episodes[number]['episode_index'])}"

    def length(self, number: int) -> int:
        """Frames of an episode."""
        entry = self.episodes[number]
        return int(entry["dataset_to_index"]) - int(entry["dataset_from_index"])

    def columns(self, number: int, features: Sequence[str]) -> dict[str, Array]:
        """Feature -> (T, *shape) numbers; scalars (T,).

        Raises:
            CorruptDataError: the frames are not there, or are those of another episode.
        """
        table = self._table(number, [*features, "episode_index", "frame_index"])
        found = {}
        for feature in [*features, "episode_index", "frame_index"]:
            shape = self.shapes.get(feature, (1,))
            try:
                found[feature] = _numbers(table.column(feature), () if shape == (1,) else shape)
            except (ValueError, TypeError, NotImplementedError) as error:
                raise CorruptDataError(
                    f"{self.root}: {self.name(number)}: '{feature}': expected {shape} per frame: {error}"
                ) from error
        frames = np.arange(self.length(number))
        if (found["episode_index"] != self.episodes[number]["episode_index"]).any() or (
            found["frame_index"] != frames
        ).any():
            raise CorruptDataError(
                f"{self.root}: {self.name(number)}: the data file has other frames there than {layout.EPISODES} says"
            )
        return found

    def pictures(self, number: int, feature: str, shape: tuple[int, ...]) -> Array:
        """(T, H, W, C) uint8 of an image, video or array feature.

        Raises:
            CorruptDataError: a picture is missing or cannot be decoded.
        """
        try:
            if self.features[feature]["dtype"] == "video":
                return self._video_frames(number, feature, shape)
            if self.features[feature]["dtype"] != "image":
                return self.columns(number, [feature])[feature]
            cells = self._table(number, [feature]).column(feature).to_pylist()
            return np.stack([self._picture(cell, shape, t) for t, cell in enumerate(cells)])
        except CorruptDataError as error:
            raise CorruptDataError(f"{self.root}: {self.name(number)}: '{feature}': {error}") from error

    def _video_frames(self, number: int, feature: str, shape: tuple[int, ...]) -> Array:
        entry = self.episodes[number]
        try:
            numbers = {k: int(entry[f"videos/{feature}/{k}"]) for k in ("chunk_index", "file_index")}
            start = float(entry[f"videos/{feature}/from_timestamp"])
        except (KeyError, TypeError) as error:
            raise CorruptDataError(f"{layout.EPISODES} lacks {error}") from error
        path = self.root / str(self.info.get("video_path") or layout.VIDEO).format(video_key=feature, **numbers)
        frames = self.video.read(path, round(start * self.fps), self.length(number))
        if frames.shape[1:] != shape:
            raise CorruptDataError(f"expected frames of {shape}, the video has {frames.shape[1:]}")
        return frames

    def _picture(self, cell: Mapping[str, Any] | None, shape: tuple[int, ...], t: int) -> Array:
        if not cell or cell.get("bytes") is None:
            raise CorruptDataError(f"frame {t} has no picture in the data file")
        try:
            return from_picture(cell["bytes"], shape)
        except CorruptDataError as error:
            raise CorruptDataError(f"frame {t}: {error}") from error

    def _table(self, number: int, columns: Sequence[str]) -> Any:
        entry = self.episodes[number]
        at = (int(entry["data/chunk_index"]), int(entry["data/file_index"]))
        path = str(self.info.get("data_path") or layout.DATA).format(chunk_index=at[0], file_index=at[1])
        start = int(entry["dataset_from_index"]) - self._file_start[at]
        try:
            return self.tables.rows(path, columns, start, self.length(number))
        except StoreError as error:
            raise type(error)(f"{self.root}: {self.name(number)}: {error}") from error

    def _episodes(self, count: int) -> list[dict[str, Any]]:
        names = [p.relative_to(self.root).as_posix() for p in sorted((self.root / layout.EPISODES).glob("*/*.parquet"))]
        entries = [e for n in names for e in self.tables.all(n, lambda key: not key.startswith("stats/"))]
        needed = {"episode_index", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index"}
        for entry in entries:
            if any(entry.get(k) is None for k in needed):
                raise CorruptDataError(
                    f"{self.root / layout.EPISODES}: an entry lacks {sorted(k for k in needed if entry.get(k) is None)}"
                )
        entries.sort(key=lambda e: int(e["episode_index"]))
        if len(entries) != count:
            raise CorruptDataError(f"{self.root}: {layout.INFO} has {count} episodes, {layout.EPISODES} {len(entries)}")
        return entries

    def _tasks(self) -> dict[int, str]:
        entries = self.tables.all(layout.TASKS) if (self.root / layout.TASKS).exists() else []
        return {int(e["task_index"]): str(e.get("task", e.get("__index_level_0__", ""))) for e in entries}


def _numbers(values: Any, shape: tuple[int, ...]) -> Array:
    """(N, *shape) of an arrow column."""
    import pyarrow as pa

    array = values.combine_chunks()
    count = len(array)
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        if array.null_count:
            raise ValueError("a value is missing")
        array = array.flatten()
    if array.null_count:
        raise ValueError("a value is missing")
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(count, *shape)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or CorruptDataError."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CorruptDataError(f"{path}: expected a JSON object")
    return data
