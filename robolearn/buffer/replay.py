"""Replay: what the learner sees of a buffer, in RAM, and the batches it draws from it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from robolearn.buffer.episodes import Episode, read_episode
from robolearn.buffer.filters import Filter
from robolearn.buffer.hot import HotTier
from robolearn.buffer.images import Mode, Refresh
from robolearn.buffer.prefetch import Prefetch
from robolearn.buffer.priority import PrioritySampler
from robolearn.buffer.ring import RING, Allocate, Rings, copied
from robolearn.buffer.rollouts import rollouts
from robolearn.buffer.sampler import Parts, Sampler
from robolearn.buffer.schema import Schema
from robolearn.buffer.shared import Handle, handle_of
from robolearn.buffer.views import View, interleave
from robolearn.core.errors import StoreError
from robolearn.core.spec import Array
from robolearn.core.types import Batch, ChunkBatch, Rollouts, Source

__all__ = ["Refresh", "Replay", "ViewName", "interleave"]

ViewName = Literal["demo", "online", "all"]


class Replay:
    """Reads a buffer that others may be writing; keeps it in RAM; samples transitions, chunks and episodes.

    Views are what filters select (see ``filters``). Two always exist: ``demo`` (filter ``demo|intervention``) holds the
    steps of demonstrations and every step a human executed; ``online`` (``!demo,source!=script``) holds the steps of
    all other episodes except scripted ones. A correction during an online episode is in both (Luo et al. 2024,
    HIL-SERL).

    One thread may sample while another one refreshes. A process made by a fork must open a replay of its own.

    Args:
        root: directory of the buffer; made when it does not exist.
        schema: what its rows must hold.
        others: (directory, filter) of other buffers; the steps selected there join the demonstration view.
        capacity_rows: rows to keep in RAM; when it is reached the oldest complete online episodes leave.
            Demonstrations, human steps and growing episodes never do, even if they alone need more. None keeps all.
        ram_bytes: budget for rows and images together; low-dimensional rows are always in RAM, images as many as fit.
            None keeps all.
        mode: with a budget, ``exact`` samples uniformly and reads the images that are not in RAM; ``cached`` samples
            what is in RAM, which is exchanged all the time.
        exchange: how fast in ``cached`` mode.
        allocate: makes the arrays of batches from a shape and dtype, e.g. in pinned memory.
        seed: seed of the generator used when ``sample`` is given none, and of the exchange.

    Raises:
        StoreError: another schema, or a directory that cannot be read.
    """

    def __init__(
        self,
        root: Path,
        schema: Schema,
        *,
        others: Sequence[tuple[Path | str, str]] = (),
        capacity_rows: int | None = None,
        ram_bytes: int | None = None,
        mode: Mode = "exact",
        exchange: Refresh | None = None,
        allocate: Allocate = np.zeros,
        seed: int = 0,
    ) -> None:
        if capacity_rows is not None and capacity_rows < 2:
            raise StoreError(f"capacity_rows: expected at least 2, got {capacity_rows}")
        self.schema = schema
        self._allocate = allocate
        self._rings = Rings(schema, RING, allocate)
        self._rng = np.random.default_rng(seed)
        self._lock = threading.RLock()
        self._hot = HotTier(
            Path(root),
            schema,
            [(Path(path), text) for path, text in others],
            capacity_rows=capacity_rows,
            ram_bytes=ram_bytes,
            mode=mode,
            refresh=exchange or Refresh(),
            seed=seed,
        )
        self._sampler = Sampler(self._hot)

    @property
    def rows(self) -> int:
        """Rows in RAM."""
        return self._hot.table.rows

    @property
    def episodes(self) -> int:
        """Episodes seen, growing ones and those that left RAM included."""
        return len(self._hot.episodes)

    @property
    def transitions(self) -> int:
        """Steps of all episodes seen, whether in RAM or not; of other buffers those that were selected."""
        return int(self._hot.executed.sum())

    @property
    def demo_transitions(self) -> int:
        """Steps in the demonstration view."""
        return self._hot.demo.size

    @property
    def online_transitions(self) -> int:
        """Steps ever seen in the online view; those that left RAM still count."""
        return self._hot.online.size + self._hot.left_online

    def composition(self) -> dict[Source, int]:
        """Steps seen by who executed them."""
        return {Source(i): int(count) for i, count in enumerate(self._hot.executed) if count}

    def refresh(self) -> int:
        """Take in what writers have committed since the last call; return the number of new rows.

        Raises:
            CorruptDataError: stored bytes fail their check; nothing of that episode is taken in, what was there stays.
            StoreError: a file cannot be read.
        """
        self._sampler.check()
        with self._lock:
            return self._hot.refresh()

    def view(self, filter_: str, *, newest: int | None = None, max_version_lag: int | None = None) -> View:
        """The transitions a filter selects; kept up to date by ``refresh``.

        Args:
            filter_: e.g. ``success,intervention``; see ``filters``. ``demo`` here means the mark of an episode.
            newest: only the last so many transitions, in the order in which they were taken in: episodes that grow at
                the same time take turns, while what was there at the opening is ordered by the start of its episode.
            max_version_lag: only steps of weights at most so many versions older than the newest.

        Raises:
            StoreError: the filter makes no sense.
        """
        self._sampler.check()
        with self._lock:
            return self._hot.view(Filter.parse(filter_), newest, max_version_lag)

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
        """Draw transitions uniformly, with replacement, from both views (RLPD's symmetric sampling, Ball et al. 2023).

        The views are interleaved: with ``demo_fraction=0.5`` rows [0::2] are demonstrations and [1::2] online, so that
        every slice of even length and start has half of each. When one view of a mixture is empty all its rows
        come from the others.

        Args:
            rows: batch size B.
            demo_fraction: share of rows from the demonstration view; the count is the nearest whole number.
            mixture: (view or filter, weight) instead of ``demo_fraction``.
            rng: where randomness comes from; the same state and contents give the same batch.
            horizon: rows n that enter the reward of a sample (n-step return, Sutton & Barto 2018, eq. 7.1).
            gamma: discount per step within the horizon.
            copy: give the batch arrays of its own.

        Returns:
            A batch whose arrays are views of a reused ring: valid until three more batches of this size were drawn.

        Raises:
            StoreError: nothing to sample from, or an argument makes no sense.
        """
        if horizon < 1 or not 0.0 <= gamma <= 1.0:
            raise StoreError(f"sample: expected horizon >= 1 and gamma in [0, 1], got {horizon} and {gamma}")
        self._sampler.check()
        with self._lock:
            rng = self._rng if rng is None else rng
            out = self._sampler.transitions(self._rings, rows, demo_fraction, mixture, rng, horizon, gamma)
            return copied(out) if copy else out

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
        """Draw observation histories and the action chunks that follow them (Chi et al. 2023, Diffusion Policy).

        Every transition is drawn with the same probability as the first action of a chunk. Nothing reaches across the
        ends of an episode: the first observation and the last action are repeated there, and marked as padding.

        Args:
            rows: batch size B.
            history: observations up to and with the present one.
            chunk: actions from the present one on.
            demo_fraction, mixture, rng, copy: as in ``sample``.

        Raises:
            StoreError: nothing to sample from, or an argument makes no sense.
        """
        if history < 1 or chunk < 1:
            raise StoreError(f"sample_chunks: expected history >= 1 and chunk >= 1, got {history} and {chunk}")
        self._sampler.check()
        with self._lock:
            rng = self._rng if rng is None else rng
            out = self._sampler.chunks(self._rings, rows, demo_fraction, mixture, rng, history, chunk)
            return copied(out) if copy else out

    def rollouts(self, version: int) -> Rollouts:
        """All that weights of the newest version did themselves, in the order of time; copies.

        Args:
            version: whose steps; there are none of a version that others followed.
        """
        self._sampler.check()
        with self._lock:
            return rollouts(self._hot, version)

    def episode(self, uuid: str) -> Episode:
        """A whole episode, as far as it is committed, read from disk.

        Raises:
            StoreError: no such episode was seen by ``refresh``.
        """
        self._sampler.check()
        with self._lock:
            return read_episode(self._hot, uuid)

    def sample_episodes(
        self, count: int, *, view: View | str = "", rng: np.random.Generator | None = None
    ) -> list[Episode]:
        """Draw whole episodes uniformly, with replacement, from those with a step in a view.

        Raises:
            StoreError: there is none.
        """
        self._sampler.check()
        with self._lock:
            view = self.view(view) if isinstance(view, str) else view
            numbers = np.unique(self._hot.memory.owner[view.positions])
            if count < 1 or not len(numbers):
                raise StoreError(f"sample_episodes: nothing to draw {count} episodes from in view '{view.name}'")
            drawn = (self._rng if rng is None else rng).integers(0, len(numbers), count)
            return [read_episode(self._hot, self._hot.uuid_of(int(numbers[i]))) for i in drawn]

    def prioritized(self, view: View | str = "", *, alpha: float = 0.6, epsilon: float = 1e-6) -> PrioritySampler:
        """Sampling by priority from one view (Schaul et al. 2016); see ``PrioritySampler``."""
        self._sampler.check()
        with self._lock:
            view = self.view(view) if isinstance(view, str) else view
            return PrioritySampler(self._hot, self._sampler, view, self._lock, self._allocate, alpha, epsilon)

    def prefetch(
        self,
        rows: int,
        *,
        depth: int = 2,
        demo_fraction: float = 0.5,
        mixture: Parts | None = None,
        rng: np.random.Generator | None = None,
        horizon: int = 1,
        gamma: float = 1.0,
    ) -> Prefetch[Batch]:
        """Batches as ``sample`` gives them, drawn ahead by a thread; see ``Prefetch``.

        Args:
            depth: batches to have ready.
        """
        rings = Rings(self.schema, max(depth + 2, RING), self._allocate)
        rng = self._rng.spawn(1)[0] if rng is None else rng

        def draw() -> Batch:
            with self._lock:
                self._sampler.check()
                return self._sampler.transitions(rings, rows, demo_fraction, mixture, rng, horizon, gamma)

        return Prefetch(draw, depth)

    def prefetch_chunks(
        self,
        rows: int,
        *,
        depth: int = 2,
        history: int = 2,
        chunk: int = 16,
        demo_fraction: float = 0.5,
        mixture: Parts | None = None,
        rng: np.random.Generator | None = None,
    ) -> Prefetch[ChunkBatch]:
        """Batches as ``sample_chunks`` gives them, drawn ahead by a thread; see ``Prefetch``."""
        rings = Rings(self.schema, max(depth + 2, RING), self._allocate)
        rng = self._rng.spawn(1)[0] if rng is None else rng

        def draw() -> ChunkBatch:
            with self._lock:
                self._sampler.check()
                return self._sampler.chunks(rings, rows, demo_fraction, mixture, rng, history, chunk)

        return Prefetch(draw, depth)

    def handle(self) -> Handle:
        """What another process of this user needs to ``attach`` to this memory; may be pickled or sent as JSON."""
        return handle_of(self._hot.arena, self.schema)

    def statistics(self, view: ViewName = "demo") -> dict[str, tuple[Array, Array]]:
        """Low-dimensional observation key -> (mean, standard deviation), float32 of the key's shape.

        Over every row that takes part in a transition of the view, each counted once.

        Raises:
            StoreError: the view is empty.
        """
        self._sampler.check()
        with self._lock:
            hot = self._hot
            views = {"demo": [hot.demo], "online": [hot.online], "all": [hot.demo, hot.online]}[view]
            after = np.concatenate([v.positions for v in views])
            rows = np.unique(np.concatenate([after - 1, after]))
            if not len(rows):
                raise StoreError(f"statistics: the {view} view is empty")
            result = {}
            for key in self.schema.low_dim:
                values = self._sampler.gatherer.low_dim(key, rows).astype(np.float64)
                result[key] = (values.mean(axis=0).astype(np.float32), values.std(axis=0).astype(np.float32))
            return result

    def metrics(self) -> dict[str, float]:
        """How the memory is used, and since the last call: image hit rate, bytes read, uniformity.

        ``uniformity_cv`` is the coefficient of variation of draws per step over the episodes of the views drawn from
        in ``cached`` mode, 0 for draws that are spread perfectly; it includes the noise of drawing.
        """
        self._sampler.check()
        with self._lock:
            tier, gatherer = self._hot.tier, self._sampler.gatherer
            asked, missed = gatherer.image_rows, gatherer.image_misses
            gatherer.image_rows = gatherer.image_misses = 0
            result = {
                "rows": float(self.rows),
                "ram_bytes": float(self._hot.arena.used_bytes),
                "image_rows": float(tier.used),
                "image_bytes": float(tier.used_bytes),
                "image_hit_rate": 1.0 - missed / asked if asked else 1.0,
                "admitted_bytes": float(tier.admitted_bytes),
            }
            if tier.cached:
                result["uniformity_cv"] = self._sampler.uniformity()
            tier.admitted_bytes = 0
            return result

    def close(self) -> None:
        """Close files; idempotent. Processes that are attached get an error from then on."""
        if not self._sampler.forked:
            with self._lock:
                self._hot.close()

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
