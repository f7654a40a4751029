"""A buffer as LeRobotDataset v3.0; ``lerobot_layout`` says which feature holds what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.index import EpisodeRecord
from robolearn.buffer.interchange import lerobot_layout as layout
from robolearn.buffer.interchange.common import Summary, require
from robolearn.buffer.interchange.exporting import reading, staged
from robolearn.buffer.interchange.lerobot_stats import Stats, image_stats, merge, number_stats, to_json
from robolearn.buffer.interchange.pictures import to_png, write_video
from robolearn.buffer.schema import Schema
from robolearn.core.errors import StoreError
from robolearn.core.spec import Array
from robolearn.core.types import Kind, Source

EPISODES_PER_GROUP = 64
"""Episodes per row group of the files in ``meta``."""


def export_lerobot(
    root: Path, out: Path, *, select: str = "", video: bool = False, fps: float, file_mb: float = 100.0
) -> Summary:
    """Write complete episodes as a LeRobotDataset v3.0, one episode in memory at a time.

    Args:
        root: the buffer; only read.
        out: directory to make; it appears when it is whole.
        select: a filter (see ``robolearn.buffer.filters``); an episode is taken whole if any of its steps passes.
        video: images of three channels as H.264, which loses detail; else as PNG, which does not.
        fps: control rate [Hz]; LeRobot knows no other times. Real stamps are kept in ``robolearn.stamp_ns``.
        file_mb: a new data file is begun after this size [MB].

    Raises:
        StoreError: no episode is selected, ``out`` exists, or the disk does not take it.
        CorruptDataError: an episode of the buffer is damaged.
        MissingDependencyError: pyarrow is not installed.
    """
    require("pyarrow", "interchange", "LeRobot export")
    if not fps > 0:
        raise StoreError(f"fps: expected a positive rate [Hz], got {fps}")
    with reading(root, select) as (schema, episodes), staged(out) as tmp:
        writer = _Dataset(tmp, schema, layout.features(schema, video=video), fps, file_mb)
        try:
            for record, rows in episodes:
                writer.add(record, rows)
            if not writer.episodes:
                what = f" that pass '{select}'" if select else ""
                raise StoreError(f"{root}: there are no complete episodes to export{what}")
        finally:
            writer.close()
        writer.write_info()
    return Summary(out, writer.episodes, writer.frames)


class _Dataset:
    def __init__(
        self, root: Path, schema: Schema, features: dict[str, layout.Feature], fps: float, file_mb: float
    ) -> None:
        self.root, self.schema, self.features, self.fps = root, schema, features, fps
        self.places = layout.places(schema)
        self.videos = [k for k in schema.images if features[self.places[k].feature]["dtype"] == "video"]
        self.episodes = self.frames = 0
        self._file_mb = file_mb
        self._robots: set[str] = set()
        self._tasks: dict[str, int] = {}
        self._stats: dict[str, Stats] = {}
        self._data = _ParquetFiles(root, arrow_schema(features))
        self._meta = _ParquetFiles(root, None)
        self._own = _ParquetFiles(root, None)

    def add(self, record: EpisodeRecord, rows: NDArray[Any]) -> None:
        """Write one episode."""
        steps, number = len(rows) - 1, self.episodes
        columns = self._columns(record, rows)
        stats = {k: number_stats(v) for k, v in columns.items()}
        pictures = {k: rows[f"observation/{k}"][:-1] for k in self.schema.images}
        stats |= {self.places[k].feature: image_stats(v) for k, v in pictures.items() if self._is_picture(k)}
        columns |= {self.places[k].feature: v for k, v in pictures.items() if k not in self.videos}
        if self._data.megabytes >= self._file_mb:
            self._data.close()
        self._data.write(layout.DATA, columns, steps)
        entry = {
            "episode_index": number,
            "tasks": [record.task],
            "length": steps,
            **{f"data/{k}": v for k, v in layout.file_numbers(self._data.file).items()},
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + steps,
            **self._write_videos(pictures, number, steps),
            **{f"stats/{k}/{name}": value for k, entry in to_json(stats).items() for name, value in entry.items()},
            **{f"meta/episodes/{k}": 0 for k in layout.file_numbers(0)},
        }
        self._meta.collect(f"{layout.EPISODES}/{layout.FILE}.parquet", entry)
        self._own.collect(layout.OWN_EPISODES, self._own_entry(record, rows, number))
        self._stats = {k: merge(self._stats.get(k), v) for k, v in stats.items()}
        self._robots.add(record.robot)
        self.episodes += 1
        self.frames += steps

    def close(self) -> None:
        """Finish the parquet files."""
        for files in (self._data, self._meta, self._own):
            files.close()

    def write_info(self) -> None:
        """Write what is known when all episodes are."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        info = {
            "codebase_version": layout.VERSION,
            "robot_type": "+".join(sorted(self._robots)),
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.FILES_PER_CHUNK,
            "data_files_size_in_mb": max(1, round(self._file_mb)),
            "video_files_size_in_mb": 200,
            "fps": int(self.fps) if self.fps == int(self.fps) else self.fps,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": layout.DATA,
            "video_path": layout.VIDEO if self.videos else None,
            "features": self.features,
        }
        for name, content in (
            (layout.INFO, info),
            (layout.STATS, to_json(self._stats)),
            (layout.OWN_SCHEMA, layout.own_schema(self.schema)),
        ):
            (self.root / name).write_text(json.dumps(content, indent=4))
        names = pa.table({"task_index": pa.array(self._tasks.values(), pa.int64()), "task": list(self._tasks)})
        kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
        index = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [
                {"name": n, "field_name": n, "pandas_type": p, "numpy_type": t, "metadata": None}
                for n, (p, t) in kinds.items()
            ],
            "pandas_version": "2.0.0",
        }
        pq.write_table(names.replace_schema_metadata({"pandas": json.dumps(index)}), self.root / layout.TASKS)

    def _is_picture(self, key: str) -> bool:
        return self.features[self.places[key].feature]["dtype"] in ("image", "video")

    def _columns(self, record: EpisodeRecord, rows: NDArray[Any]) -> dict[str, Array]:
        """Feature -> (T, ...) values of every frame, images excepted."""
        steps, before, after = len(rows) - 1, rows[:-1], rows[1:]
        found: dict[str, Array] = {}
        state = [
            before[f"observation/{k}"].reshape(steps, -1) for k in self.schema.low_dim if self.places[k].start >= 0
        ]
        if state:
            found[layout.STATE] = np.concatenate(state, axis=1)
        for key in self.schema.low_dim:
            if self.places[key].start < 0:
                found[self.places[key].feature] = before[f"observation/{key}"]
        last = np.arange(steps) == steps - 1
        frame = np.arange(steps)
        return found | {
            layout.ACTION: after["action/executed"],
            layout.REWARD: after["reward"],
            layout.DONE: last,
            layout.TRUNCATED: last & (after["kind"] != Kind.TERMINATED),
            layout.SUCCESS: last & record.success,
            layout.INTERVENTION: after["source"] == Source.HUMAN,
            "robolearn.proposed": after["action/proposed"],
            "robolearn.human": after["action/human"],
            "robolearn.has_human": after["has_human"].astype(bool),
            "robolearn.source": after["source"].astype(np.int64),
            "robolearn.policy_version": after["policy_version"],
            "robolearn.stamp_ns": before["stamp_ns"],
            "timestamp": (frame / self.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(steps, self.episodes),
            "index": self.frames + frame,
            "task_index": np.full(steps, self._tasks.setdefault(record.task, len(self._tasks))),
        }

    def _write_videos(self, pictures: Mapping[str, Array], number: int, steps: int) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        for key in self.videos:
            name, numbers = self.places[key].feature, layout.file_numbers(number)
            path = self.root / layout.VIDEO.format(video_key=name, **numbers)
            info = write_video(path, pictures[key], self.fps)
            self.features[name].setdefault("info", info)
            entry |= {f"videos/{name}/{k}": v for k, v in numbers.items()}
            entry |= {f"videos/{name}/from_timestamp": 0.0, f"videos/{name}/to_timestamp": steps / self.fps}
        return entry

    def _own_entry(self, record: EpisodeRecord, rows: NDArray[Any], number: int) -> dict[str, Any]:
        first, last = rows[0], rows[-1]
        entry = {
            "episode_index": number,
            "length": len(rows) - 1,
            "uuid": record.uuid,
            "robot": record.robot,
            "task": record.task,
            "success": record.success,
            "demo": record.demo,
            "first_source": int(first["source"]),
            "first_policy_version": int(first["policy_version"]),
            "last_stamp_ns": int(last["stamp_ns"]),
        }
        for key in self.schema.observation:
            value = np.asarray(last[f"observation/{key}"])
            entry[f"last.{key}"] = to_png(value) if self._is_picture(key) else value.tobytes()
        return entry


class _ParquetFiles:
    """Parquet files of one kind, one open at a time.

    Args:
        root: directory their names are relative to.
        schema: arrow schema; None takes that of the first entries.
    """

    def __init__(self, root: Path, schema: Any) -> None:
        self.root, self.schema = root, schema
        self.file = -1
        self._writer: Any = None
        self._path = root
        self._name = ""
        self._entries: list[dict[str, Any]] = []

    @property
    def megabytes(self) -> float:
        """Size of the open file [MB]."""
        return self._path.stat().st_size / 1e6 if self._writer is not None else 0.0

    def write(self, name: str, columns: Mapping[str, Array], count: int) -> None:
        """Append frames as one row group, to a new file named after ``name`` if none is open."""
        import pyarrow as pa

        self._put(name, pa.table([column(columns[f.name], f, count) for f in self.schema], schema=self.schema))

    def collect(self, name: str, entry: dict[str, Any]) -> None:
        """Append one row; rows are written in groups."""
        self._name = name
        self._entries.append(entry)
        if len(self._entries) == EPISODES_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what was collected and finish the open file."""
        try:
            self._flush()
        finally:
            if self._writer is not None:
                writer, self._writer = self._writer, None
                writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._entries:
            entries, self._entries = self._entries, []
            table = pa.Table.from_pylist(entries, schema=self.schema)
            self.schema = table.schema
            self._put(self._name, table)

    def _put(self, name: str, table: Any) -> None:
        import pyarrow.parquet as pq

        if self._writer is None:
            self.file += 1
            self._path = self.root / name.format(**layout.file_numbers(self.file))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="snappy", use_dictionary=False)
        self._writer.write_table(table, row_group_size=max(1, len(table)))


def arrow_schema(features: Mapping[str, layout.Feature]) -> Any:
    """Arrow schema of the data files, with Hugging Face's description of each feature."""
    import pyarrow as pa

    fields, described = [], dict[str, Any]()
    for name, feature in features.items():
        dtype, shape = feature["dtype"], tuple(feature["shape"])
        if dtype == "video":
            continue
        if dtype == "image":
            kind, described[name] = pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}
        else:
            kind = pa.from_numpy_dtype(np.dtype(dtype))
            described[name] = {"dtype": dtype, "_type": "Value"}
            if shape != (1,) and len(shape) == 1:
                kind = pa.list_(kind, shape[0])
                described[name] = {"feature": described[name], "length": shape[0], "_type": "Sequence"}
            elif len(shape) > 1:
                for _ in shape:
                    kind = pa.list_(kind)
                described[name] = {"shape": list(shape), "dtype": dtype, "_type": f"Array{len(shape)}D"}
        fields.append(pa.field(name, kind))
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": described}})})


def column(values: Array, field: Any, count: int) -> Any:
    """An arrow array of (count, ...) values."""
    import pyarrow as pa

    if pa.types.is_struct(field.type):
        return pa.array([{"bytes": to_png(v), "path": None} for v in values], field.type)
    flat = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("=")).reshape(-1)
    array, shape = pa.array(flat), values.shape[1:]
    if pa.types.is_fixed_size_list(field.type):
        return pa.FixedSizeListArray.from_arrays(array, shape[0])
    if pa.types.is_list(field.type):
        for width in reversed(shape):
            array = pa.ListArray.from_arrays(np.arange(0, len(array) + 1, width, dtype=np.int32), array)
    return array
