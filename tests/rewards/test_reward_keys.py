"""Labels of a person."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from robolearn.core.errors import ConfigError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Judgement, Kind, TaskSpec
from robolearn.rewards.keys import Config, KeysReward, build
from robolearn.rewards.parts.labels import Labels

SPEC = TaskSpec("t", {"q": ArraySpec("q", (2,))}, ArraySpec("action", (2,), low=-1.0, high=1.0), 20, 10.0)
MID = Judgement(0.3, Kind.MID, False)


def judged(reward: KeysReward, told: Judgement = MID) -> tuple[float, Kind, bool]:
    after = reward.of(told, {"q": np.zeros(2, np.float32)}, taken_over=False)
    return after.reward, after.kind, after.success


def test_a_label_ends_the_episode_at_the_next_step() -> None:
    reward = build(Config(success=2.0, failure=-0.5), SPEC)
    assert judged(reward) == (0.0, Kind.MID, False)
    reward.labels.put(1)
    assert judged(reward) == (2.0, Kind.TERMINATED, True)
    assert judged(reward) == (0.0, Kind.MID, False)
    reward.labels.put(1)
    reward.labels.put(-1)  # a mistake, put right in time
    assert judged(reward) == (-0.5, Kind.TERMINATED, False)


def test_a_label_between_episodes_counts_for_none() -> None:
    reward = build(Config(), SPEC)
    reward.labels.put(1)
    reward.reset()
    assert judged(reward) == (0.0, Kind.MID, False)


def test_what_the_task_takes_for_a_success_does_not_count() -> None:
    reward = build(Config(), SPEC)
    assert judged(reward, Judgement(1.0, Kind.TERMINATED, True)) == (0.0, Kind.MID, False)
    assert judged(reward, Judgement(0.0, Kind.TERMINATED, False)) == (0.0, Kind.TERMINATED, False)
    assert judged(reward, Judgement(0.0, Kind.TRUNCATED, False)) == (0.0, Kind.TRUNCATED, False)


def test_each_label_is_taken_once_whoever_puts_it() -> None:
    labels, taken, done = Labels(), [], threading.Event()

    def press() -> None:
        for _ in range(500):
            labels.put(1)
        done.set()

    thread = threading.Thread(target=press)
    thread.start()
    while not done.is_set():
        taken.append(labels.take())
    thread.join()
    taken += [labels.take(), labels.take()]
    assert set(taken) <= {0, 1}
    assert taken[-1] == 0
    assert 1 <= sum(taken) <= 500


def test_what_is_no_label_is_refused() -> None:
    for bad in (0, 2):
        with pytest.raises(ConfigError, match=r"a label is \+1 \(success\) or -1 \(failure\), got"):
            Labels().put(bad)
    with pytest.raises(ConfigError, match=r"keys.success is 0.0"):
        Config(success=0.0)
    with pytest.raises(ConfigError, match=r"keys.failure is 0.5"):
        Config(failure=0.5)
