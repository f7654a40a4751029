"""From positions to batches: integer arithmetic and ``np.take`` into outputs that are used again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.memory import Control, Memory, Positions
from robolearn.buffer.records import Images
from robolearn.buffer.ring import ChunkOut, TransitionOut
from robolearn.core.spec import Array

Fill = Callable[[Positions, Mapping[str, Images]], None]
"""((n,) ascending positions, image key -> n images): bring images that are not in memory."""

_ROWS = int(Control.ROWS)


class Gatherer:
    """Gathers rows of a memory.

    Args:
        memory: where from.
        fill: brings the images that are not there.
    """

    def __init__(self, memory: Memory, fill: Fill) -> None:
        self._memory, self._fill = memory, fill
        self._packed: NDArray[np.uint8] = memory.packed[:0]
        fields: Mapping[str, Any] = memory.schema.sample.fields or {}
        self._reward_at = int(fields["reward"][1])  # byte within a row
        self._pending: list[tuple[Positions, NDArray[np.int64], dict[str, NDArray[np.uint8]]]] = []
        self.image_rows = self.image_misses = 0

    def transitions(self, out: TransitionOut, after: Positions, horizon: int, gamma: float) -> None:
        """Fill ``out`` with the transitions that lead to (B,) positions, ``horizon`` rows long at most."""
        packed = self._window()
        before, far = after - 1, after
        # mode='clip' lets numpy copy straight into ``out``; the default checks first and copies twice
        packed.take(before, 0, out.before, "clip")
        packed.take(after, 0, out.after, "clip")
        if horizon > 1:
            far, reward, scale = self.look_ahead(after, horizon, gamma)
            packed.take(far, 0, out.far, "clip")
            np.copyto(out.batch.reward, reward)
            np.multiply(out.batch.discount, scale, out=out.batch.discount)
        if self._memory.images:
            self._pending.clear()
            self.images(before, out.images_before)
            self.images(far, out.images_far)
            self._bring()

    def chunks(self, out: ChunkOut, after: Positions, history: int, chunk: int) -> None:
        """Fill ``out`` with the observations up to, and the actions from, the transitions that lead to (B,) rows."""
        owner = self._memory.owner[after]
        first, last = self._memory.first[owner][:, None], self._memory.last[owner][:, None]
        past = after[:, None] - np.arange(history, 0, -1)
        coming = after[:, None] + np.arange(chunk)
        np.less(past, first, out=out.batch.observation_pad)
        np.greater(coming, last, out=out.batch.action_pad)
        np.maximum(past, first, out=past)
        np.minimum(coming, last, out=coming)
        packed = self._window()
        packed.take(past, 0, out.past, "clip")
        packed.take(coming, 0, out.coming, "clip")
        if self._memory.images:
            flat = {key: image.reshape(-1, *image.shape[2:]) for key, image in out.images.items()}
            self._pending.clear()
            self.images(past.reshape(-1), flat)
            self._bring()

    def images(self, positions: Positions, out: dict[str, NDArray[np.uint8]]) -> None:
        """Images of all keys at (n,) positions, into key -> (n, *shape); what is not in memory follows later."""
        memory = self._memory
        slots = memory.slot.take(positions).astype(np.int64)
        missing = np.flatnonzero(slots < 0)
        self.image_rows += len(slots)
        if not len(missing):
            used = int(memory.control[Control.SLOTS])
            for key, images in memory.images.items():
                images[:used].take(slots, 0, out[key], "clip")
            return
        self.image_misses += len(missing)
        self._pending.append((positions[missing], missing, out))
        there = np.flatnonzero(slots >= 0)
        for key, images in memory.images.items():
            target = out[key]
            for to, slot in zip(there.tolist(), slots[there].tolist(), strict=True):
                target[to] = images[slot]

    def _bring(self) -> None:
        """Read what was not in memory: each image once and straight to where it goes, in the order of positions."""
        if not self._pending:
            return
        wanted, first, which = np.unique(
            np.concatenate([positions for positions, *_ in self._pending]), return_index=True, return_inverse=True
        )
        places: dict[str, list[NDArray[np.uint8]]] = {}
        for key in self._memory.images:
            places[key] = [out[key][row] for _, rows, out in self._pending for row in rows.tolist()]
        self._fill(wanted, {key: [every[i] for i in first.tolist()] for key, every in places.items()})
        repeated = np.flatnonzero(first[which] != np.arange(len(which)))
        for every in places.values():
            for row, source in zip(repeated.tolist(), first[which[repeated]].tolist(), strict=True):
                every[row][...] = every[source]
        self._pending.clear()

    def look_ahead(self, after: Positions, horizon: int, gamma: float) -> tuple[Positions, Array, Array]:
        """(B,) positions ``horizon - 1`` rows after ``after`` at most, discounted reward up to there, and last
        discount."""
        memory, rows = self._memory, self._window()
        last = memory.last.take(memory.owner.take(after))
        left = last - after  # rows that follow in the episode
        powers = np.float32(gamma) ** np.arange(horizon, dtype=np.float32)
        # one flat array of the numbers that rewards are among: taking from a field would copy the whole of it
        flat, stride, start = rows.reshape(-1).view(np.float32), rows.shape[1] // 4, self._reward_at // 4
        reward = flat.take(after * stride + start)
        for step in range(1, horizon):
            later = flat.take(np.minimum(after + step, last) * stride + start)
            later *= powers[step]
            later *= left >= step
            reward += later
        return np.minimum(after + (horizon - 1), last), reward, powers.take(left, mode="clip")

    def low_dim(self, key: str, positions: Positions) -> Array:
        """(n, *shape) values of one low-dimensional observation key."""
        return np.asarray(self._rows()[f"observation/{key}"][positions])

    def _rows(self) -> NDArray[Any]:
        return self._window().view(self._memory.schema.sample)[:, 0]

    def _window(self) -> NDArray[np.uint8]:
        """The rows in use: takes from a smaller array are faster."""
        end: int = self._memory.control.item(_ROWS)
        if len(self._packed) != end:
            self._packed = self._memory.packed[:end]
        return self._packed
