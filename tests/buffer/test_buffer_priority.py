"""Prioritised sampling."""

import math
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import SCHEMA, episode, uuid_of
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.buffer.index import Index
from robolearn.buffer.priority import SumTree
from robolearn.buffer.replay import Replay
from robolearn.buffer.store import StorePaths
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError


def fill(root: Path, numbers: range, steps: int = 5, name: str = "actor") -> None:
    with Writer(root, SCHEMA, name=name, robot="arm", task="peg") as w:
        for number in numbers:
            for t in episode(number, steps):
                w.append(t)
            w.end_episode(True)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 700), st.sampled_from([0.0, 0.5, 1.0, 3.0])), min_size=1, max_size=60))
def test_a_sum_tree_is_a_list_of_weights(changes: list[tuple[int, float]]) -> None:
    tree, weights = SumTree(), np.zeros(701)
    for at in range(0, len(changes), 7):
        part = changes[at : at + 7]
        tree.set(np.array([i for i, _ in part]), np.array([w for _, w in part]))
        for i, w in part:
            weights[i] = w
    assert tree.total == pytest.approx(weights.sum())
    assert np.array_equal(tree.get(np.arange(701)), weights)
    if weights.sum():
        sums = np.linspace(0, weights.sum(), 64, endpoint=False)
        expected = np.searchsorted(np.cumsum(weights), sums, side="right")
        assert np.array_equal(tree.find(sums), expected)
        assert weights[tree.find(np.array([np.nextafter(weights.sum(), 0), weights.sum()]))].all()


def test_draws_follow_the_priorities(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 3))
    with Replay(tmp_path, SCHEMA) as replay:
        replay.refresh()
        sampler = replay.prioritized("!demo", alpha=0.5, epsilon=1e-9)
        rng = np.random.default_rng(0)
        first = sampler.sample(200, rng=rng)
        assert len(set(first.next_observation["count"].tolist())) == 10
        assert (first.weights == 1.0).all()
        errors = (first.next_observation["count"] % 1000).astype(float) ** 2  # priority is the row's number
        assert sampler.update(first.ids, -errors) == 200
        drawn = np.zeros(6)
        for _ in range(50):
            batch = sampler.sample(200, rng=rng, beta=1.0)
            rows = batch.next_observation["count"] % 1000
            np.add.at(drawn, rows, 1)
            np.testing.assert_allclose(batch.weights, rows.min() / rows, rtol=1e-5)
        expected = np.arange(6) / 15 * drawn.sum()
        assert np.abs(drawn - expected).max() < 5 * math.sqrt(expected.max())


def test_a_batch_by_priority_is_what_was_written(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 4))
    rows = {(n, t.index): t for n in range(1, 4) for t in episode(n, 5)}
    with Replay(tmp_path, SCHEMA) as replay:
        replay.refresh()
        batch = replay.prioritized().sample(64, rng=np.random.default_rng(0), horizon=3, gamma=0.5)
        for i, count in enumerate(batch.observation["count"]):
            number, index = divmod(int(count), 1000)
            ahead = [rows[number, k] for k in range(index + 1, min(index + 4, 6))]
            assert batch.reward[i] == pytest.approx(sum(0.5**k * t.reward for k, t in enumerate(ahead)), abs=1e-5)
            assert np.array_equal(batch.action[i], ahead[0].executed)


def test_new_steps_come_first_and_gone_ones_never(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 3))
    with Replay(tmp_path, SCHEMA) as replay:
        replay.refresh()
        rng, sampler = np.random.default_rng(0), replay.prioritized()
        old = sampler.sample(200, rng=rng)
        sampler.update(old.ids, np.full(200, 100.0))
        sampler.update(old.ids, np.full(200, 1e-3))
        fill(tmp_path, range(3, 4), name="other")
        replay.refresh()
        batch = sampler.sample(100, rng=rng)
        assert (batch.next_observation["count"] // 1000 == 3).mean() > 0.9
        index = Index(StorePaths(tmp_path).index, writable=True)
        index.edit([uuid_of(3), uuid_of(1)], dropped=True)
        index.close()
        replay.refresh()
        assert set(sampler.sample(200, rng=rng).next_observation["count"] // 1000) == {2}
        assert 0 < sampler.update(old.ids, np.ones(200)) < 200
        assert sampler.update(batch.ids, np.ones(100)) == (batch.next_observation["count"] // 1000 == 2).sum()
        sampler.close()
        sampler.close()


def test_priorities_move_with_their_rows(tmp_path: Path) -> None:
    rows = {n: episode(n, 150) for n in (1, 2)}
    writers = {n: Writer(tmp_path, SCHEMA, name=f"w{n}", robot="arm", task="peg") for n in rows}
    with Replay(tmp_path, SCHEMA) as replay:
        sampler, rng = replay.prioritized(alpha=1.0), np.random.default_rng(0)
        for i in range(0, 151, 10):
            for n, w in writers.items():
                for t in rows[n][i : i + 10]:
                    w.append(t)
                w.flush()
            replay.refresh()
            batch = sampler.sample(512, rng=rng)
            counts = batch.next_observation["count"]
            sampler.update(batch.ids, np.where(counts == 1003, 1000.0, 1e-3))
            if i:
                assert (sampler.sample(64, rng=rng).next_observation["count"] == 1003).mean() > 0.5
    for w in writers.values():
        w.close()


def test_senseless_arguments_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with Replay(tmp_path, SCHEMA) as replay:
        with pytest.raises(StoreError, match="is empty"):
            replay.prioritized().sample(4, rng=rng)
        with pytest.raises(StoreError, match="alpha >= 0"):
            replay.prioritized(alpha=-1.0)
        with pytest.raises(StoreError, match="without 'newest'"):
            replay.prioritized(replay.view("", newest=4))
        fill(tmp_path, range(1, 2))
        replay.refresh()
        sampler = replay.prioritized()
        batch = sampler.sample(4, rng=rng)
        with pytest.raises(StoreError, match="rows >= 1"):
            sampler.sample(0, rng=rng)
        for errors in (np.ones(3), np.array([1.0, 2.0, np.nan, 0.0])):
            with pytest.raises(StoreError, match="finite errors"):
                sampler.update(batch.ids, errors)
