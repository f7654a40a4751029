"""Replay: what the learner sees of a buffer, in RAM, and the batches it draws from it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.arena import Arena, PairView, Slots
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.log import LogReader
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import open_store
from robolearn.core.errors import StoreError
from robolearn.core.spec import Array
from robolearn.core.types import Batch, Source

__all__ = ["Replay", "ViewName", "interleave"]

ViewName = Literal["demo", "online", "all"]
_OPEN_LOGS = 32
_READ_BYTES = 32 << 20


@dataclass
class _Resident:
    """An episode as far as it is in RAM.

    Attributes:
        record: its index entry when last seen.
        slots: (n,) slot of each row; -1 where the row was evicted.
        sources: (n,) who produced each row's action.
    """

    record: EpisodeRecord
    slots: Slots = field(default_factory=lambda: np.zeros(0, np.int64))
    sources: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    evicted: bool = False


class Replay:
    """Reads a buffer that others may be writing; keeps it in RAM; samples transitions.

    Views: ``demo`` holds the steps of demonstrations and every step a human executed; ``online`` holds the steps of all
    other episodes except scripted ones. A correction during an online episode is in both (Luo et al. 2024, HIL-SERL).

    Args:
        root: directory of the buffer; made when it does not exist.
        schema: what its rows must hold.
        capacity_rows: rows to keep in RAM; when it is reached the oldest complete online episodes leave.
            Demonstrations, human steps and growing episodes never do, even if they alone need more. None keeps all.
        seed: seed of the generator used when ``sample`` is given none.

    Raises:
        StoreError: another schema, or a directory that cannot be read.
    """

    def __init__(self, root: Path, schema: Schema, *, capacity_rows: int | None = None, seed: int = 0) -> None:
        if capacity_rows is not None and capacity_rows < 2:
            raise StoreError(f"capacity_rows: expected at least 2, got {capacity_rows}")
        self.schema, self._capacity = schema, capacity_rows
        self._paths = open_store(Path(root), schema)
        self._index = Index(self._paths.index, writable=False)
        self._rng = np.random.default_rng(seed)
        self._arena = Arena(schema)
        self._episodes: dict[str, _Resident] = {}
        self._logs: OrderedDict[str, LogReader] = OrderedDict()
        self._demo, self._online = PairView(), PairView()
        self._stale = False  # the views do not fit the episodes
        self._candidates: dict[str, None] = {}  # complete online episodes that may leave RAM, oldest first
        self._left_online = 0  # online steps whose episode left RAM
        self._transitions = 0
        self._revision = -1  # of the index when last read; -1: never

    @property
    def rows(self) -> int:
        """Rows in RAM."""
        return self._arena.used

    @property
    def episodes(self) -> int:
        """Episodes seen, growing ones and those that left RAM included."""
        return len(self._episodes)

    @property
    def transitions(self) -> int:
        """Steps of all episodes seen, whether in RAM or not."""
        return self._transitions

    @property
    def demo_transitions(self) -> int:
        """Steps in the demonstration view."""
        return self._demo.size

    @property
    def online_transitions(self) -> int:
        """Steps ever seen in the online view; those that left RAM still count."""
        return self._online.size + self._left_online

    def composition(self) -> dict[Source, int]:
        """Steps seen by who executed them."""
        total: Counter[Source] = Counter()
        for episode in self._episodes.values():
            for source, count in zip(*np.unique(episode.sources[1:], return_counts=True), strict=True):
                total[Source(int(source))] += int(count)
        return dict(sorted(total.items()))

    def refresh(self) -> int:
        """Take in what writers have committed since the last call; return the number of new rows.

        Raises:
            CorruptDataError: stored bytes fail their check; nothing of that episode is taken in, what was there stays.
            StoreError: a file cannot be read.
        """
        revision = self._index.revision()
        if revision == self._revision:
            return 0
        new, self._stale = 0, False
        try:
            for record in self._index.changes(self._revision):
                new += self._follow(record)
        finally:
            if self._stale:
                self._rebuild()
        self._revision = revision
        return new

    def sample(
        self,
        rows: int,
        *,
        demo_fraction: float = 0.5,
        rng: np.random.Generator | None = None,
        horizon: int = 1,
        gamma: float = 1.0,
    ) -> Batch:
        """Draw transitions uniformly, with replacement, from both views (RLPD's symmetric sampling, Ball et al. 2023).

        The views are interleaved: with ``demo_fraction=0.5`` rows [0::2] are demonstrations and [1::2] online, so that
        every slice of even length and start has half of each. When one view of a mixture is empty all rows
        come from the other.

        Args:
            rows: batch size B.
            demo_fraction: share of rows from the demonstration view; the count is the nearest whole number.
            rng: where randomness comes from; the same state and contents give the same batch.
            horizon: rows n that enter the reward of a sample (n-step return, Sutton & Barto 2018, eq. 7.1).
            gamma: discount per step within the horizon.

        Returns:
            A batch whose arrays are views of a reused ring: valid until three more batches of this size were drawn.

        Raises:
            StoreError: nothing to sample from, or an argument makes no sense.
        """
        if rows < 1 or not 0.0 <= demo_fraction <= 1.0:
            raise StoreError(f"sample: expected rows >= 1 and demo_fraction in [0, 1], got {rows} and {demo_fraction}")
        if horizon < 1 or not 0.0 <= gamma <= 1.0:
            raise StoreError(f"sample: expected horizon >= 1 and gamma in [0, 1], got {horizon} and {gamma}")
        rng = self._rng if rng is None else rng
        wanted = [
            (view, at)
            for view, at in zip((self._demo, self._online), interleave(rows, demo_fraction), strict=True)
            if len(at)
        ]
        have = [(view, at) for view, at in wanted if view.size]
        if len(have) < len(wanted) and 0.0 < demo_fraction < 1.0:
            have = [(view, np.arange(rows)) for view in (self._demo, self._online) if view.size]
        if not have:
            raise StoreError(
                f"sample: nothing to draw {rows} rows with demo_fraction {demo_fraction} from: "
                f"{self._demo.size} demonstration and {self._online.size} online steps"
            )
        before, after = np.empty(rows, np.int64), np.empty(rows, np.int64)
        for view, at in have:
            draw = rng.integers(0, view.size, len(at))
            before[at], after[at] = view.before[draw], view.after[draw]
        return self._arena.gather(before, after, horizon=horizon, gamma=gamma)

    def statistics(self, view: ViewName = "demo") -> dict[str, tuple[Array, Array]]:
        """Low-dimensional observation key -> (mean, standard deviation), float32 of the key's shape.

        Over every row that takes part in a transition of the view, each counted once.

        Raises:
            StoreError: the view is empty.
        """
        views = {"demo": [self._demo], "online": [self._online], "all": [self._demo, self._online]}[view]
        slots = np.unique(np.concatenate([part for v in views for part in (v.before, v.after)]))
        if not len(slots):
            raise StoreError(f"statistics: the {view} view is empty")
        result = {}
        for key in self.schema.low_dim:
            values = self._arena.low_dim(key, slots).astype(np.float64)
            result[key] = (values.mean(axis=0).astype(np.float32), values.std(axis=0).astype(np.float32))
        return result

    def close(self) -> None:
        """Close files; idempotent."""
        self._index.close()
        while self._logs:
            self._logs.popitem()[1].close()

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self, record: EpisodeRecord) -> int:
        """Bring one episode up to date; return the number of rows read."""
        episode = self._episodes.get(record.uuid)
        if episode is not None and (record.state == "dropped" or record.demo != episode.record.demo):
            self._forget(episode)
            episode = None
        if record.state == "dropped":
            self._episodes.pop(record.uuid, None)
            return 0
        if episode is None:
            episode = self._episodes[record.uuid] = _Resident(record)
        first = have = len(episode.slots)
        while have < record.rows:
            count = min(record.rows - have, max(1, _READ_BYTES // self.schema.row.itemsize))
            rows = self._log(record.log).rows(record.offset, have, count, record.uuid)
            self._make_room(count)
            demo = (rows["source"] == Source.HUMAN) | record.demo
            episode.slots = np.concatenate([episode.slots, self._arena.insert(rows, demo)])
            episode.sources = np.concatenate([episode.sources, rows["source"]])
            self._arena.chain(episode.slots[max(have - 1, 0) :])
            self._transitions += count if have else count - 1
            self._extend_views(episode, have)
            have += count
        episode.record = record
        if record.state == "complete" and not record.demo and not episode.evicted:
            self._candidates.setdefault(record.uuid)
        return have - first

    def _pairs(self, episode: _Resident, first: int) -> tuple[Slots, Slots, NDArray[np.bool_], NDArray[np.bool_]]:
        """(slots before, slots after, in demo view, in online view) of the transitions into rows ``first`` and on."""
        first = max(first, 1)
        source = episode.sources[first:]
        if episode.record.demo:
            demo = np.ones(len(source), bool)
            online = ~demo
        else:
            demo = source == Source.HUMAN
            online = (source != Source.SCRIPT) & (not episode.evicted)
        return episode.slots[first - 1 : -1], episode.slots[first:], demo, online

    def _extend_views(self, episode: _Resident, first: int) -> None:
        before, after, demo, online = self._pairs(episode, first)
        self._demo.extend(before[demo], after[demo])
        self._online.extend(before[online], after[online])

    def _rebuild(self) -> None:
        """Make both views anew, in order of arrival."""
        self._demo.clear()
        self._online.clear()
        for episode in sorted(self._episodes.values(), key=lambda e: e.record.id):
            self._extend_views(episode, 0)

    def _make_room(self, count: int) -> None:
        """Let the oldest online episodes go, a sixteenth of the capacity at a time; human steps stay."""
        if self._capacity is None or self._arena.used + count <= self._capacity:
            return
        target = self._capacity - max(count, self._capacity // 16)
        while self._arena.used > target and self._candidates:
            uuid = next(iter(self._candidates))
            del self._candidates[uuid]
            self._evict(self._episodes[uuid])

    def _evict(self, episode: _Resident) -> None:
        """Free the rows of an episode that no human step needs."""
        _, _, human, online = self._pairs(episode, 0)
        self._left_online += int(online.sum())
        keep = np.zeros(len(episode.slots), bool)
        keep[1:] |= human
        keep[:-1] |= human
        self._arena.free(episode.slots[~keep])
        episode.slots[~keep] = -1
        self._arena.chain(episode.slots)
        episode.evicted = True
        self._stale = True

    def _forget(self, episode: _Resident) -> None:
        """Undo all that was taken in of an episode."""
        self._arena.free(episode.slots[episode.slots >= 0])
        self._transitions -= max(len(episode.slots) - 1, 0)
        if episode.evicted:
            episode.evicted = False
            self._left_online -= int(self._pairs(episode, 0)[3].sum())
        self._candidates.pop(episode.record.uuid, None)
        del self._episodes[episode.record.uuid]
        self._stale = True

    def _log(self, name: str) -> LogReader:
        """An open reader; the least recently used are closed."""
        reader = self._logs.get(name)
        if reader is None:
            while len(self._logs) >= _OPEN_LOGS:
                self._logs.popitem(last=False)[1].close()
            reader = self._logs[name] = LogReader(self._paths.logs / name, self.schema)
        self._logs.move_to_end(name)
        return reader


@lru_cache(maxsize=64)
def interleave(rows: int, fraction: float) -> tuple[Slots, Slots]:
    """Positions of the two parts of a mixture, spread as evenly as whole numbers allow: row i belongs to the first part
    where round(i * fraction) steps up, in exact arithmetic.

    Args:
        rows: how many in all.
        fraction: share of the first part in [0, 1].
    """
    share = Fraction(fraction).limit_denominator(1 << 16)
    edges = (np.arange(rows + 1) * share.numerator + share.denominator // 2) // share.denominator
    first = np.diff(edges) > 0
    return np.flatnonzero(first), np.flatnonzero(~first)
