"""Rewards from text, and their sum."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from robolearn.core import plugins
from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Reward
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.types import Judgement, Kind, TaskSpec
from robolearn.rewards.parts.build import Sum, Term, build_reward, parse

SPEC = TaskSpec("t", {"q": ArraySpec("q", (2,))}, ArraySpec("action", (2,), low=-1.0, high=1.0), 20, 10.0)
MID = Judgement(0.25, Kind.MID, False, {"depth_mm": 3.0})
DONE = Judgement(1.0, Kind.TERMINATED, True)


def frame() -> dict[str, Array]:
    return {"q": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("task", [Term(1.0, "task", None, {})]),
        (" task + 0.5 * intervention ", [Term(1.0, "task", None, {}), Term(0.5, "intervention", None, {})]),
        ("-1e+1*a+.5*b", [Term(-10.0, "a", None, {}), Term(0.5, "b", None, {})]),
        ("classifier:runs/x-1.d/c_2", [Term(1.0, "classifier", "runs/x-1.d/c_2", {})]),
        ('classifier:"a+b(c)"', [Term(1.0, "classifier", "a+b(c)", {})]),
        (
            '2*classifier:some/dir(threshold=0.9, consecutive = 3)+keys(a="x,y")',
            [
                Term(2.0, "classifier", "some/dir", {"threshold": "0.9", "consecutive": "3"}),
                Term(1.0, "keys", None, {"a": '"x,y"'}),
            ],
        ),
    ],
)
def test_text_is_understood(text: str, terms: list[Term]) -> None:
    assert list(parse(text)) == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "reward '': cannot understand 'nothing'; expected e.g. task"),
        ("task+", "cannot understand 'nothing'"),
        ("+task", r"cannot understand '\+task'"),
        ("task + half*keys", "cannot understand 'half"),
        ("task intervention", "cannot understand 'task intervention'"),
        ("keys(success=1", r"cannot understand 'keys\(success=1'"),
        ("1e999*task", "weight 1e999 is not finite"),
        ("keys(success)", r"expected OPTION=VALUE,... in parentheses, got 'success'"),
        ("keys(success=1,success=2)", "option 'success' is given twice"),
    ],
)
def test_what_is_not_understood_is_shown(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_reward(text, SPEC)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tsak", "unknown reward 'tsak'; did you mean 'task'"),
        ("intervention(rewrad=-1)", "unknown key 'intervention.rewrad'; did you mean 'intervention.reward'"),
        ("intervention(reward=much)", "intervention.reward: expected a number, got 'much'"),
        ("task:x", r"reward 'task' takes nothing after a colon; write task\(OPTION=VALUE\)"),
        ("classifier:a(path=b)", "its path is given twice"),
        ("classifier", "which one"),
        ("classifier:nowhere", r"no classifier in nowhere"),
    ],
)
def test_rewards_that_cannot_be_built_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_reward(text, SPEC)


def test_every_reward_of_the_tree_keeps_the_contract() -> None:
    assert {"task", "intervention", "classifier", "keys"} <= set(plugins.names("reward"))
    for name in ("task", "intervention", "keys"):
        module = plugins.load("reward", name)
        reward = module.build(module.Config(), SPEC)
        assert isinstance(reward, Reward)
        reward.reset()
        assert isinstance(reward.of(MID, frame(), taken_over=False), Judgement)


def test_a_reward_of_another_distribution_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_reward.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "VALUE = 'worth'\n"
        "@dataclass(frozen=True)\nclass Config:\n    worth: float = 0.0\n"
        "def build(config, spec): return Flat(config.worth)\n"
        "class Flat:\n    looks_ahead = False\n"
        "    def __init__(self, worth): self.worth = worth\n"
        "    def reset(self): pass\n"
        "    def of(self, judgement, after, *, taken_over): return replace(judgement, reward=self.worth)\n"
    )
    info = tmp_path / "their_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[robolearn.reward]\nflat = their_reward\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"flat.worth: expected a number"):
        build_reward("flat:abc", SPEC)
    assert build_reward("2*flat(worth=1.5)+task", SPEC).of(MID, frame(), taken_over=False).reward == 3.25


def test_one_reward_is_no_sum() -> None:
    assert not isinstance(build_reward("task", SPEC), Sum)
    assert isinstance(build_reward("0*task", SPEC), Sum)


def test_a_sum_adds_up_and_asks_each_part_about_the_task() -> None:
    reward = build_reward("task+0.5*intervention", SPEC)
    assert reward.looks_ahead
    after = frame()
    assert reward.of(MID, after, taken_over=False) == MID
    again = reward.of(MID, after, taken_over=True)
    assert again.reward == pytest.approx(0.25 - 0.5)
    assert (again.kind, again.success, again.info) == (MID.kind, MID.success, MID.info)
    assert reward.of(DONE, frame(), taken_over=False) == DONE


class Counting:
    """Ends the episode in a way of its own, and counts how often it is asked."""

    looks_ahead = False

    def __init__(self, reward: float, kind: Kind, success: bool) -> None:
        self.says, self.asked, self.resets = Judgement(reward, kind, success, {"asked": 1.0}), 0, 0

    def reset(self) -> None:
        self.resets += 1

    def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
        self.asked += 1
        return self.says


def test_a_step_judged_again_is_seen_once_by_rewards_that_do_not_look_ahead() -> None:
    """The loop asks again with what was answered, not with what the task said."""
    counting, intervention = Counting(2.0, Kind.MID, False), build_reward("intervention", SPEC)
    reward = Sum([(1.0, build_reward("task", SPEC)), (3.0, counting), (0.5, intervention)])
    reward.reset()
    after = frame()
    first = reward.of(MID, after, taken_over=False)
    assert first.reward == pytest.approx(0.25 + 6.0)
    assert reward.of(first, after, taken_over=True).reward == pytest.approx(0.25 + 6.0 - 0.5)
    assert counting.asked == 1
    assert reward.of(MID, frame(), taken_over=True).reward == pytest.approx(0.25 + 6.0 - 0.5)  # another step
    assert (counting.asked, counting.resets) == (2, 1)
    assert first.info == {"depth_mm": 3.0, "asked": 1.0}


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([Kind.MID, Kind.MID], Kind.MID),
        ([Kind.MID, Kind.TRUNCATED], Kind.TRUNCATED),
        ([Kind.TERMINATED, Kind.TRUNCATED], Kind.TERMINATED),
    ],
)
def test_a_sum_ends_with_the_first_of_its_parts(kinds: list[Kind], expected: Kind) -> None:
    parts = [Counting(0.0, kind, kind is Kind.TERMINATED) for kind in kinds]
    judged = Sum([(1.0, part) for part in parts]).of(MID, frame(), taken_over=False)
    assert judged.kind is expected
    assert judged.success == (Kind.TERMINATED in kinds)


def test_an_intervention_decides_no_end_beside_a_reward_that_does() -> None:
    blind = Counting(0.0, Kind.MID, False)
    reward = Sum([(1.0, blind), (1.0, build_reward("intervention", SPEC))])
    judged = reward.of(DONE, frame(), taken_over=False)
    assert (judged.kind, judged.success) == (Kind.MID, False)
    alone = Sum([(0.5, build_reward("intervention", SPEC))]).of(DONE, frame(), taken_over=False)
    assert (alone.kind, alone.success, alone.reward) == (Kind.TERMINATED, True, 0.0)
    assert math.isfinite(judged.reward)
