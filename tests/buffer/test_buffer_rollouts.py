"""Rollouts: all steps of one version, in order, and where they break off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.buffer.replay import Replay
from robolearn.buffer.writer import Writer
from robolearn.core.types import Kind, Rollouts, Source, Transition


def by(rows: list[Transition], versions: list[int]) -> list[Transition]:
    """The same rows, step t by ``versions[t - 1]``."""
    return [replace(row, policy_version=v) for row, v in zip(rows, [versions[0], *versions], strict=True)]


def steps(found: Rollouts) -> list[tuple[int, int]]:
    """(episode, row that the step led to)."""
    return [divmod(int(count), 1000) for count in found.next_observation["count"]]


def write(root: Path, episodes: list[list[Transition]], *, name: str = "actor", demo: bool = False) -> None:
    with Writer(root, SCHEMA, name=name, robot=name, task="peg", demo=demo) as writer:
        for rows in episodes:
            for row in rows:
                writer.append(row)
            if rows[-1].kind.is_last:
                writer.end_episode(True)
        writer.flush()


def test_steps_of_one_version_in_order_and_where_they_end(tmp_path: Path) -> None:
    ended = by(episode(1, 4), [6, 6, 7, 7])
    timed_out = by(episode(2, 3, end=Kind.TRUNCATED), [7, 7, 7])
    helped = by(episode(3, 5, humans=[3]), [7] * 5)
    growing = by(episode(4, 4), [7] * 4)[:-1]
    write(tmp_path, [by(episode(9, 3, source=Source.SCRIPT), [7] * 3)], name="demo", demo=True)
    with Replay(tmp_path, SCHEMA) as replay:
        assert len(replay.rollouts(7)) == 0
        write(tmp_path, [ended, timed_out, helped, growing])
        replay.refresh()
        found = replay.rollouts(7)
        assert steps(found) == [
            *[(1, 3), (1, 4)],
            *[(2, 1), (2, 2), (2, 3)],
            *[(3, 1), (3, 2), (3, 4), (3, 5)],
            *[(4, 1), (4, 2), (4, 3)],
        ]
        ends = {step for step, last in zip(steps(found), found.last, strict=True) if last}
        assert ends == {(1, 4), (2, 3), (3, 2), (3, 5), (4, 3)}
        terminal = {step for step, discount in zip(steps(found), found.discount, strict=True) if discount == 0.0}
        assert terminal == {(1, 4), (3, 5)}
        written = {(n, row.index): row for n, e in enumerate([ended, timed_out, helped, growing], 1) for row in e}
        for i, (number, index) in enumerate(steps(found)):
            before, after = written[number, index - 1], written[number, index]
            np.testing.assert_array_equal(found.action[i], after.executed)
            np.testing.assert_array_equal(found.observation["q"][i], before.observation["q"])
            np.testing.assert_array_equal(found.next_observation["q"][i], after.observation["q"])
            assert found.reward[i] == np.float32(after.reward)
        assert len(replay.rollouts(6)) == 0, "others followed"
        write(tmp_path, [by(episode(5, 2), [8, 8])], name="other")
        kept = found.action.copy()
        replay.refresh()
        assert steps(replay.rollouts(8)) == [(5, 1), (5, 2)]
        assert len(replay.rollouts(7)) == len(replay.rollouts(9)) == 0
        np.testing.assert_array_equal(found.action, kept)


@settings(max_examples=20, deadline=None)
@given(versions=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=6))
def test_every_step_of_the_newest_version_once(
    tmp_path_factory: pytest.TempPathFactory, versions: list[list[int]]
) -> None:
    root = tmp_path_factory.mktemp("buffer")
    newest = max(max(v) for v in versions)
    with Replay(root, SCHEMA) as replay:
        for number, of_steps in enumerate(versions, 1):
            write(root, [by(episode(number, len(of_steps)), of_steps)], name=f"actor{number % 2}")
            replay.refresh()
        found = replay.rollouts(newest)
    expected = [(n, t) for n, of_steps in enumerate(versions, 1) for t, v in enumerate(of_steps, 1) if v == newest]
    assert sorted(steps(found)) == expected
    for (number, index), last in zip(steps(found), found.last, strict=True):
        assert last == ((number, index + 1) not in expected)


def test_images_stay_where_they_are(tmp_path: Path) -> None:
    with Writer(tmp_path, IMAGES, name="actor", robot="arm", task="peg") as writer:
        for row in by(episode(1, 3, schema=IMAGES), [0] * 3):
            writer.append(row)
        writer.end_episode(True)
    with Replay(tmp_path, IMAGES) as replay:
        replay.refresh()
        found = replay.rollouts(0)
    assert len(found) == 3
    assert set(found.observation) == set(found.next_observation) == {"q", "count", "flag"}
