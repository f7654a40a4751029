"""A diffusion_policy replay buffer (zarr v2) into a buffer."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
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
    unit_action,
    with_last,
)
from robolearn.buffer.interchange.importing import ActionRange, import_episodes
from robolearn.buffer.schema import Schema
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import Array
from robolearn.core.types import Kind, Source

_ACTION, _TIME = "action", "timestamp"
_REWARDS = ("reward", "rewards")
_NO_OBSERVATION = {_ACTION, _TIME, *_REWARDS, "done", "dones", "terminal", "timeout", "stage"}


def import_diffusion_policy(
    source: Path,
    root: Path,
    *,
    keys: Mapping[str, str] | None = None,
    action_range: ActionRange = "unit",
    robot: str = "unknown",
    task: str = "",
    demo: bool = True,
    success: bool = False,
    actor: Source = Source.HUMAN,
    fps: float = 10.0,
    empty_chunks: bool = False,
) -> Summary:
    """Import all episodes of a replay buffer, one in memory at a time; call again to go on after an interruption.

    Observations are all arrays below ``data`` but ``action`` and such as ``reward`` and ``timestamp``; floats become
    float32, but float images (N, H, W, 1 or 3) of values from 0 to 255 become uint8. The format lacks the observation
    after the last action, which is the last one again, ends and successes: episodes end TRUNCATED.

    Args:
        source: ``x.zarr`` directory or ``x.zarr.zip``.
        root: the buffer; made when it does not exist.
        keys: key below ``data`` -> key of the buffer; only these are imported.
        action_range: see ``ActionRange``; most of these files hold positions, not normalised actions.
        robot, task: written into every episode; an empty task takes the file's name.
        demo: they are demonstrations.
        success: they are successes.
        actor: who acted.
        fps: control rate [Hz], where there is no ``timestamp``.
        empty_chunks: take chunks that are not there for zeros (some writers leave those out); else they are damage.

    Raises:
        StoreError: it is no such buffer, or does not fit.
        CorruptDataError: it is damaged; the message names episode and key.
    """
    import zarr
    from zarr.storage import LocalStore, ZipStore

    if not source.exists():
        raise StoreError(f"{source}: no such file or directory")
    with ExitStack() as stack:
        if source.is_file() and not zipfile.is_zipfile(source):
            raise StoreError(f"{source}: not a zarr v2 group: expected a directory or a zip file")
        store: Any = LocalStore(source, read_only=True) if source.is_dir() else ZipStore(source, mode="r")
        stack.callback(store.close)
        try:
            group = zarr.open_group(store, mode="r", zarr_format=2)
        except (FileNotFoundError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise StoreError(f"{source}: not a zarr v2 group: {error}") from error
        assumed = Assumed(robot, task or source.name.partition(".")[0], demo, success, actor)
        reader = _Group(group, source, keys, assumed, fps)
        reader.check_chunks(empty=empty_chunks)
        return import_episodes(reader, source, root, action_range=action_range, format_="diffusion_policy")


class _Group:
    """Episodes of an open group."""

    def __init__(
        self,
        group: Any,
        source: Path,
        keys: Mapping[str, str] | None,
        assumed: Assumed,
        fps: float,
    ) -> None:
        self._source, self._assumed, self._fps = source, assumed, fps
        self._data, self._ends = self._open(group)
        self.labels = [(assumed.robot, assumed.task)] * len(self._ends)
        specs = {}
        for key, array in self._data.items():
            if (key not in _NO_OBSERVATION | set() and array.dtype.kind in "fiub") or key in (keys or {}):
                specs[key] = inferred_spec(key, array.shape[1:], "uint8" if _float_image(array) else array.dtype.name)
        found = renamed(specs, {k: k for k in specs}, keys, source)
        self._key = {ours: theirs for theirs, ours in found.items()}
        observation = {k: inferred_spec(k, specs[t].shape, specs[t].dtype) for k, t in self._key.items()}
        action = self._data[_ACTION]
        if action.ndim != 2 or action.dtype.kind not in "fiu":
            raise StoreError(f"{source}: 'data/action': expected numbers (N, A), got {action.dtype} {action.shape}")
        self.schema = Schema(observation, unit_action(action.shape[1]))

    def check_chunks(self, *, empty: bool) -> None:
        """Look for damage that zarr would not: chunks that are not there read as zeros, cut Blosc chunks as anything.

        Args:
            empty: missing chunks are fine.

        Raises:
            CorruptDataError: there is some.
        """
        for key in (_ACTION, *self._key.values()):
            array, where = self._data[key], f"{self._source}: 'data/{key}'"
            missing = array.nchunks - array.nchunks_initialized
            if missing and not empty:
                raise CorruptDataError(
                    f"{where}: {missing} of {array.nchunks} chunks are missing; empty_chunks=True takes them for zeros"
                )
            folder = self._source / "data" / key
            if folder.is_dir() and any(getattr(c, "codec_id", "") == "blosc" for c in array.compressors):
                for chunk in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
                    if not _whole_blosc(chunk):
                        raise CorruptDataError(f"{where}: chunk {chunk.relative_to(folder)} is truncated")

    def episode(self, number: int) -> Episode:
        """Rows of an episode."""
        actions = self._read(number, _ACTION)
        count = len(actions)
        reward = next((self._read(number, k) for k in _REWARDS if k in self._data), np.zeros(count))
        stamps = self._read(number, _TIME) if _TIME in self._data else np.arange(count) / self._fps
        return Episode(
            name=self._name(number),
            robot=self._assumed.robot,
            task=self._assumed.task,
            success=self._assumed.success,
            demo=self._assumed.demo,
            low_dim={k: with_last(self._read(number, self._key[k])) for k in self.schema.low_dim},
            images=lambda: {k: with_last(self._pixels(number, self._key[k])) for k in self.schema.images},
            steps=foreign_steps(
                actions if actions.dtype.kind == "f" else actions.astype(np.float64),
                reward=reward.reshape(count),
                last=Kind.TRUNCATED,
                stamp_s=stamps.reshape(count),
                source=self._assumed.actor,
            ),
        )

    def _name(self, number: int) -> str:
        return f"episode {number}"

    def _open(self, group: Any) -> tuple[dict[str, Any], Array]:
        try:
            data = dict(group["data"].arrays())
            ends = np.asarray(group["meta/episode_ends"][:])
        except (KeyError, AttributeError, TypeError) as error:
            raise StoreError(
                f"{self._source}: expected groups 'data' and 'meta' with 'episode_ends': {error!r}"
            ) from error
        except (ValueError, OSError, RuntimeError) as error:
            raise CorruptDataError(f"{self._source}: cannot be read: {error}") from error
        if _ACTION not in data:
            raise StoreError(f"{self._source}: 'data/action' is missing (have: {', '.join(sorted(data)) or 'none'})")
        if (
            ends.ndim != 1
            or ends.dtype.kind not in "iu"
            or (np.diff(np.concatenate([[0], ends.astype(np.int64)])) <= 0).any()
        ):
            raise CorruptDataError(
                f"{self._source}: 'meta/episode_ends' is not a list of growing numbers: {ends[:5]} ..."
            )
        total = int(ends[-1]) if len(ends) else 0
        for key, array in data.items():
            if array.shape[:1] != (total,):
                raise CorruptDataError(
                    f"{self._source}: 'data/{key}': expected {total} rows (as episodes end), got shape {array.shape}"
                )
        return data, ends.astype(np.int64)

    def _read(self, number: int, key: str) -> Array:
        start, end = (int(self._ends[number - 1]) if number else 0), int(self._ends[number])
        try:
            return np.asarray(self._data[key][start:end])
        except (ValueError, OSError, RuntimeError, KeyError) as error:
            raise CorruptDataError(
                f"{self._source}: {self._name(number)}: 'data/{key}' cannot be read: {error}"
            ) from error

    def _pixels(self, number: int, key: str) -> Array:
        frames = self._read(number, key)
        if frames.dtype == np.uint8:
            return frames
        good = np.isfinite(frames).all() and frames.min() >= 0 and 1 < frames.max() <= 255
        if not good:
            raise CorruptDataError(
                f"{self._source}: {self._name(number)}: 'data/{key}': expected an image with values from 0 to 255, "
                f"got {frames.dtype} from {frames.min()} to {frames.max()}; store it as uint8"
            )
        return np.rint(frames).astype(np.uint8)


def _float_image(array: Any) -> bool:
    return array.ndim == 4 and array.shape[-1] in (1, 3) and array.dtype.kind == "f"


def _whole_blosc(chunk: Path) -> bool:
    """Whether a chunk is as long as its Blosc header says; Blosc itself reads past the end of shorter ones."""
    with open(chunk, "rb") as file:
        header = file.read(16)
    return len(header) == 16 and int.from_bytes(header[12:], "little") == chunk.stat().st_size
