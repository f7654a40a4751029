import errno
import gc
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode, row, uuid_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from robolearn.buffer.index import Index
from robolearn.buffer.replay import Replay, interleave
from robolearn.buffer.schema import Schema
from robolearn.buffer.shared import attach
from robolearn.buffer.store import StorePaths
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.types import Batch, Kind, Source, Transition

Key = tuple[int, int]


def writer(root: Path, name: str = "actor", schema: Schema = SCHEMA, *, demo: bool = False) -> Writer:
    return Writer(root, schema, name=name, robot="arm", task="peg", demo=demo, commit_every_s=1e9)


def fill(root: Path, rows: list[list[Transition]], *, demo: bool = False, schema: Schema = SCHEMA) -> None:
    with writer(root, "demo" if demo else "actor", schema, demo=demo) as w:
        for r in rows:
            for t in r:
                w.append(t)
            w.end_episode(True)


def opened(root: Path, schema: Schema = SCHEMA, capacity: int | None = None) -> Replay:
    replay = Replay(root, schema, capacity_rows=capacity, seed=0)
    replay.refresh()
    return replay


def keys(batch: Batch) -> list[Key]:
    """(episode number, row) of the rows that the samples led to."""
    return [(int(c) // 1000, int(c) % 1000) for c in batch.next_observation["count"]]


def check_exact(batch: Batch, rows: dict[Key, Transition], demo: set[Key]) -> None:
    """Every sample is rows (t-1, t) of one episode, bit by bit."""
    for i, (number, index) in enumerate(keys(batch)):
        before, after = rows[number, index - 1], rows[number, index]
        for name in before.observation:
            assert np.array_equal(batch.observation[name][i], before.observation[name])
            assert np.array_equal(batch.next_observation[name][i], after.observation[name])
        assert np.array_equal(batch.action[i], after.executed)
        assert batch.reward[i] == np.float32(after.reward)
        assert batch.discount[i] == after.discount
        assert batch.demo[i] == ((number, index) in demo)


@pytest.mark.parametrize("schema", [SCHEMA, IMAGES])
def test_samples_are_what_was_written(tmp_path: Path, schema: Schema) -> None:
    demos = [episode(n, 5, schema=schema, source=Source.SCRIPT) for n in (1, 2)]
    online = [episode(n, 4, schema=schema, humans=[2], end=Kind.TRUNCATED) for n in (3, 4, 5)]
    fill(tmp_path, demos, demo=True, schema=schema)
    fill(tmp_path, online, schema=schema)
    rows = {(n, t.index): t for n, r in zip(range(1, 6), demos + online, strict=True) for t in r}
    demo = {(n, i) for n in (1, 2) for i in range(1, 6)} | {(n, 2) for n in (3, 4, 5)}
    with opened(tmp_path, schema) as replay:
        batch = replay.sample(600, demo_fraction=0.5, rng=np.random.default_rng(0))
        check_exact(batch, rows, demo)
        assert set(keys(batch)[0::2]) == demo
        assert set(keys(batch)[1::2]) == {(n, i) for n in (3, 4, 5) for i in range(1, 5)}
        for value, spec in [
            (batch.action, schema.action),
            *((batch.observation[k], s) for k, s in schema.observation.items()),
        ]:
            assert value.shape == (600, *spec.shape)
            assert value.dtype == spec.dtype
        assert batch.reward.dtype == batch.discount.dtype == np.float32


def test_counters(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 5, source=Source.SCRIPT)], demo=True)
    fill(tmp_path, [episode(2, 4, humans=[2, 3]), episode(3, 3, source=Source.SCRIPT)])
    with Replay(tmp_path, SCHEMA) as replay:
        assert (replay.rows, replay.transitions, replay.episodes) == (0, 0, 0)
        assert replay.refresh() == 15
        assert replay.refresh() == 0
        assert (replay.rows, replay.transitions, replay.episodes) == (15, 12, 3)
        assert (replay.demo_transitions, replay.online_transitions) == (7, 4)
        assert replay.composition() == {Source.POLICY: 2, Source.HUMAN: 2, Source.SCRIPT: 8}


def test_terminal_states_do_not_bootstrap_and_everything_else_does(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 3, end=Kind.TERMINATED), episode(2, 3, end=Kind.TRUNCATED)])
    with writer(tmp_path) as w:
        for t in episode(3, 5)[:3]:
            w.append(t)
        w.flush()
        with opened(tmp_path) as replay:
            batch = replay.sample(500, demo_fraction=0.0)
            discounts = dict(zip(keys(batch), batch.discount.tolist(), strict=True))
    assert discounts == {
        (1, 1): 1,
        (1, 2): 1,
        (1, 3): 0,
        **{(2, i): 1 for i in (1, 2, 3)},
        **{(3, i): 1 for i in (1, 2)},
    }


def test_sampling_is_uniform_within_a_view(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 1), episode(2, 30), episode(3, 9)])
    with opened(tmp_path) as replay:
        drawn, n = np.zeros(40), 40_000
        for number, index in keys(replay.sample(n, demo_fraction=0.0, rng=np.random.default_rng(3))):
            drawn[{1: 0, 2: 1, 3: 31}[number] + index - 1] += 1
    chi2 = ((drawn - n / 40) ** 2 / (n / 40)).sum()
    assert chi2 < 39 + 5 * math.sqrt(2 * 39)


@given(st.integers(1, 300), st.floats(0, 1))
def test_interleaving_is_exact_everywhere(rows: int, fraction: float) -> None:
    first, second = interleave(rows, fraction)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(rows))
    assert abs(len(first) - rows * fraction) <= 0.5 + 1e-3 * rows
    count = np.cumsum(np.isin(np.arange(rows), first))
    assert np.abs(count - fraction * np.arange(1, rows + 1)).max() <= 1.0 + 1e-3 * rows


@pytest.mark.parametrize("rows", [1, 2, 7, 128])
def test_halves_alternate(rows: int) -> None:
    first, second = interleave(rows, 0.5)
    assert first.tolist() == list(range(0, rows, 2))
    assert second.tolist() == list(range(1, rows, 2))


@pytest.mark.parametrize("demo", [True, False])
def test_an_empty_view_gives_its_rows_to_the_other(tmp_path: Path, demo: bool) -> None:
    fill(tmp_path, [episode(1, 3)], demo=demo)
    with opened(tmp_path) as replay:
        batch = replay.sample(50, demo_fraction=0.5)
        assert batch.demo.all() if demo else not batch.demo.any()
        assert set(keys(batch)) == {(1, 1), (1, 2), (1, 3)}
        with pytest.raises(StoreError, match="nothing to draw"):
            replay.sample(50, demo_fraction=0.0 if demo else 1.0)


@pytest.mark.parametrize(("rows", "fraction"), [(0, 0.5), (4, -0.1), (4, 1.1), (4, math.nan)])
def test_senseless_arguments_are_refused(tmp_path: Path, rows: int, fraction: float) -> None:
    fill(tmp_path, [episode(1, 3)])
    with opened(tmp_path) as replay, pytest.raises(StoreError, match="expected rows >= 1"):
        replay.sample(rows, demo_fraction=fraction)


def test_an_empty_buffer_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "new") as replay:
        with pytest.raises(StoreError, match="nothing to draw"):
            replay.sample(4)
        with pytest.raises(StoreError, match="is empty"):
            replay.statistics("demo")


def test_an_episode_of_one_row_has_no_transition(tmp_path: Path) -> None:
    with writer(tmp_path) as w:
        w.append(row(1, 0, Kind.FIRST))
    with opened(tmp_path) as replay:
        assert (replay.rows, replay.transitions, replay.online_transitions) == (1, 0, 0)


def test_the_same_seed_gives_the_same_batches_after_reopening(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 5)], demo=True)
    live = opened(tmp_path)
    with writer(tmp_path) as w:
        for number in (2, 3):
            for t in episode(number, 6, humans=[4]):
                w.append(t)
                w.flush()
                live.refresh()
            w.end_episode(True)
    live.refresh()
    with opened(tmp_path) as again, live:
        a, b = (keys(r.sample(64, rng=np.random.default_rng(5))) for r in (live, again))
        assert a == b
        assert a != keys(again.sample(64, rng=np.random.default_rng(6)))


def test_a_batch_is_valid_until_the_ring_wraps(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 9)])
    with opened(tmp_path) as replay:
        first = replay.sample(16)
        kept = first.observation["q"].copy()
        for _ in range(2):
            replay.sample(16)
        for size in range(1, 8):
            replay.sample(size)
        assert np.array_equal(first.observation["q"], kept)


def test_statistics_count_every_row_of_the_view_once(tmp_path: Path) -> None:
    demos = [episode(1, 5), episode(2, 2)]
    fill(tmp_path, demos, demo=True)
    fill(tmp_path, [episode(3, 40)])
    with opened(tmp_path) as replay:
        mean, std = replay.statistics("demo")["q"]
        q = np.array([t.observation["q"] for r in demos for t in r], np.float64)
        np.testing.assert_allclose(mean, q.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(std, q.std(axis=0), rtol=1e-6)
        assert mean.dtype == std.dtype == np.float32
        assert replay.statistics("demo")["flag"][0].shape == (2,)
        assert set(replay.statistics("all")) == set(SCHEMA.low_dim)


def test_tags_edited_later_move_an_episode_between_views(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 4), episode(2, 3)])
    with opened(tmp_path) as replay:
        index = Index(StorePaths(tmp_path).index, writable=True)
        index.edit(uuid_of(1), demo=True)
        replay.refresh()
        assert (replay.demo_transitions, replay.online_transitions, replay.transitions) == (4, 3, 7)
        assert {number for number, _ in keys(replay.sample(64, demo_fraction=1.0))} == {1}
        assert replay.sample(64, demo_fraction=1.0).demo.all()
        index.edit(uuid_of(1), demo=False)
        replay.refresh()
        assert (replay.demo_transitions, replay.online_transitions, replay.transitions) == (0, 7, 7)
        index.edit(uuid_of(2), dropped=True)
        replay.refresh()
        assert (replay.online_transitions, replay.rows, replay.episodes) == (4, 5, 1)
        assert {number for number, _ in keys(replay.sample(64))} == {1}
        index.close()


def test_a_demonstration_that_failed_leaves_the_demo_view(tmp_path: Path) -> None:
    with writer(tmp_path, demo=True) as w, Replay(tmp_path, SCHEMA) as replay:
        for t in episode(1, 3, source=Source.SCRIPT):
            w.append(t)
        w.flush()
        replay.refresh()
        assert replay.demo_transitions == 3
        w.end_episode(False, demo=False)
        replay.refresh()
        assert (replay.demo_transitions, replay.online_transitions) == (0, 0)


def test_beyond_its_capacity_the_oldest_online_episodes_leave(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 9)], demo=True)
    fill(tmp_path, [episode(n, 9, humans=[3] if n == 2 else []) for n in range(2, 12)])
    everything = {(n, t.index): t for n in range(1, 12) for t in episode(n, 9, humans=[3] if n == 2 else [])}
    with opened(tmp_path, capacity=50) as replay:
        assert replay.rows <= 50
        assert (replay.transitions, replay.online_transitions, replay.demo_transitions) == (99, 90, 10)
        demo = {(1, i) for i in range(1, 10)} | {(2, 3)}
        batch = replay.sample(1000)
        check_exact(batch, everything, demo)
        assert set(keys(batch)[0::2]) == demo
        online = {n for n, _ in keys(batch)[1::2]}
        assert online == set(range(min(online), 12))
        assert len(online) >= 2
        index = Index(StorePaths(tmp_path).index, writable=True)
        index.edit(uuid_of(2), demo=True)  # it left RAM, and comes back whole
        index.close()
        replay.refresh()
        assert (replay.transitions, replay.online_transitions, replay.demo_transitions) == (99, 81, 18)
        check_exact(replay.sample(1000), everything, demo | {(2, i) for i in range(1, 10)})


def test_damage_is_an_error_and_the_rest_stays_usable(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 4)])
    with opened(tmp_path) as replay:
        fill(tmp_path, [episode(2, 4)])
        log = sorted((tmp_path / "logs").iterdir())[-1]
        raw = bytearray(log.read_bytes())
        raw[len(raw) // 2] ^= 4
        log.write_bytes(raw)
        for _ in range(2):
            with pytest.raises(CorruptDataError, match=f"episode {uuid_of(2)}: row"):
                replay.refresh()
        assert {number for number, _ in keys(replay.sample(64))} == {1}


def test_a_missing_log_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 4)])
    next((tmp_path / "logs").iterdir()).unlink()
    with Replay(tmp_path, SCHEMA) as replay, pytest.raises(CorruptDataError, match="not on disk"):
        replay.refresh()


def test_a_replay_that_cannot_be_opened_keeps_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: who is out of file handles cannot wait for the collector."""
    root, other = tmp_path / "buffer", tmp_path / "other"
    fill(root, [episode(1, 4)])
    fill(other, [episode(2, 4)])
    real, left = os.memfd_create, 0

    def scarce(*arguments: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(*arguments)

    def refused(room: int, message: str, **more: Any) -> None:
        nonlocal left
        left = room
        before = os.listdir("/proc/self/fd")
        with pytest.raises(StoreError, match=message):
            Replay(root, SCHEMA, **more)
        assert os.listdir("/proc/self/fd") == before, message

    opened(root).close()
    monkeypatch.setattr(os, "memfd_create", scarce)
    gc.collect()
    gc.disable()
    try:
        refused(0, "enough file handles")
        refused(3, "enough file handles")
        refused(99, "expected 'exact' or 'cached'", mode="nonsense")
        refused(99, "no buffer in", others=[(other, ""), (tmp_path / "none", "")])
    finally:
        gc.enable()


def test_attaching_that_fails_keeps_no_file(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 4)])
    with opened(tmp_path) as replay:
        handle = replay.handle()
        attach(handle).close()
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ValueError, match="non-negative"):
            attach(handle, seed=-1)
        assert os.listdir("/proc/self/fd") == before


def test_another_schema_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 4)])
    with pytest.raises(StoreError, match="camera"):
        Replay(tmp_path, IMAGES)


class Model(RuleBasedStateMachine):
    """Two writers and a reader against lists in memory: whatever the order of things, samples are what was appended."""

    @initialize(capacity=st.sampled_from([None, 12, 30]))
    def start(self, capacity: int | None) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.capacity = capacity
        self.appended: dict[str, dict[int, list[Transition]]] = {"actor": {}, "demo": {}}
        self.visible: dict[int, int] = {}
        self.current: dict[str, int] = {}
        self.number = 0
        self.writers = {name: writer(self.root, name, demo=name == "demo") for name in self.appended}
        self.replay = Replay(self.root, SCHEMA, capacity_rows=capacity)

    @rule(name=st.sampled_from(["actor", "demo"]), count=st.integers(1, 6), human=st.booleans())
    def append(self, name: str, count: int, human: bool) -> None:
        for _ in range(count):
            if name not in self.current:
                self.number += 1
                self.current[name] = self.number
                self.appended[name][self.number] = []
            number = self.current[name]
            rows = self.appended[name][number]
            kind = Kind.MID if rows else Kind.FIRST
            rows.append(row(number, len(rows), kind, source=Source.HUMAN if human and rows else Source.POLICY))
            self.writers[name].append(rows[-1])

    @rule(name=st.sampled_from(["actor", "demo"]), kind=st.sampled_from([Kind.TERMINATED, Kind.TRUNCATED]))
    def end(self, name: str, kind: Kind) -> None:
        if name in self.current:
            number = self.current.pop(name)
            rows = self.appended[name][number]
            rows.append(row(number, len(rows), kind))
            self.writers[name].append(rows[-1])
            self.writers[name].end_episode(True)
            self.visible[number] = len(rows)

    @rule(name=st.sampled_from(["actor", "demo"]), durable=st.booleans())
    def flush(self, name: str, durable: bool) -> None:
        self.writers[name].flush(durable=durable)
        if name in self.current:
            self.visible[self.current[name]] = len(self.appended[name][self.current[name]])

    @rule(name=st.sampled_from(["actor", "demo"]))
    def reopen_writer(self, name: str) -> None:
        self.writers[name].close()
        self.writers[name] = writer(self.root, name, demo=name == "demo")
        if name in self.current:
            number = self.current.pop(name)
            self.visible[number] = len(self.appended[name][number])
            if name == "demo":  # what was cut short is no demonstration
                self.appended["actor"][number] = self.appended["demo"].pop(number)

    @rule()
    def reopen_reader(self) -> None:
        self.replay.close()
        self.replay = Replay(self.root, SCHEMA, capacity_rows=self.capacity)

    def seen(self) -> Iterator[tuple[str, Key, Transition]]:
        for name, episodes in self.appended.items():
            for number, rows in episodes.items():
                for t in rows[1 : self.visible.get(number, 0)]:
                    yield name, (number, t.index), t

    @precondition(lambda self: hasattr(self, "replay"))
    @invariant()
    def agrees(self) -> None:
        self.replay.refresh()
        seen = list(self.seen())
        demo = {key for name, key, t in seen if name == "demo" or t.source is Source.HUMAN}
        online = {key for name, key, _ in seen if name == "actor"}
        assert self.replay.transitions == len(seen)
        assert self.replay.demo_transitions == len(demo)
        assert self.replay.online_transitions == len(online)
        resident = self.replay.rows
        for fraction, keys_ in ((0.0, online), (1.0, demo)):
            if not keys_ or (fraction == 0.0 and self.capacity is not None):
                continue
            batch = self.replay.sample(64, demo_fraction=fraction)
            assert set(keys(batch)) <= keys_
            rows = {(n, t.index): t for e in self.appended.values() for n, r in e.items() for t in r}
            check_exact(batch, rows, demo)
        if self.capacity is None:
            assert resident == sum(self.visible.values())
        elif seen and (demo or self.replay.view("!demo,source!=script").size):
            rows = {(n, t.index): t for e in self.appended.values() for n, r in e.items() for t in r}
            check_exact(self.replay.sample(64), rows, demo)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.replay.close()
            for w in self.writers.values():
                w.close()
            self.folder.cleanup()


Model.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestModel = Model.TestCase
