"""Histories, action chunks and whole episodes against the rows written out."""

from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode, uuid_of
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.buffer.replay import Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind, Transition


def replay_of(root: Path, episodes: list[list[Transition]], schema: Schema, ram_bytes: int | None = None) -> Replay:
    with Writer(root, schema, name="actor", robot="arm", task="peg") as writer:
        for rows in episodes:
            for t in rows:
                writer.append(t)
            writer.end_episode(success=True)
    replay = Replay(root, schema, ram_bytes=ram_bytes, seed=0)
    replay.refresh()
    return replay


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    history=st.integers(1, 4),
    chunk=st.integers(1, 6),
    budget=st.sampled_from([None, 4000]),
)
def test_a_chunk_is_the_rows_around_a_step_and_stops_at_the_ends(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], history: int, chunk: int, budget: int | None
) -> None:
    episodes = [episode(n, steps, schema=IMAGES) for n, steps in enumerate(lengths)]
    with replay_of(tmp_path_factory.mktemp("buffer"), episodes, IMAGES, budget) as replay:
        batch = replay.sample_chunks(128, history=history, chunk=chunk)
        seen = set()
        for i in range(128):
            number, now = divmod(int(batch.observation["count"][i, -1]), 1000)
            rows = episodes[number]
            seen.add((number, now))
            for h in range(history):
                at = now - (history - 1 - h)
                assert batch.observation_pad[i, h] == (at < 0)
                for key, value in rows[max(at, 0)].observation.items():
                    assert np.array_equal(batch.observation[key][i, h], value)
            for c in range(chunk):
                at = now + 1 + c
                assert batch.action_pad[i, c] == (at >= len(rows))
                assert np.array_equal(batch.action[i, c], rows[min(at, len(rows) - 1)].executed)
        assert seen <= {(n, i) for n, steps in enumerate(lengths) for i in range(steps)}
        assert batch.action.shape == (128, chunk, 2)
        assert batch.observation["camera"].shape == (128, history, 4, 5, 3)


def test_every_step_begins_a_chunk(tmp_path: Path) -> None:
    with replay_of(tmp_path, [episode(0, 3), episode(1, 2)], SCHEMA) as replay:
        batch = replay.sample_chunks(300, history=1, chunk=2)
        assert set(batch.observation["count"][:, 0].tolist()) == {0, 1, 2, 1000, 1001}
        assert not batch.demo.any()


def test_chunks_of_a_batch_stay_until_the_ring_wraps_and_copies_for_ever(tmp_path: Path) -> None:
    with replay_of(tmp_path, [episode(0, 30)], SCHEMA) as replay:
        first, copy = replay.sample_chunks(8), replay.sample_chunks(8, copy=True)
        kept = [first.action.copy(), copy.action.copy()]
        replay.sample_chunks(8)
        assert np.array_equal(first.action, kept[0])
        for _ in range(4):
            replay.sample_chunks(8)
        assert not np.array_equal(first.action, kept[0])
        assert np.array_equal(copy.action, kept[1])


@pytest.mark.parametrize(("history", "chunk"), [(0, 4), (2, 0)])
def test_senseless_chunks_are_refused(tmp_path: Path, history: int, chunk: int) -> None:
    with replay_of(tmp_path, [episode(0, 3)], SCHEMA) as replay, pytest.raises(StoreError, match="history >= 1"):
        replay.sample_chunks(4, history=history, chunk=chunk)


def test_whole_episodes(tmp_path: Path) -> None:
    written = [episode(0, 5, schema=IMAGES, humans=[2]), episode(1, 3, schema=IMAGES, end=Kind.TRUNCATED)]
    with replay_of(tmp_path, written, IMAGES) as replay:
        for number, rows in enumerate(written):
            found = replay.episode(uuid_of(number))
            assert found.record.success
            for key in IMAGES.observation:
                assert np.array_equal(found.observation[key], np.array([t.observation[key] for t in rows]))
            assert np.array_equal(found.action, np.array([t.executed for t in rows[1:]]))
            assert np.array_equal(found.reward, np.array([t.reward for t in rows[1:]], np.float32))
            assert found.discount.tolist() == [t.discount for t in rows[1:]]
            assert found.source.tolist() == [t.source for t in rows[1:]]
            assert found.policy_version.tolist() == [t.policy_version for t in rows[1:]]
            assert found.stamp_ns.tolist() == [t.stamp_ns for t in rows]
        with pytest.raises(StoreError, match="not in this replay"):
            replay.episode(uuid_of(7))
        drawn = replay.sample_episodes(40)
        assert {e.record.uuid for e in drawn} == {uuid_of(0), uuid_of(1)}
        assert {e.record.uuid for e in replay.sample_episodes(5, view="intervention")} == {uuid_of(0)}
        with pytest.raises(StoreError, match="nothing to draw"):
            replay.sample_episodes(1, view="demo")
