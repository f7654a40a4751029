"""What readers see of a buffer while it changes, against its model."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffer_model import FILTERS, Told, steps_of
from buffer_rows import IMAGES, records
from buffer_store import Store
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from robolearn.buffer.replay import Replay
from robolearn.core.errors import StoreError
from robolearn.core.types import Batch, Kind, Source, Transition

filters = st.sampled_from(sorted(FILTERS))
GAMMA = 0.9


class Evenly(np.random.Generator):
    """Draws every entry of a view once, in its order, when as many are drawn as it has."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        count = len(out) if out is not None else int(size)
        values = (np.arange(count) + 0.5) / count
        if out is None:
            return values
        out[:] = values
        return out


class Readers(RuleBasedStateMachine):
    """Two buffers, and a replay of one or both of them that is open while somebody changes them."""

    def __init__(self) -> None:
        super().__init__()
        # kills need no disk to be survived, and syncs of a real one would take most of the time
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(prefix="buffer-machine-", dir=memory)
        self.path = Path(self.folder.name)
        self.own, self.other = Store(self.path / "own"), Store(self.path / "other")
        self.replay: Replay | None = None
        self.select: str | None = None
        self.mode = "all"
        self.newest_version = -1
        self.seen: dict[int, Transition] = {}
        self.pace, self.done = 2, 0

    @invariant()
    def follow(self) -> None:
        """A reader follows, after every few events."""
        self.done += 1
        if self.done % self.pace == 0:
            self._follow(fresh=False)

    @rule(pace=st.sampled_from([1, 2, 5]))
    def follow_faster_or_slower(self, pace: int) -> None:
        self.pace = pace

    @rule(mode=st.sampled_from(["all", "exact", "cached"]), select=st.one_of(st.none(), filters))
    def reopen_replay(self, mode: str, select: str | None) -> None:
        if self.replay is not None:
            self.replay.close()
        self.mode, self.select, self.newest_version = mode, select, -1
        self.replay = self._opened()

    @rule()
    def close_replay(self) -> None:
        if self.replay is not None:
            self.replay.close()
            self.replay = None

    def _opened(self) -> Replay:
        return Replay(
            self.own.root, IMAGES, others=[] if self.select is None else [(self.other.root, self.select)],
            ram_bytes=None if self.mode == "all" else 3000, mode="cached" if self.mode == "cached" else "exact", seed=1,
        )  # fmt: skip

    @precondition(lambda self: self.replay is not None)
    @rule(text=filters, newest=st.sampled_from([None, None, 3]), lag=st.sampled_from([None, None, 2]))
    def view(self, text: str, newest: int | None, lag: int | None) -> None:
        """One that has to be kept up to date from now on."""
        assert self.replay is not None
        self.replay.view(text, newest=newest, max_version_lag=lag)
        self._follow(text, newest, lag)

    @precondition(lambda self: self.replay is not None)
    @rule()
    def refresh(self) -> None:
        self._follow()

    @precondition(lambda self: self.replay is not None)
    @rule(horizon=st.integers(1, 4), seed=st.integers(0, 9))
    def sample_what_is_old(self, horizon: int, seed: int) -> None:
        """Without a refresh: what is drawn was there at some time, whatever was done to the files since."""
        assert self.replay is not None
        if not self.replay.demo_transitions + self.replay.online_transitions:
            return
        try:
            batch = self.replay.sample(8, rng=np.random.default_rng(seed), horizon=horizon, copy=True)
        except StoreError:  # all of it was dropped, and the files that were asked are gone
            assert not self.replay.demo_transitions + self.replay.online_transitions
            return
        for i in range(8):
            number, index = divmod(int(batch.observation["count"][i]), 1000)
            before, step = self.seen[1000 * number + index], self.seen[1000 * number + index + 1]
            far = self.seen[int(batch.next_observation["count"][i])]
            assert far.episode == before.episode
            assert index < far.index <= index + horizon
            np.testing.assert_array_equal(batch.observation["camera"][i], before.observation["camera"])
            np.testing.assert_array_equal(batch.next_observation["camera"][i], far.observation["camera"])
            np.testing.assert_array_equal(batch.action[i], step.executed)
            ends = far.kind is Kind.TERMINATED
            assert batch.discount[i] == (0.0 if ends else 1.0)

    def _follow(self, text: str = "", newest: int | None = None, lag: int | None = None, *, fresh: bool = True) -> None:
        """The replay that follows, and one that is new, see what the model says."""
        if self.replay is None:
            return
        self.replay.refresh()
        versions = [
            t.policy_version
            for e in self.own.episodes.values()
            if e.known and e.state != "dropped"
            for t in e.rows[: e.known]
        ]
        self.newest_version = max([self.newest_version, *versions])
        self._look(self.replay, text, newest, lag, self.newest_version)
        if not fresh:
            return
        with self._opened() as new:
            new.refresh()
            self._look(new, text, newest, lag, max([-1, *versions]))

    def _visible(self) -> list[tuple[Told, int, bool]]:
        """(episode, step, whether it is of the other buffer) in the order in which episodes began."""
        found: list[tuple[Told, int, bool]] = []
        for store, select in ((self.other, self.select), (self.own, "")):
            if select is None:
                continue
            for record in records(store.root):
                e = store.episodes[record.uuid]
                if store is self.other and e.state != "complete":
                    continue
                found += [(e, i, store is self.other) for i in steps_of(e) if FILTERS[select](e, e.rows[i])]
        return found

    def _look(self, replay: Replay, text: str, newest: int | None, lag: int | None, version: int) -> None:
        visible = self._visible()
        passing = [s for s in visible if _passes(text, *s)]
        if lag is not None:
            passing = [(e, i, o) for e, i, o in passing if e.rows[i].policy_version >= version - lag]
        sources = [e.rows[i].source for e, i, _ in visible]
        assert replay.composition() == {s: sources.count(s) for s in Source if s in sources}
        assert replay.transitions == len(visible)
        demo = {_key(e, i): _passes("demo|intervention", e, i, o) for e, i, o in visible}
        assert replay.demo_transitions == sum(demo.values())
        assert replay.online_transitions == sum(_passes("!demo,source!=script", *s) for s in visible)
        view = replay.view(text, newest=newest, max_version_lag=lag)
        if newest is not None:
            assert view.size == min(len(passing), newest)
        else:
            assert view.size == len(passing)
        if not passing:
            with pytest.raises(StoreError, match="nothing to draw"):
                replay.sample(4, mixture=[(view, 1.0)])
            return
        self._look_at(replay, view, {_key(e, i): (e, i) for e, i, _ in passing}, demo)

    def _look_at(self, replay: Replay, view: Any, steps: dict[int, tuple[Told, int]], demo: dict[int, bool]) -> None:
        rng = np.random.default_rng(3) if self.mode == "cached" else Evenly()
        for horizon in (1, 3):
            batch = replay.sample(view.size, mixture=[(view, 1.0)], rng=rng, horizon=horizon, gamma=GAMMA)
            keys = [int(k) for k in batch.observation["count"]]
            assert set(keys) <= set(steps)
            assert self.mode == "cached" or len(set(keys)) == view.size
            for at, key in enumerate(keys):
                _check_transition(batch, at, *steps[key], horizon)
                assert bool(batch.demo[at]) == demo[key]
        chunks = replay.sample_chunks(view.size, history=2, chunk=3, mixture=[(view, 1.0)], rng=rng)
        for at, key in enumerate(int(k) for k in chunks.observation["count"][:, -1]):
            told, i = steps[key]
            rows = told.rows[: told.known]
            for j, wanted in enumerate((i - 2, i - 1)):
                now = rows[max(wanted, 0)]
                assert chunks.observation_pad[at, j] == (wanted < 0)
                for name, value in now.observation.items():
                    np.testing.assert_array_equal(chunks.observation[name][at, j], value)
            for j, wanted in enumerate((i, i + 1, i + 2)):
                now = rows[min(wanted, len(rows) - 1)]
                assert chunks.action_pad[at, j] == (wanted >= len(rows))
                np.testing.assert_array_equal(chunks.action[at, j], now.executed)
        told, _ = next(iter(steps.values()))
        whole = replay.episode(told.uuid)
        np.testing.assert_array_equal(
            whole.observation["camera"], [t.observation["camera"] for t in told.rows[: told.known]]
        )
        np.testing.assert_array_equal(whole.reward, np.float32([t.reward for t in told.rows[1 : told.known]]))


def _key(told: Told, i: int) -> int:
    return int(told.rows[i - 1].observation["count"])


def _passes(text: str, told: Told, i: int, other: bool) -> bool:
    """Steps of the other buffer are demonstrations, whatever its marks."""
    was = told.demo
    told.demo = was or other
    try:
        return FILTERS[text](told, told.rows[i])
    finally:
        told.demo = was


def _check_transition(batch: Batch, at: int, told: Told, i: int, horizon: int) -> None:
    rows = told.rows[i : min(i + horizon, told.known)]
    for part, t in ((batch.observation, told.rows[i - 1]), (batch.next_observation, rows[-1])):
        for name, value in t.observation.items():
            np.testing.assert_array_equal(part[name][at], value)
    np.testing.assert_array_equal(batch.action[at], rows[0].executed)
    assert batch.reward[at] == pytest.approx(sum(GAMMA**k * t.reward for k, t in enumerate(rows)), abs=1e-5)
    scale = 0.0 if rows[-1].kind is Kind.TERMINATED else GAMMA ** (len(rows) - 1)
    assert batch.discount[at] == pytest.approx(scale)
