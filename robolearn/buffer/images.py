"""The image tier: which images are in memory, within a budget of bytes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robolearn.buffer.arena import Arena
from robolearn.buffer.memory import Control, Memory, Positions, fence
from robolearn.buffer.records import Images
from robolearn.buffer.table import Run, Runs
from robolearn.core.errors import StoreError

Mode = Literal["exact", "cached"]
Read = Callable[[Positions, Mapping[str, Images]], None]
_BLOCK = 256  # rows of a long episode that come and go together


@dataclass(frozen=True)
class Refresh:
    """How fast the images in memory are exchanged in ``cached`` mode.

    Attributes:
        episodes_per_batch: episodes (blocks of long ones) that come in per batch.
        bytes_per_s: at most so much is read [bytes/s]; None for no limit. With a limit batches depend on time.
    """

    episodes_per_batch: float = 1.0
    bytes_per_s: float | None = None


@dataclass
class _Piece:
    """Images in neighbouring slots: ``count`` rows from the ``first`` of a run."""

    run: Run
    first: int
    count: int
    slot: int


class ImageTier:
    """Keeps the images of some rows, or of all without a budget.

    Without a budget all images are in memory. In ``exact`` mode those that came first stay, the others are read when a
    batch needs them. In ``cached`` mode samples are drawn from rows in memory, and these are exchanged episode by
    episode in the order of a random permutation of all; what came first leaves first, so everything is in memory for
    equally long.

    Args:
        memory, arena: where images lie.
        read: brings images from disk: (n,) ascending positions, key -> (n, *shape) output.
        budget: bytes for everything, low-dimensional rows included; None for no limit.
        mode: see above.
        refresh: for ``cached``.
        seed: of the permutation.
    """

    def __init__(
        self, memory: Memory, arena: Arena, read: Read, *, budget: int | None, mode: Mode, refresh: Refresh, seed: int
    ) -> None:
        if mode not in ("exact", "cached"):
            raise StoreError(f"mode: expected 'exact' or 'cached', got '{mode}'")
        self._memory, self._arena, self._read, self._budget = memory, arena, read, budget
        self.cached = mode == "cached" and budget is not None and bool(memory.images)
        self._refresh, self._rng = refresh, np.random.default_rng([seed, 1])
        self._frame = sum(int(np.prod(a.shape[1:])) for a in memory.images.values())
        self._slots = Runs()
        self._used = 0
        self._pieces: OrderedDict[int, _Piece] = OrderedDict()  # by slot, the first to leave first
        self._runs: dict[int, Run] = {}
        self._order: list[tuple[int, int]] = []  # (number, first row) still to come in this epoch
        self._credit, self._since = 0.0, time.monotonic()
        self._largest = 0
        self.admitted_bytes = self.evicted_rows = 0

    @property
    def used(self) -> int:
        """Rows whose images are in memory."""
        return self._used

    @property
    def limit(self) -> int | None:
        """Rows whose images may be in memory; None for all."""
        if self._budget is None:
            return None
        rest = self._budget - int(self._memory.control[Control.ROWS]) * self._memory.packed.shape[1]
        return int(max(rest // max(self._frame, 1), 0))

    @property
    def used_bytes(self) -> int:
        """Bytes of the images in memory."""
        return self._used * self._frame

    def add(self, run: Run, first: int, count: int) -> None:
        """Rows are new in a run: take their images in, in ``exact`` mode only if there is room.

        Raises:
            StoreError: they cannot be read.
        """
        if not self._memory.images:
            return
        self._runs[run.number] = run
        self.trim()
        if not self.cached and self.limit is not None:
            count = max(min(count, self.limit - self._used), 0)
        for start in range(first, first + count, _BLOCK):
            self._admit(run, start, min(_BLOCK, first + count - start), evict=self.cached)

    def adopt(self, part: Run) -> None:
        """A run has been made from rows of another one: give it images of its own."""
        if self._memory.images:
            self._runs[part.number] = part
            self._memory.slot[part.first : part.stop] = -1
            self._admit(part, 0, part.rows, evict=self.cached)

    def forget(self, run: Run, first: int = 0) -> None:
        """Rows of a run from ``first`` on are about to go."""
        if first == 0:
            self._runs.pop(run.number, None)
        for piece in [p for p in self._pieces.values() if p.run is run and p.first >= first]:
            self._evict(piece)

    def trim(self) -> None:
        """Let images go until they fit into the budget."""
        limit = self.limit
        while limit is not None and self._used > limit and self._pieces:
            piece = next(iter(self._pieces.values()))
            self._evict(piece)
            for key in self._memory.images:
                self._arena.release(f"image/{key}", piece.slot, piece.count)

    def turn(self) -> None:
        """A batch is about to be drawn: exchange what is due."""
        if not self.cached:
            return
        self._credit = min(self._credit + self._refresh.episodes_per_batch, 64.0)
        now, rate = time.monotonic(), self._refresh.bytes_per_s
        allowed = float("inf") if rate is None else (now - self._since) * rate
        while self._credit >= 1.0 and allowed > 0:
            self._credit -= 1.0
            read = self._admit_next()
            allowed -= read
            if rate is not None:
                self._since = max(self._since + read / rate, now - 1.0)

    def admit_at(self, position: int) -> None:
        """Take in what is at a position, with its neighbours."""
        run = self._runs[int(self._memory.owner[position])]
        block = (position - run.first) // _BLOCK * _BLOCK
        self._admit_block(run, block)

    def _admit_next(self) -> int:
        """Bring the next block of the permutation; return the bytes read."""
        for _ in range(2):
            while self._order:
                number, block = self._order.pop()
                run = self._runs.get(number)
                if run is not None and block < run.rows:
                    return self._admit_block(run, block)
            blocks = [(n, block) for n, run in self._runs.items() for block in range(0, run.rows, _BLOCK)]
            self._order = [blocks[i] for i in self._rng.permutation(len(blocks))]
        return 0

    def _admit_block(self, run: Run, block: int) -> int:
        """Bring what is missing of a block, and let all of it stay as if it came now."""
        count = min(_BLOCK, run.rows - block)
        at = slice(run.first + block, run.first + block + count)
        for slot in np.unique(self._memory.slot[at]):
            if slot in self._pieces:
                self._pieces.move_to_end(int(slot))
        missing = np.flatnonzero(self._memory.slot[at] < 0)
        if not len(missing):
            return 0
        for stretch in np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1):
            self._admit(run, block + int(stretch[0]), len(stretch), evict=True)
        return len(missing) * self._frame

    def _admit(self, run: Run, first: int, count: int, *, evict: bool) -> bool:
        slot = self._room(count, evict)
        if slot is None:
            return False
        positions = np.arange(run.first + first, run.first + first + count)
        try:
            self._read(positions, {key: images[slot : slot + count] for key, images in self._memory.images.items()})
        except BaseException:
            self._slots.give(slot, count)
            raise
        fence()
        self._memory.slot[positions] = np.arange(slot, slot + count)
        self._memory.control[Control.SLOTS] = max(int(self._memory.control[Control.SLOTS]), slot + count)
        self._pieces[slot] = _Piece(run, first, count, slot)
        self._used += count
        self.admitted_bytes += count * self._frame
        return True

    def _room(self, count: int, evict: bool) -> int | None:
        """First of ``count`` free slots, or None if there is no room."""
        limit = self.limit
        total = len(self._memory.slot_changes)
        bound = total if limit is None else min(limit, total)
        if count > bound:
            if limit is None:
                raise StoreError(f"images of {count} more rows do not fit into this machine's memory; give ram_bytes")
            return None
        while True:
            slot = self._slots.take(count)
            if slot + count <= bound and self._used + count <= bound:
                return slot
            self._slots.give(slot, count)
            if limit is None:
                raise StoreError("the images do not fit into this machine's memory; give ram_bytes")
            if not evict or not self._pieces:
                return None
            self._evict(next(iter(self._pieces.values())))

    def _evict(self, piece: _Piece) -> None:
        memory, slots = self._memory, slice(piece.slot, piece.slot + piece.count)
        at = slice(piece.run.first + piece.first, piece.run.first + piece.first + piece.count)
        memory.slot[at] = -1
        fence()
        memory.slot_changes[slots] += 1
        fence()
        self._slots.give(piece.slot, piece.count)
        self._used -= piece.count
        self.evicted_rows += piece.count
        del self._pieces[piece.slot]
