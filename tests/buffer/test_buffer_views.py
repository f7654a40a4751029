"""Views and mixtures of them, of one buffer and of several."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode, row, uuid_of
from hypothesis import given
from hypothesis import strategies as st

from robolearn.buffer.index import Index
from robolearn.buffer.records import Relabel
from robolearn.buffer.relabel import relabel
from robolearn.buffer.replay import Replay
from robolearn.buffer.store import StorePaths
from robolearn.buffer.views import View, shares_of
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Batch, Kind, Source, Transition


def fill(root: Path, rows: list[list[Transition]], *, demo: bool = False, success: bool = True, name: str = "") -> None:
    name = name or ("demo" if demo else "actor")
    with Writer(root, SCHEMA, name=name, robot=name, task="peg", demo=demo) as w:
        for r in rows:
            for t in r:
                w.append(t)
            w.end_episode(success)


def keys(batch: Batch) -> set[tuple[int, int]]:
    return {(int(c) // 1000, int(c) % 1000) for c in batch.next_observation["count"]}


def steps_in(replay: Replay, view: View) -> list[tuple[int, int]]:
    counts = replay._sampler.gatherer.low_dim("count", view.positions)
    return [(int(c) // 1000, int(c) % 1000) for c in counts]


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    fill(tmp_path, [episode(1, 3, source=Source.SCRIPT)], demo=True)
    fill(tmp_path, [episode(2, 4, humans=[2, 3]), episode(3, 3)])
    fill(tmp_path, [episode(4, 2)], success=False, name="other")
    replay = Replay(tmp_path, SCHEMA, seed=0)
    replay.refresh()
    yield replay
    replay.close()


def test_a_view_has_the_steps_its_filter_selects(replay: Replay) -> None:
    assert steps_in(replay, replay.view("success,intervention")) == [(2, 2), (2, 3)]
    assert steps_in(replay, replay.view("!success")) == [(4, 1), (4, 2)]
    assert steps_in(replay, replay.view("robot=other|demo")) == [(1, 1), (1, 2), (1, 3), (4, 1), (4, 2)]
    assert replay.view("").size == replay.transitions
    assert replay.view("demo|intervention").size == replay.demo_transitions
    assert replay.view("!success") is replay.view("!success")


def test_a_view_made_before_the_data_is_the_same_as_one_made_after(tmp_path: Path) -> None:
    texts = ["success,intervention", "!demo", "policy>=3", "steps>=4"]
    with Replay(tmp_path, SCHEMA) as early, Replay(tmp_path, SCHEMA) as late:
        views = [early.view(text) for text in texts]
        with Writer(tmp_path, SCHEMA, name="actor", robot="arm", task="peg") as w:
            for number in (1, 2, 3):
                for t in episode(number, 3 + number, humans=[2]):
                    w.append(t)
                    w.flush()
                    early.refresh()
                w.end_episode(number != 2)
        early.refresh()
        late.refresh()
        for text, view in zip(texts, views, strict=True):
            assert steps_in(early, view) == steps_in(late, late.view(text))
            assert view.size


def test_the_newest_only(replay: Replay) -> None:
    assert steps_in(replay, replay.view("!demo", newest=3)) == [(3, 3), (4, 1), (4, 2)]
    with pytest.raises(StoreError, match="newest >= 1"):
        replay.view("", newest=0)


def test_stale_steps_leave(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 9)])  # row i of episode n was acted by version n + i
    with Replay(tmp_path, SCHEMA) as replay:
        replay.refresh()
        view = replay.view("", max_version_lag=4)
        assert steps_in(replay, view) == [(1, i) for i in range(5, 10)]
        fill(tmp_path, [episode(5, 7)])
        replay.refresh()
        versions = [n + i for n, i in steps_in(replay, view)]
        assert min(versions) == 12 - 4
        assert sorted(versions) == [8, 8, 9, 9, 10, 10, 11, 12]


def test_success_decided_later_moves_steps(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 2)], success=False)
    fill(tmp_path, [episode(2, 2)])
    with Replay(tmp_path, SCHEMA) as replay:
        view = replay.view("success")
        replay.refresh()
        assert steps_in(replay, view) == [(2, 1), (2, 2)]
        index = Index(StorePaths(tmp_path).index, writable=True)
        index.edit(uuid_of(1), success=True)
        replay.refresh()
        assert steps_in(replay, view) == [(1, 1), (1, 2), (2, 1), (2, 2)]  # in order of arrival
        index.edit(uuid_of(2), success=False)
        replay.refresh()
        assert steps_in(replay, view) == [(1, 1), (1, 2)]
        index.close()


def test_relabelled_rewards_and_sources_are_seen(tmp_path: Path) -> None:
    fill(tmp_path, [episode(1, 4)])
    with Replay(tmp_path, SCHEMA) as replay:
        replay.refresh()
        assert replay.demo_transitions == 0
        relabel(tmp_path, [Relabel(uuid_of(1), "reward", 2, np.array([7.0, 8.0]))])
        relabel(tmp_path, [Relabel(uuid_of(1), "source", 3, np.array([Source.HUMAN], np.uint8))])
        replay.refresh()
        batch = replay.sample(200, demo_fraction=0.0)
        rewards = dict(zip((batch.next_observation["count"] % 1000).tolist(), batch.reward.tolist(), strict=True))
        assert (rewards[2], rewards[3]) == (7.0, 8.0)
        assert replay.demo_transitions == 1
        assert replay.composition() == {Source.POLICY: 3, Source.HUMAN: 1}
        demo = replay.sample(10, demo_fraction=1.0)
        assert keys(demo) == {(1, 3)}
        assert demo.demo.all()


def test_a_mixture_takes_its_shares(replay: Replay) -> None:
    mixture = [("demo", 2.0), (replay.view("!success"), 1.0), ("intervention", 1.0)]
    batch = replay.sample(400, mixture=mixture)
    numbers = batch.next_observation["count"] // 1000
    assert [(numbers == n).sum() for n in (1, 4, 2)] == [200, 100, 100]
    for start in range(0, 400, 40):
        assert (numbers[start : start + 40] == 1).sum() == 20
    empty = [("demo", 1.0), ("robot=nobody", 3.0)]
    assert {n for n, _ in keys(replay.sample(40, mixture=empty))} == {1}


def test_senseless_mixtures_are_refused(replay: Replay, tmp_path: Path) -> None:
    for mixture in ([], [("demo", -1.0), ("", 2.0)], [("demo", 0.0)], [("demo", float("nan"))]):
        with pytest.raises(StoreError, match="weights"):
            replay.sample(4, mixture=mixture)
    with pytest.raises(StoreError, match="nothing to draw 4 rows"):
        replay.sample(4, mixture=[("robot=nobody", 1.0)])
    with Replay(tmp_path, SCHEMA) as other, pytest.raises(StoreError, match="another replay"):
        replay.sample(4, mixture=[(other.view("success"), 1.0)])


@given(st.integers(1, 200), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
def test_shares_are_exact(rows: int, weights: list[float]) -> None:
    shares = shares_of(rows, tuple(weights))
    assert sorted(np.concatenate(shares).tolist()) == list(range(rows))
    for at, weight in zip(shares, weights, strict=True):
        assert abs(len(at) - rows * weight / sum(weights)) <= len(weights) + 1e-3 * rows


def test_several_buffers_at_once(tmp_path: Path) -> None:
    mine, a, b = tmp_path / "mine", tmp_path / "a", tmp_path / "b"
    fill(mine, [episode(1, 3)])
    fill(a, [episode(2, 3, source=Source.SCRIPT)], demo=True)
    fill(a, [episode(3, 2)])
    fill(b, [episode(4, 4, humans=[2, 4])])
    fill(b, [episode(5, 4, humans=[1])], success=False)
    fill(b, [episode(1, 3)])  # known already
    with Replay(mine, SCHEMA, others=[(a, "demo"), (b, "success,intervention")]) as replay:
        replay.refresh()
        assert steps_in(replay, replay.view("demo|intervention")) == [(2, 1), (2, 2), (2, 3), (4, 2), (4, 4)]
        assert replay.online_transitions == 3
        assert replay.transitions == 8
        batch = replay.sample(64)
        assert batch.demo[0::2].all()
        assert not batch.demo[1::2].any()
        assert keys(batch) == {(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (4, 2), (4, 4)}
        fill(a, [episode(6, 2)], demo=True)
        assert replay.refresh() == 3
        assert replay.demo_transitions == 7
        index = Index(StorePaths(a).index, writable=True)
        index.edit(uuid_of(2), demo=False)
        index.close()
        replay.refresh()
        assert replay.demo_transitions == 4
        assert not list((mine / "logs").glob("demo*"))


def test_another_buffer_has_to_fit(tmp_path: Path) -> None:
    fill(tmp_path / "a", [episode(1, 2)])
    with pytest.raises(StoreError, match="camera"):
        Replay(tmp_path / "mine", IMAGES, others=[(tmp_path / "a", "")])
    with pytest.raises(StoreError, match="no buffer"):
        Replay(tmp_path / "new", SCHEMA, others=[(tmp_path / "nowhere", "")])


def test_interleaved_writers_fill_views_with_their_own_rows(tmp_path: Path) -> None:
    """Growing episodes move in memory; no view may point to where they were."""
    writers = [Writer(tmp_path, SCHEMA, name=f"w{n}", robot="arm", task="peg") for n in range(3)]
    rows = [episode(n, 150 + 40 * n, end=Kind.TRUNCATED, humans=range(2, 150, 7)) for n in range(3)]
    with Replay(tmp_path, SCHEMA) as replay:
        view = replay.view("intervention")
        for i in range(231):
            for w, r in zip(writers, rows, strict=True):
                if i < len(r):
                    w.append(r[i])
                    if i % 13 == 0:
                        w.flush()
                if i == len(r) - 1:
                    w.end_episode(True)
            if i % 13 == 0:
                replay.refresh()
                assert all(index % 7 == 2 for _, index in steps_in(replay, view))
                owners = replay._hot.memory.owner[view.positions - 1] == replay._hot.memory.owner[view.positions]
                assert owners.all()
        replay.refresh()
        expected = {(n, i) for n in range(3) for i in range(2, 150, 7)}
        assert set(steps_in(replay, view)) == expected
        assert len(steps_in(replay, view)) == len(expected)
        assert replay.rows == sum(map(len, rows))
        assert replay._hot.table.end < 1024
    for w in writers:
        w.close()


def test_a_closed_replay_says_so(tmp_path: Path) -> None:
    fill(tmp_path, [[row(1, 0, Kind.FIRST), row(1, 1, Kind.TERMINATED)]])
    replay = Replay(tmp_path, SCHEMA)
    replay.refresh()
    replay.close()
    replay.close()
    for call in (lambda: replay.sample(2), replay.refresh, lambda: replay.view("demo")):
        with pytest.raises(StoreError, match="closed"):
            call()
