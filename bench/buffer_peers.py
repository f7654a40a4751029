"""Other replay buffers under the bench's data: torchrl and cpprb (from PyPI), and plain numpy.

Each function returns a call that draws one batch. A peer that is not installed raises ImportError.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from buffer_data import STEPS, Columns, Workload
from buffer_timing import System
from numpy.typing import NDArray

HORIZON, OBSERVATIONS = 16, 2


def numpy_limit(workload: Workload, columns: Columns) -> System:
    """Observations once, low-dimensional values packed, takes into a reused output: the least work a batch can be.

    It does not even look at episode ends.
    """
    rng, batch = np.random.default_rng(0), workload.batch
    low_dim = [columns.observation[k] for k in workload.schema.low_dim]
    packed = np.concatenate([*low_dim, columns.action, columns.reward[:, None], ~columns.done[:, None]], axis=1)
    packed = packed.astype(np.float32)
    images = [columns.observation[k] for k in workload.schema.images]
    out = [np.zeros((batch, *a.shape[1:]), a.dtype) for a in (packed, *images) for _ in range(2)]

    def draw() -> None:
        after = rng.integers(1, columns.rows, batch)
        before = after - 1
        for i, array in enumerate((packed, *images)):
            np.take(array, before, axis=0, out=out[2 * i], mode="clip")
            np.take(array, after, axis=0, out=out[2 * i + 1], mode="clip")

    return draw


def torchrl(workload: Workload, columns: Columns, storage: Literal["memmap", "tensor"], folder: Path) -> System:
    """``TensorDictReplayBuffer`` over a lazy storage, filled an episode at a time."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer

    logging.getLogger("torchrl").setLevel(logging.WARNING)  # its import sets another level
    torch.set_num_threads(1)
    size = workload.transitions
    kept = LazyMemmapStorage(size, scratch_dir=str(folder)) if storage == "memmap" else LazyTensorStorage(size)
    buffer = TensorDictReplayBuffer(storage=kept, batch_size=workload.batch)
    for number in range(columns.episodes):
        at = columns.episode(number)
        before, after = slice(at.start, at.stop - 1), slice(at.start + 1, at.stop)
        tensors = {k: torch.from_numpy(v) for k, v in columns.observation.items()}
        following: dict[str, Any] = {k: v[after] for k, v in tensors.items()}
        following["reward"] = torch.from_numpy(columns.reward[after])[:, None]
        following["done"] = torch.from_numpy(columns.done[after])[:, None]
        step: dict[str, Any] = {k: v[before] for k, v in tensors.items()}
        step |= {"action": torch.from_numpy(columns.action[after]), "next": following}
        buffer.extend(TensorDict(step, batch_size=[STEPS]))
    return buffer.sample


def cpprb(workload: Workload, columns: Columns) -> System:
    """``ReplayBuffer`` with ``next_of``, so that it stores observations once too."""
    from cpprb import ReplayBuffer

    keys = tuple(workload.schema.observation)
    fields: dict[str, dict[str, Any]] = {
        k: {"shape": s.shape, "dtype": np.dtype(s.dtype)} for k, s in workload.schema.observation.items()
    }
    fields |= {"action": {"shape": workload.schema.action.shape}, "reward": {}, "done": {}}
    buffer = ReplayBuffer(workload.transitions, fields, next_of=keys)
    for number in range(columns.episodes):
        at = columns.episode(number)
        before, after = slice(at.start, at.stop - 1), slice(at.start + 1, at.stop)
        step = {k: v[before] for k, v in columns.observation.items()}
        step |= {f"next_{k}": v[after] for k, v in columns.observation.items()}
        buffer.add(**step, action=columns.action[after], reward=columns.reward[after], done=columns.done[after])
        buffer.on_episode_end()
    return lambda: buffer.sample(workload.batch)


def numpy_windows(workload: Workload, columns: Columns) -> System:
    """Histories and chunks as plain takes into a reused output, without a look at episode ends."""
    rng, batch = np.random.default_rng(0), workload.batch
    before, ahead = np.arange(1 - OBSERVATIONS, 1), np.arange(1 - OBSERVATIONS, HORIZON + 1 - OBSERVATIONS)
    parts = [(array, before) for array in columns.observation.values()] + [(columns.action, ahead)]
    out = [np.zeros((batch, len(steps), *array.shape[1:]), array.dtype) for array, steps in parts]

    def draw() -> None:
        now = rng.integers(OBSERVATIONS, columns.rows - HORIZON, batch)[:, None]
        for (array, steps), place in zip(parts, out, strict=True):
            np.take(array, now + steps, axis=0, out=place, mode="clip")

    return draw


class SequenceSampler:
    """Windows over concatenated episodes, the usual way of diffusion policies.

    A table made beforehand says for each window which rows it cuts out and how many steps at either end lie outside
    the episode; those repeat the first or last row. Of image keys only the first ``OBSERVATIONS`` frames are read.

    Args:
        arrays: key -> (rows, ...), of numpy or zarr; rows of an episode are ``stride`` apart.
        whole: windows of image keys are allocated and filled in full length first, as Chi et al.'s implementation
            does; False allocates only the frames that are used.
    """

    def __init__(self, arrays: dict[str, Any], episodes: int, *, stride: int, images: tuple[str, ...], whole: bool):
        self.arrays, self.images, self.whole = arrays, images, whole
        table = []
        for first in range(0, episodes * stride, stride):
            for start in range(1 - OBSERVATIONS, STEPS - HORIZON + HORIZON // 2):
                low, high = max(start, 0), min(start + HORIZON, STEPS)
                table.append((first + low, first + high, low - start, high - start))
        self.table = np.array(table)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, number: int) -> dict[str, NDArray[Any]]:
        low, high, left, right = self.table[number].tolist()
        found = {}
        for key, array in self.arrays.items():
            length = HORIZON
            if key not in self.images:
                cut = array[low:high]
            else:
                used = min(OBSERVATIONS, high - low)
                if self.whole:
                    cut = np.full((high - low, *array.shape[1:]), 0, array.dtype)
                    cut[:used] = array[low : low + used]
                else:
                    cut, length = array[low : low + used], OBSERVATIONS
            if left or right < length:
                padded = np.zeros((length, *array.shape[1:]), array.dtype)
                end = min(right, length)
                padded[left:end] = cut[: end - left]
                padded[:left], padded[end:] = cut[0], cut[-1]
                cut = padded
            found[key] = cut[:length] if key == "action" else cut[:OBSERVATIONS]
        return found


def sequences(workload: Workload, columns: Columns, *, whole: bool = True) -> System:
    """Windows cut out of numpy arrays, one by one, and stacked."""
    arrays = {**columns.observation, "action": np.roll(columns.action, -1, axis=0)}
    sampler = SequenceSampler(
        arrays, columns.episodes, stride=STEPS + 1, images=workload.schema.images, whole=whole
    )  # fmt: skip
    return _stacked(sampler, workload.batch)


def zarr_sequences(workload: Workload, columns: Columns, folder: Path, episodes: int) -> System:
    """The same over zarr v3 on disk: blosc-lz4, chunks of 2 MB."""
    import zarr
    from zarr.codecs import BloscCodec

    group = zarr.open_group(folder, mode="w")
    sources = {**columns.observation, "action": np.roll(columns.action, -1, axis=0)}
    for key, source in sources.items():
        data = source[: episodes * (STEPS + 1)]
        rows = min(len(data), (2 << 20) // max(1, data[0].nbytes))
        array = group.create_array(
            key, shape=data.shape, dtype=data.dtype, chunks=(rows, *data.shape[1:]), compressors=BloscCodec(cname="lz4")
        )
        array[...] = data
    arrays = {key: group[key] for key in sources}
    sampler = SequenceSampler(arrays, episodes, stride=STEPS + 1, images=workload.schema.images, whole=True)
    return _stacked(sampler, workload.batch)


def _stacked(sampler: SequenceSampler, batch: int) -> System:
    rng = np.random.default_rng(0)

    def draw() -> dict[str, NDArray[Any]]:
        items = [sampler[i] for i in rng.integers(0, len(sampler), batch).tolist()]
        return {key: np.stack([item[key] for item in items]) for key in items[0]}

    return draw
