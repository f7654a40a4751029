"""The hot tier: episodes of one or more buffers brought into memory and kept up to date there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.arena import Arena
from robolearn.buffer.bulk import collection_paused
from robolearn.buffer.files import MovedError
from robolearn.buffer.filters import Filter
from robolearn.buffer.images import ImageTier, Mode, Refresh
from robolearn.buffer.index import EpisodeRecord
from robolearn.buffer.many import SOURCES, Many, Resident
from robolearn.buffer.memory import Control, Memory, Positions
from robolearn.buffer.records import Images, Wanted
from robolearn.buffer.schema import Schema
from robolearn.buffer.source import Source
from robolearn.buffer.store import StorePaths, open_store, read_schema
from robolearn.buffer.table import Run, Table
from robolearn.buffer.views import View, check_room
from robolearn.core.errors import StoreError
from robolearn.core.types import Source as Who

DEMO = Filter.parse("demo|intervention")
ONLINE = Filter.parse("!demo,source!=script")
_READ_BYTES = 32 << 20
_MOVES = 8  # an episode moves once, into its segment, and again when that is repaired; more is a fault


class HotTier:
    """Rows, images and views in memory. See ``Replay`` for the arguments."""

    def __init__(
        self,
        root: Path,
        schema: Schema,
        others: Sequence[tuple[Path, str]],
        *,
        capacity_rows: int | None,
        ram_bytes: int | None,
        mode: Mode,
        refresh: Refresh,
        seed: int,
    ) -> None:
        self.schema, self._capacity = schema, capacity_rows
        self.episodes: dict[str, Resident] = {}
        self._of_run: dict[int, tuple[Resident, Run]] = {}
        self.views: list[View] = []
        self.sources: list[Source] = []
        self.arena = Arena()
        with ExitStack() as stack:
            stack.callback(self._abandon)
            self.sources.append(Source(open_store(root, schema), 0, None))
            for number, (path, text) in enumerate(others, 1):
                self.sources.append(_other(Path(path), schema, number, Filter.parse(text)))
            self.memory = Memory.reserve(schema, self.arena)
            self.table = Table(self.memory, self._moved)
            self.tier = ImageTier(
                self.memory, self.arena, self.read_images, budget=ram_bytes, mode=mode, refresh=refresh, seed=seed
            )
            self.demo, self.online = self.view(DEMO), self.view(ONLINE)
            stack.pop_all()
        self.executed = np.zeros(SOURCES, np.int64)
        self.closed = False
        self.left_online = 0  # online steps whose episode left memory
        self._candidates: dict[str, None] = {}  # complete online episodes that may leave memory, oldest first
        self._unsorted: set[int] = set()

    def view(self, filter_: Filter, newest: int | None = None, max_version_lag: int | None = None) -> View:
        """The view of a filter, made if there is none."""
        view = View(self.memory, len(self.views), filter_, newest, max_version_lag)
        for known in self.views:
            if known.name == view.name:
                return known
        check_room(len(self.views))
        self.views.append(view)
        view.forget_stale(int(self.memory.control[Control.NEWEST_VERSION]))
        for episode in sorted(self.episodes.values(), key=lambda e: e.arrival):
            for run, positions in self._steps(episode):
                view.extend(self._selected(episode, view.filter, positions), self._growing(episode, run))
        self.memory.write_names([view.name for view in self.views])
        return view

    def refresh(self) -> int:
        """Take in what changed; return the number of new rows."""
        new = 0
        for source in self.sources:
            try:
                new += self._catch_up(source)
            finally:
                self._settle()
        return new

    def _catch_up(self, source: Source) -> int:
        with collection_paused():
            revision, records = source.changes()
            new = self._follow_all(records, source)
            source.revision = revision
            return new

    def uuid_of(self, number: int) -> str:
        """Id of the episode that owns a run."""
        return self._of_run[number][0].record.uuid

    def read_images(self, positions: Positions, out: Mapping[str, Images]) -> None:
        """Images at (n,) ascending positions from disk, into key -> n images, in the order in which they lie there."""
        owner = self.memory.owner[positions]
        edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
        wanted: dict[int, list[Wanted]] = {}
        for a, b in pairwise(edges):
            episode, run = self._of_run[int(owner[a])]
            rows = positions[a:b] - run.first + run.first_row
            part = Wanted(episode.record, rows, {key: images[a:b] for key, images in out.items()})
            wanted.setdefault(episode.source.number, []).append(part)
        for number, parts in sorted(wanted.items()):
            self.sources[number].files.images_many(parts)

    def close(self) -> None:
        """Close files and let the memory go; idempotent."""
        if self.closed:
            return
        self.closed = True
        self.memory.control[Control.CLOSED] = 1
        self._let_go()

    def _let_go(self) -> None:
        for source in self.sources:
            source.close()
        self.arena.close()

    def _abandon(self) -> None:
        """Let go of all files at once: parts that refer to each other would keep some until they are collected."""
        self._let_go()
        vars(self).clear()

    def _follow_all(self, records: Sequence[EpisodeRecord], source: Source) -> int:
        """Bring episodes up to date, many new ones at a time; return the number of rows read."""
        new = at = 0
        while at < len(records):
            stop = self._fresh(records, at, source)
            if stop - at > 1:
                new += self._take_in(records[at:stop], source)
            else:
                stop = at + 1
                new += self._follow_wherever(records[at], source)
            at = stop
        return new

    def _fresh(self, records: Sequence[EpisodeRecord], at: int, source: Source) -> int:
        """Where the new and complete episodes from ``at`` on end that can be taken in together."""
        room = 0 if self.memory.images else _READ_BYTES // self.schema.row.itemsize
        if self._capacity is not None:
            room = min(room, self._capacity - self.table.rows)
        stop, known, select = at, self.episodes, source.select
        while stop < len(records):
            record = records[stop]
            room -= record.rows
            if room < 0 or record.state != "complete" or not record.rows or record.uuid in known:
                break
            if select is not None and not select.episode(record):
                break
            stop += 1
        return stop

    def _take_in(self, records: Sequence[EpisodeRecord], source: Source) -> int:
        """Take in whole episodes without images; one by one when something is wrong with one of them."""
        try:
            rows = source.files.low_dim_many(records)
        except StoreError:
            return sum(self._follow_wherever(record, source) for record in records)
        many = Many(records, source, rows, self._looked_at())
        runs = self.table.append_many(many.arrivals, many.counts, rows)
        first, allowed = runs[0].first, many.mask(self._allowed)
        counted = many.executed(allowed)
        episodes = many.resident(runs, counted)
        self.episodes.update((e.record.uuid, e) for e in episodes)
        self._of_run.update((run.number, (e, run)) for e, run in zip(episodes, runs, strict=True))
        if source.select is None:
            self._candidates.update((record.uuid, None) for record in records if not record.demo)
        self.executed += counted.sum(axis=0)
        for view in self.views:
            selected = many.mask(partial(_steps, view.filter)) & allowed
            if view is self.demo:
                self.table.set_demo(Run(-1, first, len(rows)), 0, selected)
            view.extend(first + np.flatnonzero(selected & many.steps))
        if source.select is None:
            newest = int(rows["policy_version"].max())
            self.memory.control[Control.NEWEST_VERSION] = max(newest, self._newest_version)
        return len(rows)

    def _follow_wherever(self, record: EpisodeRecord, source: Source) -> int:
        """As ``_follow``, wherever the episode is moved meanwhile, and when it is pruned."""
        for _ in range(_MOVES):
            try:
                return self._follow(record, source)
            except MovedError:
                record = source.episode(record.uuid) or dataclasses.replace(record, state="dropped")
        return self._follow(record, source)

    def _follow(self, record: EpisodeRecord, source: Source) -> int:
        """Bring one episode up to date; return the number of rows read."""
        episode = self.episodes.get(record.uuid)
        if episode is not None and episode.source is not source:
            return 0  # the same episode of an earlier source
        wanted = source.select is None or (record.state == "complete" and source.select.episode(record))
        if episode is not None and episode.evicted and record.demo != episode.record.demo:
            self._forget([episode])
            episode = None
        if record.state == "dropped" or not wanted:
            if episode is not None:
                self._forget([episode])
            return 0
        if episode is None:
            episode = self.episodes[record.uuid] = Resident(record, source)
        elif record.relabels and record.revision != episode.record.revision:
            self._reread(episode, record)
        elif self._marks(record) != self._marks(episode.record):
            self._reclassify(episode, record)
        episode.record = record
        new = self._read(episode)
        if record.state == "complete":
            self._finish(episode)
        return new

    def _read(self, episode: Resident) -> int:
        """Read the rows that are missing."""
        record, before = episode.record, episode.rows
        while episode.rows < record.rows:
            count = min(record.rows - episode.rows, max(1, _READ_BYTES // self.schema.row.itemsize))
            rows = episode.source.files.low_dim(record, episode.rows, count)
            self._make_room(count)
            if not episode.runs:
                episode.runs.append(self.table.begin(episode.arrival))
            self._append(episode, episode.runs[-1], rows)
        return episode.rows - before

    def _append(self, episode: Resident, run: Run, rows: NDArray[np.void]) -> None:
        self._of_run[run.number] = (episode, run)
        count = len(rows)
        start = self.table.append(run, rows, growing=episode.record.state == "open")
        try:
            self.tier.add(run, run.rows - count, count)
        except BaseException:
            self.tier.forget(run, run.rows - count)
            self.table.retract(run, count)
            raise
        positions = np.arange(start + (episode.rows == 0), start + count)
        self._set_demo(episode, run, run.rows - count)
        self._count(episode, positions, 1)
        for view in self.views:
            view.extend(self._selected(episode, view.filter, positions), self._growing(episode, run))
        episode.rows += count
        if episode.source.select is None and count:
            newest = int(rows["policy_version"].max())
            self.memory.control[Control.NEWEST_VERSION] = max(newest, self._newest_version)

    @property
    def _newest_version(self) -> int:
        return int(self.memory.control[Control.NEWEST_VERSION])

    def _growing(self, episode: Resident, run: Run) -> int | None:
        return run.number if episode.record.state == "open" or run.room > run.rows else None

    def _steps(self, episode: Resident) -> Iterator[tuple[Run, Positions]]:
        for run in episode.runs:
            yield run, np.arange(run.first + 1, run.stop)

    def _selected(self, episode: Resident, filter_: Filter, positions: Positions) -> Positions:
        """Those of an episode's steps that belong in a view."""
        source, policy = self.memory.source[positions], self.memory.policy[positions]
        return positions[filter_.steps(episode.effective, source, policy) & self._allowed(episode, source, policy)]

    def _allowed(self, episode: Resident, source: NDArray[np.uint8], policy: NDArray[np.int64]) -> NDArray[np.bool_]:
        if episode.source.select is not None:
            return episode.source.select.steps(episode.record, source, policy)
        return source == Who.HUMAN if episode.evicted else np.ones(len(source), bool)

    def _marks(self, record: EpisodeRecord) -> tuple[object, ...]:
        """What of an entry the filters of the views look at."""
        return tuple(getattr(record, name) for name in self._mark_names())

    def _mark_names(self) -> list[str]:
        return sorted({name for filter_ in self._filters() for name in filter_.names})

    def _looked_at(self) -> list[str]:
        """As ``_mark_names``, with what filters look at that cannot be edited."""
        by_policy = any(c.word == "policy" for filter_ in self._filters() for term in filter_.terms for c in term)
        return [*self._mark_names(), *(("policy_min", "policy_max") if by_policy else ())]

    def _filters(self) -> list[Filter]:
        """Of the views and the other buffers."""
        return [view.filter for view in self.views] + [s.select for s in self.sources if s.select is not None]

    def _set_demo(self, episode: Resident, run: Run, first: int = 0) -> None:
        positions = np.arange(run.first + first, run.stop)
        demo = np.zeros(run.rows - first, bool)
        demo[self._selected(episode, DEMO, positions) - positions[0]] = True
        self.table.set_demo(run, first, demo)

    def _count(self, episode: Resident, positions: Positions, sign: int) -> None:
        source, policy = self.memory.source[positions], self.memory.policy[positions]
        counted = np.bincount(source[self._allowed(episode, source, policy)], minlength=SOURCES)
        episode.executed += sign * counted
        self.executed += sign * counted

    def _reclassify(
        self, episode: Resident, record: EpisodeRecord, before: list[list[Positions]] | None = None
    ) -> None:
        """Its marks changed: move it between the views; ``before`` are its steps in each of them."""
        steps = [positions for _, positions in self._steps(episode)]
        old = before or [[self._selected(episode, view.filter, p) for p in steps] for view in self.views]
        self.executed -= episode.executed
        episode.executed[:] = 0
        episode.record = record
        for positions in steps:
            self._count(episode, positions, 1)
        numbers = [run.number for run in episode.runs]
        for view, known in zip(self.views, old, strict=True):
            after = [self._selected(episode, view.filter, p) for p in steps]
            if any(not np.array_equal(a, b) for a, b in zip(known, after, strict=True)):
                view.remove(self._owned_by(numbers))
                for run, positions in zip(episode.runs, after, strict=True):
                    view.extend(positions, self._growing(episode, run))
                self._unsorted.add(view.number)
        for run in episode.runs:
            self._set_demo(episode, run)
        if record.demo:
            self._candidates.pop(record.uuid, None)

    def _reread(self, episode: Resident, record: EpisodeRecord) -> None:
        """Rewards or sources may have been edited."""
        read = [episode.source.files.low_dim(record, run.first_row, run.rows) for run in episode.runs]
        before = [[self._selected(episode, view.filter, p) for _, p in self._steps(episode)] for view in self.views]
        for run, rows in zip(episode.runs, read, strict=True):
            self.table.rewrite(run, rows)
        self._reclassify(episode, record, before)

    def _finish(self, episode: Resident) -> None:
        for run in episode.runs:
            self.table.finish(run)
            for view in self.views:
                view.finish(run.number)
        own = episode.source.select is None
        if own and not episode.record.demo and not episode.evicted:
            self._candidates.setdefault(episode.record.uuid)

    def _moved(self, number: int, old: int, rows: int, new: int) -> None:
        for view in self.views:
            view.moved(number, old, rows, new)

    def _owned_by(self, numbers: Sequence[int]) -> Callable[[Positions], NDArray[np.bool_]]:
        return lambda positions: np.isin(self.memory.owner[positions], numbers)

    def _free(self, runs: Sequence[Run]) -> None:
        """Forget rows."""
        for view in self.views:
            view.remove(self._owned_by([run.number for run in runs]))
            for run in runs:
                view.finish(run.number)
        for run in runs:
            self.tier.forget(run)
            self.table.free(run)
            self._of_run.pop(run.number, None)

    def _forget(self, episodes: Sequence[Resident]) -> None:
        """Undo all that was taken in of episodes."""
        for episode in episodes:
            self.executed -= episode.executed
            if episode.evicted:
                self.left_online -= int(episode.executed.sum() - episode.executed[Who.SCRIPT])
            self._candidates.pop(episode.record.uuid, None)
            del self.episodes[episode.record.uuid]
        self._free([run for episode in episodes for run in episode.runs])

    def _make_room(self, count: int) -> None:
        """Let the oldest online episodes go, a sixteenth of the capacity at a time; human steps stay."""
        if self._capacity is None or self.table.rows + count <= self._capacity:
            return
        target = self._capacity - max(count, self._capacity // 16)
        leaving, rows = [], self.table.rows
        while rows > target and self._candidates:
            uuid = next(iter(self._candidates))
            del self._candidates[uuid]
            leaving.append(self.episodes[uuid])
            rows -= self._evictable(leaving[-1])
        self._evict(leaving)

    def _human_rows(self, run: Run) -> NDArray[np.bool_]:
        """(rows,) which rows the steps a human executed need."""
        human: NDArray[np.bool_] = self.memory.source[run.first : run.stop] == Who.HUMAN
        human[0] = False
        human[:-1] |= human[1:]
        return human

    def _evictable(self, episode: Resident) -> int:
        return sum(run.rows - int(self._human_rows(run).sum()) for run in episode.runs)

    def _evict(self, episodes: Sequence[Resident]) -> None:
        """Free the rows of episodes that no human step needs."""
        old: list[Run] = []
        for episode in episodes:
            self.left_online += int(episode.executed.sum() - episode.executed[Who.SCRIPT])
            whole, episode.runs, episode.evicted = episode.runs, [], True
            for run in whole:
                keep = np.flatnonzero(self._human_rows(run))
                for part in np.split(keep, np.flatnonzero(np.diff(keep) > 1) + 1) if len(keep) else []:
                    episode.runs.append(self.table.part(run, int(part[0]), len(part)))
            old += whole
            for run in episode.runs:
                self._of_run[run.number] = (episode, run)
                self.tier.adopt(run)
        self._free(old)
        for episode in episodes:
            for view in self.views:
                for _, positions in self._steps(episode):
                    view.extend(self._selected(episode, view.filter, positions))
            if episode.runs:
                self._unsorted.update(view.number for view in self.views)

    def _settle(self) -> None:
        """Put the views in order again, and let go what is too old or does not fit."""
        for number in self._unsorted:
            self.views[number].sort(self.table.arrival)
        self._unsorted.clear()
        for view in self.views:
            view.forget_stale(self._newest_version)
        self.tier.trim()


def _steps(
    filter_: Filter, episode: Resident, source: NDArray[np.uint8], policy: NDArray[np.int64]
) -> NDArray[np.bool_]:
    return filter_.steps(episode.effective, source, policy)


def _other(root: Path, schema: Schema, number: int, select: Filter) -> Source:
    difference = read_schema(root).difference(schema)
    if difference:
        raise StoreError(
            f"buffer {root} has another schema than this one (stored -> asked):\n  " + "\n  ".join(difference)
        )
    return Source(StorePaths(root), number, select)
