"""n-step samples against the sum written out."""

from pathlib import Path

import numpy as np
import pytest
from buffer_rows import SCHEMA, episode
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.buffer.replay import Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind, Transition

GAMMA = 0.9


def replay_of(root: Path, episodes: list[list[Transition]], schema: Schema, capacity: int | None = None) -> Replay:
    with Writer(root, schema, name="actor", robot="arm", task="peg") as writer:
        for rows in episodes:
            for row in rows:
                writer.append(row)
            writer.end_episode(success=True)
    replay = Replay(root, schema, capacity_rows=capacity, seed=0)
    replay.refresh()
    return replay


def check(replay: Replay, episodes: dict[int, list[Transition]], horizon: int) -> set[int]:
    """Every row of a batch is the n-step sample of the transition it starts with; returns the episodes seen."""
    batch = replay.sample(256, horizon=horizon, gamma=GAMMA)
    seen = set()
    for i in range(256):
        number, index = divmod(int(batch.observation["count"][i]), 1000)
        rows = episodes[number][index + 1 : index + 1 + horizon]
        expected = sum(GAMMA**k * row.reward for k, row in enumerate(rows))
        assert batch.reward[i] == pytest.approx(expected, abs=1e-5)
        np.testing.assert_array_equal(batch.action[i], rows[0].executed)
        assert int(batch.next_observation["count"][i]) == 1000 * number + rows[-1].index
        assert batch.discount[i] == pytest.approx(rows[-1].discount * GAMMA ** (len(rows) - 1))
        seen.add(number)
    return seen


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    horizon=st.integers(1, 6),
    ends=st.lists(st.sampled_from([Kind.TERMINATED, Kind.TRUNCATED]), min_size=5, max_size=5),
)
def test_an_n_step_sample_sums_its_rewards_and_stops_at_the_end_of_the_episode(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], horizon: int, ends: list[Kind]
) -> None:
    episodes = {n: episode(n, steps, end=end) for n, (steps, end) in enumerate(zip(lengths, ends, strict=False))}
    with replay_of(tmp_path_factory.mktemp("buffer"), list(episodes.values()), SCHEMA) as replay:
        check(replay, episodes, horizon)


def test_a_growing_episode_uses_what_is_there_and_more_when_it_comes(tmp_path: Path) -> None:
    rows = episode(1, 8)
    with Writer(tmp_path, SCHEMA, name="actor", robot="arm", task="peg") as writer:
        replay = Replay(tmp_path, SCHEMA, seed=0)
        for row in rows[:4]:
            writer.append(row)
        writer.flush()
        replay.refresh()
        check(replay, {1: rows[:4]}, horizon=3)
        for row in rows[4:]:
            writer.append(row)
        writer.end_episode(success=True)
        replay.refresh()
        check(replay, {1: rows}, horizon=3)
        replay.close()


def test_slots_used_again_do_not_join_episodes(tmp_path: Path) -> None:
    episodes = {n: episode(n, 6, end=Kind.TRUNCATED) for n in range(12)}
    with replay_of(tmp_path, list(episodes.values()), SCHEMA, capacity=24) as replay:
        assert check(replay, episodes, horizon=4) < set(episodes)


@pytest.mark.parametrize(("horizon", "gamma"), [(0, 0.9), (3, 1.1), (3, -0.1)])
def test_senseless_horizons_are_refused(tmp_path: Path, horizon: int, gamma: float) -> None:
    with replay_of(tmp_path, [episode(0, 3)], SCHEMA) as replay, pytest.raises(StoreError, match="horizon"):
        replay.sample(4, horizon=horizon, gamma=gamma)
