"""Stored episodes with another reward, in another buffer."""

from __future__ import annotations

import dataclasses
import hashlib
from itertools import pairwise
from pathlib import Path

import labelled_episodes as toy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import EpisodeRecord, Index, Relabel
from robolearn.buffer.relabel import relabel
from robolearn.buffer.rows import unpack
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.buffer.verify import verify
from robolearn.core.errors import ConfigError
from robolearn.core.spec import Observation
from robolearn.core.types import Judgement, Kind, Source, Transition
from robolearn.rewards.intervention import Config, InterventionReward
from robolearn.run.rejudge import rejudge, rewarded


def read(root: Path) -> dict[str, tuple[EpisodeRecord, list[Transition]]]:
    paths = StorePaths(root)
    index = Index(paths.index, writable=False)
    try:
        with EpisodeFiles(paths, index) as files:
            return {r.uuid: (r, [unpack(row, files.schema) for row in files.rows(r)]) for r in index.changes()}
    finally:
        index.close()


def digest(root: Path) -> dict[str, str]:
    """Data files of a buffer; SQLite's shared memory is not data."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.endswith("-shm")]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_takeover_falls_to_the_step_before_it(tmp_path: Path) -> None:
    source, target = tmp_path / "old", tmp_path / "new"
    toy.write(source, 3, 1, humans=(4, 5, 7))
    seal(source)
    before = digest(source)
    done = rejudge(source, target, "intervention")
    assert digest(source) == before
    old, new = read(source), read(target)
    assert old.keys() == new.keys()
    for uuid, (record, rows) in new.items():
        was, stored = old[uuid]
        assert [row.reward for row in rows] == [-1.0 if row.index in (3, 6) else 0.0 for row in rows]
        assert [(r.kind, r.source, r.stamp_ns, r.policy_version) for r in rows] == [
            (r.kind, r.source, r.stamp_ns, r.policy_version) for r in stored
        ]
        for one, other in zip(rows, stored, strict=True):
            np.testing.assert_array_equal(one.observation["slider"], other.observation["slider"])
            np.testing.assert_array_equal(one.executed, other.executed)
        kept = ("robot", "task", "demo", "success", "unix_ns", "interventions", "rows")
        assert [getattr(record, name) for name in kept] == [getattr(was, name) for name in kept]
        assert record.total_reward == -2.0
    assert (done.episodes, done.successes, done.new_successes, done.shortened) == (4, 3, 3, 0)
    assert (done.reward, done.new_reward) == (3.0, -8.0)
    assert verify(target).ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_corrections_come_first_and_tags_stay(tmp_path: Path) -> None:
    source, target = tmp_path / "old", tmp_path / "new"
    first, second = toy.write(source, 2, 0)
    relabel(source, [Relabel(first, "reward", 2, np.array([7.0])), Relabel(second, "source", 3, np.array([1]))])
    index = Index(StorePaths(source).index, writable=True)
    index.edit(first, tag="keep this")
    index.close()
    rejudge(source, target, "2*task+intervention")
    new = read(target)
    assert new[first][0].tag == "keep this"
    assert [row.reward for row in new[first][1]][2] == 14.0
    assert [row.reward for row in new[second][1]][2] == -1.0  # the step after it was a human's, as was found later
    assert all(record.relabels == 0 for record, _ in new.values())


def test_without_its_success_an_episode_is_cut_off_and_bootstraps(tmp_path: Path) -> None:
    toy.write(tmp_path / "old", 2, 1)
    done = rejudge(tmp_path / "old", tmp_path / "new", "keys")
    assert (done.successes, done.new_successes, done.new_reward) == (2, 0, 0.0)
    for record, rows in read(tmp_path / "new").values():
        assert (rows[-1].kind, rows[-1].discount, record.success) == (Kind.TRUNCATED, 1.0, False)


class AtRow:
    """Sees a success at a row, or gives up there."""

    looks_ahead = False

    def __init__(self, row: int, kind: Kind) -> None:
        self.row, self.kind, self.told = row, kind, []

    def reset(self) -> None:
        self.told: list[Judgement] = []

    def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
        self.told.append(judgement)
        if int(after["step"]) == self.row:
            return Judgement(5.0, self.kind, self.kind is Kind.TERMINATED)
        return Judgement(0.0, Kind.MID, False)


@pytest.mark.parametrize("kind", [Kind.TERMINATED, Kind.TRUNCATED])
def test_an_episode_ends_where_the_reward_ends_it(kind: Kind) -> None:
    rows = toy.episode(1, success=True)
    new, success = rewarded(rows, True, AtRow(4, kind))
    assert [row.kind for row in new] == [Kind.FIRST, Kind.MID, Kind.MID, Kind.MID, kind]
    assert (new[-1].reward, new[-1].discount) == (5.0, 0.0 if kind is Kind.TERMINATED else 1.0)
    assert success == (kind is Kind.TERMINATED)


def test_the_step_limit_is_no_end_of_the_task() -> None:
    rows, reward = toy.episode(1, success=False), AtRow(99, Kind.MID)
    new, success = rewarded(rows, False, reward)
    assert [told.kind for told in reward.told] == [Kind.MID] * (len(rows) - 1)
    assert (new[-1].kind, success) == (Kind.TRUNCATED, False)
    won = AtRow(99, Kind.MID)
    rewarded(toy.episode(1, success=True), True, won)
    assert [told.success for told in won.told][-2:] == [False, True]
    assert won.told[-1].kind is Kind.TERMINATED


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(1, 12)))
def test_takeovers_are_counted_once_each(humans: set[int]) -> None:
    rows = toy.episode(3, success=True, humans=tuple(humans))
    new, _ = rewarded(rows, True, InterventionReward(Config()))
    steps = [row.source is Source.HUMAN for row in rows[1:]]
    takeovers = sum(after and not before for before, after in pairwise(steps))
    assert sum(row.reward for row in new) == -takeovers
    assert all(row.source is Source.POLICY for row in new if row.reward < 0.0)


def test_who_drove_is_known_of_steps_that_safety_refused() -> None:
    rows = toy.episode(3, success=True, humans=(4, 5, 8))
    for t in (3, 4, 8):  # one of the policy, two of the person
        rows[t] = dataclasses.replace(rows[t], source=Source.SAFETY)
    new, _ = rewarded(rows, True, InterventionReward(Config()))
    assert [row.index for row in new if row.reward < 0.0] == [3, 7]


def test_only_a_new_buffer_is_written_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    source = tmp_path / "old"
    toy.write(source, 2, 1)
    for text, select, message in (
        ("tsak", "", "unknown reward 'tsak'"),
        ("task", "robot=nobody", "no complete episodes pass 'robot=nobody'"),
    ):
        with pytest.raises(ConfigError, match=message):
            rejudge(source, tmp_path / "new", text, select=select)
    with pytest.raises(ConfigError, match="never in place"):
        rejudge(source, source, "task")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    done = rejudge(source, tmp_path / "deep" / "new", "task", select="success")
    assert (done.episodes, done.reward, done.new_reward) == (2, 2.0, 2.0)


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write(tmp_path / "old", 3, 0)

    class Breaks(AtRow):
        def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
            if judgement.success:
                raise RuntimeError("broken")
            return judgement

    monkeypatch.setattr("robolearn.run.rejudge.build_reward", lambda text, spec: Breaks(0, Kind.MID))
    with pytest.raises(RuntimeError, match="broken"):
        rejudge(tmp_path / "old", tmp_path / "new", "task")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


class _ByForce:
    """A reward that asks for what only the task knew."""

    def reset(self) -> None:
        pass

    def of(self, judgement: Judgement, observation: Observation, *, taken_over: bool) -> Judgement:
        return dataclasses.replace(judgement, reward=-judgement.info["force_n"])


def test_what_the_task_said_of_a_step_is_not_stored_and_that_is_said(tmp_path: Path) -> None:
    toy.write(tmp_path / "old", 1, 1)
    seal(tmp_path / "old")
    record, rows = next(iter(read(tmp_path / "old").values()))
    with pytest.raises(ConfigError, match=r"the reward needs 'force_n', .*buffers do not keep"):
        rewarded(rows, record.success, _ByForce())
