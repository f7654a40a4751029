"""Sampling from the memory of a replay in another process."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.arena import Arena, map_arrays
from robolearn.buffer.gather import Gatherer
from robolearn.buffer.memory import MAGIC, Control, Memory, Positions, fence
from robolearn.buffer.ring import RING, Allocate, ChunkOut, Rings, TransitionOut, copied
from robolearn.buffer.schema import Schema
from robolearn.buffer.views import Mixture
from robolearn.core.errors import StoreError
from robolearn.core.types import Batch, ChunkBatch

_PATIENCE_S = 10.0
_ROUNDS = 64
_DRAWS = 16  # before the rows in memory are listed
Parts = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Handle:
    """Where the memory of a replay is: plain data, to be pickled or sent as JSON (``dataclasses.asdict``).

    Attributes:
        pid: process that owns it.
        started: when that process started, in clock ticks since boot: its id may be used again.
        schema: JSON of the schema.
        arrays: name -> file handle, dtype and shape.
    """

    pid: int
    started: int
    schema: dict[str, Any]
    arrays: dict[str, dict[str, Any]] = field(repr=False)


def handle_of(arena: Arena, schema: Schema) -> Handle:
    """Handle of memory that this process owns."""
    return Handle(os.getpid(), _started(os.getpid()), schema.to_json(), arena.directory())


def attach(handle: Handle, *, allocate: Allocate = np.zeros, seed: int = 0) -> SharedReplay:
    """Sample from the memory of another process, which goes on filling it.

    Args:
        handle: from ``Replay.handle`` there.
        allocate: makes the arrays of batches from a shape and dtype.
        seed: seed of the generator used when ``sample`` is given none.

    Raises:
        StoreError: that process is gone, or belongs to another user.
    """
    return SharedReplay(handle, allocate, seed)


class SharedReplay:
    """A replay in another process, to read only. Use from one thread; a context manager.

    Samples what is in memory there: with a budget, only rows whose images are. Batches are checked: what its owner
    changed meanwhile is drawn again.
    """

    def __init__(self, handle: Handle, allocate: Allocate = np.zeros, seed: int = 0) -> None:
        self.schema, self._pid = Schema.from_json(handle.schema), handle.pid
        self._alive = -1
        try:
            if _started(handle.pid) != handle.started:
                raise ProcessLookupError
            self._alive = os.pidfd_open(handle.pid)
            arrays = map_arrays(handle.pid, handle.arrays)
            self._check(arrays["control"])
            if arrays["control"][Control.MAGIC] != MAGIC:
                raise StoreError(f"process {handle.pid} holds no replay of this version at the handle's place")
            self._memory = Memory.of(self.schema, arrays)
            self._gatherer = _CheckedGatherer(self._memory)
            self._rings, self._rng = Rings(self.schema, RING, allocate), np.random.default_rng(seed)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self._gone() from error
            raise
        self._mixtures: dict[object, Mixture] = {}

    @property
    def views(self) -> list[str]:
        """Names of the views its owner has made; ``sample`` draws from these."""
        names: list[str] = self._consistent(self._memory.read_names)
        return names

    @property
    def demo_transitions(self) -> int:
        """Steps in the demonstration view."""
        return self._size(0)

    @property
    def online_transitions(self) -> int:
        """Steps in the online view."""
        return self._size(1)

    def sample(
        self,
        rows: int,
        *,
        demo_fraction: float = 0.5,
        mixture: Parts | None = None,
        rng: np.random.Generator | None = None,
        horizon: int = 1,
        gamma: float = 1.0,
        copy: bool = False,
    ) -> Batch:
        """As ``Replay.sample``; ``mixture`` has names of ``views`` and weights.

        Raises:
            StoreError: nothing to sample from, an argument makes no sense, or the owner is gone.
        """
        if horizon < 1 or not 0.0 <= gamma <= 1.0:
            raise StoreError(f"sample: expected horizon >= 1 and gamma in [0, 1], got {horizon} and {gamma}")
        out = self._rings.transitions(rows, horizon > 1)

        def patch(which: NDArray[np.int64], after: Positions) -> NDArray[np.bool_]:
            part = TransitionOut(self.schema, len(which), horizon > 1, np.zeros)
            bad = self._gatherer.checked(lambda: self._gatherer.transitions(part, after, horizon, gamma), len(which))
            out.put(which, part)
            return bad

        self._fill(
            self._mixture(rows, demo_fraction, mixture),
            self._rng if rng is None else rng,
            lambda after: self._gatherer.transitions(out, after, horizon, gamma),
            patch,
        )
        return copied(out.batch) if copy else out.batch

    def sample_chunks(
        self,
        rows: int,
        *,
        history: int = 2,
        chunk: int = 16,
        demo_fraction: float = 0.5,
        mixture: Parts | None = None,
        rng: np.random.Generator | None = None,
        copy: bool = False,
    ) -> ChunkBatch:
        """As ``Replay.sample_chunks``; ``mixture`` has names of ``views`` and weights.

        Raises:
            StoreError: as ``sample``.
        """
        if history < 1 or chunk < 1:
            raise StoreError(f"sample_chunks: expected history >= 1 and chunk >= 1, got {history} and {chunk}")
        out = self._rings.chunks(rows, history, chunk)

        def patch(which: NDArray[np.int64], after: Positions) -> NDArray[np.bool_]:
            part = ChunkOut(self.schema, len(which), history, chunk, np.zeros)
            bad = self._gatherer.checked(lambda: self._gatherer.chunks(part, after, history, chunk), len(which))
            out.put(which, part)
            return bad

        self._fill(
            self._mixture(rows, demo_fraction, mixture),
            self._rng if rng is None else rng,
            lambda after: self._gatherer.chunks(out, after, history, chunk),
            patch,
        )
        return copied(out.batch) if copy else out.batch

    def close(self) -> None:
        """Let go; idempotent."""
        if self._alive >= 0:
            fd, self._alive = self._alive, -1
            os.close(fd)

    def __enter__(self) -> SharedReplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _size(self, view: int) -> int:
        self._check(self._memory.control)
        start, end = self._memory.limits(view)
        return end - start

    def _mixture(self, rows: int, demo_fraction: float, parts: Parts | None) -> Mixture:
        key = (rows, demo_fraction) if parts is None else (rows, *parts)
        if key not in self._mixtures:
            if rows < 1 or not 0.0 <= demo_fraction <= 1.0:
                raise StoreError(
                    f"sample: expected rows >= 1 and demo_fraction in [0, 1], got {rows} and {demo_fraction}"
                )
            numbers: list[tuple[int, float]] = [(0, demo_fraction), (1, 1.0 - demo_fraction)]
            if parts is not None:
                names = self.views
                for name, _ in parts:
                    if name not in names:
                        raise StoreError(f"sample: the owner has no view '{name}' (have: {', '.join(names)})")
                numbers = [(names.index(name), weight) for name, weight in parts]
            self._mixtures[key] = Mixture(self._memory, rows, numbers)
        return self._mixtures[key]

    def _fill(
        self,
        mixture: Mixture,
        rng: np.random.Generator,
        gather: Callable[[Positions], None],
        patch: Callable[[NDArray[np.int64], Positions], NDArray[np.bool_]],
    ) -> None:
        def once() -> None:
            if not mixture.prepare():
                raise StoreError(f"sample: nothing to draw {mixture.rows} rows from: all views are empty")
            after = self._present(mixture, rng)
            bad = np.flatnonzero(self._gatherer.checked(lambda: gather(after), mixture.rows))
            for _ in range(_ROUNDS):
                if not len(bad):
                    return
                again = self._present(mixture, rng)[bad]
                bad = bad[patch(bad, again)]
            raise StoreError(
                f"sample: images of {len(bad)} rows were not in the owner's memory after {_ROUNDS} draws; give it a "
                "larger ram_bytes"
            )

        self._consistent(once)

    def _present(self, mixture: Mixture, rng: np.random.Generator) -> Positions:
        """Positions whose images are there now, if there are any."""
        after = mixture.draw(rng)
        if not self._memory.images:
            return after
        for _ in range(_DRAWS):
            absent = np.flatnonzero(~self._there(after))
            if not len(absent):
                return after
            after[absent] = mixture.draw_again(rng, absent)
        for view, at in mixture.parts_of(np.flatnonzero(~self._there(after))):
            positions = self._memory.views[view, slice(*self._memory.limits(view))]
            present = positions[self._there(positions)]
            if len(present):
                after[at] = present[rng.integers(0, len(present), len(at))]
        return after

    def _there(self, after: Positions) -> NDArray[np.bool_]:
        slot = self._memory.slot
        return np.asarray((slot.take(after) >= 0) & (slot.take(after - 1) >= 0))

    def _consistent(self, read: Callable[[], Any]) -> Any:
        """What ``read`` returns when its owner changed nothing meanwhile but added."""
        control = self._memory.control
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            self._check(control)
            before = int(control[Control.SEQUENCE])
            fence()
            if before % 2 == 0:
                problem: Exception | None = None
                try:
                    result = read()
                except (StoreError, IndexError, ValueError) as error:  # perhaps of a half-made change
                    problem = error
                fence()
                if int(control[Control.SEQUENCE]) == before:
                    if problem is not None:
                        raise problem
                    return result
            if time.monotonic() > deadline:
                raise StoreError(f"the owner of the replay (process {self._pid}) changes its memory without a pause")
            time.sleep(1e-4)

    def _check(self, control: NDArray[np.int64]) -> None:
        if self._alive < 0:
            raise StoreError("this replay is closed")
        if control[Control.CLOSED] or select.select([self._alive], [], [], 0)[0]:
            raise self._gone()

    def _gone(self) -> StoreError:
        return StoreError(
            f"the owner of the replay (process {self._pid}) is gone or has closed it; attach to a new handle"
        )


class _CheckedGatherer(Gatherer):
    """Notices images that are not there, or were exchanged while they were copied."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory, lambda positions, out: None)
        self._bad: list[NDArray[np.bool_]] = []

    def checked(self, gather: Callable[[], None], rows: int) -> NDArray[np.bool_]:
        """Gather; (rows,) which of the rows are not to be used."""
        self._bad = []
        gather()
        bad = np.zeros(rows, bool)
        for part in self._bad:
            bad |= part.reshape(rows, -1).any(axis=1)
        return bad

    def images(self, positions: Positions, out: dict[str, NDArray[np.uint8]]) -> None:
        """As of the base, and remember which are not to be used."""
        memory = self._memory
        slots = memory.slot.take(positions).astype(np.int64)
        changes = memory.slot_changes.take(slots, mode="clip")
        fence()
        moved = memory.slot.take(positions) != slots
        used = int(memory.control[Control.SLOTS])
        for key, images in memory.images.items():
            images[: max(used, 1)].take(slots, 0, out[key], "clip")
        fence()
        self._bad.append((slots < 0) | moved | (memory.slot_changes.take(slots, mode="clip") != changes))


def _started(pid: int) -> int:
    """Start time of a process in clock ticks since boot.

    Raises:
        OSError: there is none.
    """
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
