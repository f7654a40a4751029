"""The scripted person: when hands go on, how long they stay, and what they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Human
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.types import Moment, Skill, TaskSpec
from robolearn.teleop import scripted
from robolearn.teleop.scripted import Config, ScriptedHuman

STEPS = 50
RIGHT, WRONG = np.zeros(2), np.array([0.8, -0.8])
NEVER: dict[str, Any] = {"disagree": 0.0, "hurry": 0.0, "stuck": 0, "late": 0.0, "random": 0.0}
SURE: dict[str, Any] = NEVER | {"attention": 1.0, "noise": 0.0, "delay": 0, "rest": 0, "hold": 3, "agree": 0.0}


class Still:
    """A task whose informed expert wants zero and whose weak one a half."""

    def __init__(self, skills: tuple[Skill, ...] = (Skill.INFORMED, Skill.WEAK), chance: float = 0.0) -> None:
        action = ArraySpec("action", (2,), low=-1.0, high=1.0)
        self.spec = TaskSpec("still", {"state": ArraySpec("state", (1,))}, action, STEPS, 10.0, skills=skills)
        self.chance = chance

    def expert(self, raw: Observation, rng: np.random.Generator, *, skill: Skill) -> Array:
        wanted = np.full(2, 0.5 if skill is Skill.WEAK else 0.0)
        return wanted + self.chance * rng.standard_normal(2)


def person(task: Any = None, *, seed: int = 0, **changes: Any) -> ScriptedHuman:
    return scripted.build(Config(**(SURE | changes)), task or Still(), np.random.default_rng(seed))


def pose(x: float, turn: float = 0.0) -> Array:
    return np.array([x, 0.0, 0.0, np.cos(turn / 2), 0.0, 0.0, np.sin(turn / 2)])


def moment(step: int, proposed: Array = RIGHT, raw: Observation | None = None) -> Moment:
    raw = {"tool_pose": pose(0.01 * step)} if raw is None else raw
    return Moment(step, raw, {"state": np.zeros(1)}, proposed)


def episode(human: ScriptedHuman, proposals: list[Array], **kwargs: Any) -> list[Array | None]:
    human.reset()
    return [human.correct(moment(step, proposed, **kwargs)) for step, proposed in enumerate(proposals)]


def driven(human: ScriptedHuman, proposals: list[Array], **kwargs: Any) -> list[int]:
    return [step for step, action in enumerate(episode(human, proposals, **kwargs)) if action is not None]


def spans(steps: list[int]) -> list[int]:
    """Lengths of runs of consecutive steps."""
    if not steps:
        return []
    cuts = np.flatnonzero(np.diff(steps) > 1) + 1
    return [len(part) for part in np.split(np.array(steps), cuts)]


def test_is_a_human() -> None:
    assert isinstance(person(late=0.5), Human)


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_hands_are_on_exactly_the_delay_after_patience_is_out(delay: int) -> None:
    human = person(disagree=0.5, patience=3, delay=delay)
    # wrong from step 5 on: steps 5, 6, 7 are disagreed with, and 7 is the step of the decision
    steps = driven(human, [RIGHT] * 5 + [WRONG] * 20)
    assert steps == list(range(7 + delay, 25))
    assert (human.reason, human.takeovers, human.steps) == ("disagree", 1, len(steps))


def test_what_was_decided_is_done_even_if_the_policy_mends_itself() -> None:
    assert driven(person(disagree=0.5, patience=1, delay=2), [WRONG] + [RIGHT] * 9) == [2, 3, 4]


def test_patience_is_steps_in_a_row() -> None:
    assert driven(person(disagree=0.5, patience=3), [WRONG, WRONG, RIGHT] * 6) == []


def test_lets_go_once_the_policy_agrees_but_not_before_hold() -> None:
    human = person(disagree=0.5, patience=1, hold=4, agree=0.1)
    assert driven(human, [WRONG] + [RIGHT] * 9) == [0, 1, 2, 3]
    assert driven(human, [WRONG] * 6 + [RIGHT] * 9) == [0, 1, 2, 3, 4, 5]


def test_lets_go_after_the_longest_takeover_and_rests() -> None:
    human = person(disagree=0.5, patience=1, hold=2, longest=4, rest=3)
    assert driven(human, [WRONG] * 14) == [0, 1, 2, 3, 7, 8, 9, 10]


def test_stuck_is_being_where_one_was() -> None:
    human = person(stuck=4, still_mm=2.0, still_deg=2.0, hold=50)
    assert driven(human, [RIGHT] * 20) == []  # moves 10 mm a step
    assert driven(human, [RIGHT] * 10, raw={"tool_pose": pose(0.3)}) == list(range(4, 10))
    assert human.reason == "stuck"
    human.reset()
    wiggling = [human.correct(moment(i, raw={"tcp_pose": pose(1e-3 * (i % 2))})) for i in range(8)]
    assert [action is not None for action in wiggling] == [False] * 4 + [True] * 4
    human.reset()
    turning = [human.correct(moment(i, raw={"tool_pose": pose(0.3, turn=0.05 * i)})) for i in range(30)]
    assert turning == [None] * 30


def test_a_robot_without_a_pose_is_never_stuck() -> None:
    assert driven(person(stuck=2), [RIGHT] * 30, raw={"q": np.zeros(3)}) == []


def test_late_is_finished_by_the_person() -> None:
    human = person(late=0.6, hold=1, agree=1.0)
    assert driven(human, [RIGHT] * STEPS) == list(range(30, STEPS))
    assert human.reason == "late"


def test_who_is_in_a_hurry_lets_nothing_pass_that_they_do_not_agree_with() -> None:
    doubtful = np.array([0.3, 0.3])
    patient = person(disagree=0.5, patience=1, agree=0.2)
    assert driven(patient, [doubtful] * STEPS) == []
    human = person(disagree=0.5, patience=2, agree=0.2, hurry=0.6)
    assert driven(human, [doubtful] * STEPS) == list(range(31, STEPS))
    assert human.reason == "disagree"
    assert driven(human, [RIGHT] * STEPS) == []
    assert driven(human, [doubtful] * 36 + [RIGHT] * 10) == list(range(31, 36))  # lets go: this is no finish
    assert driven(person(patience=1, agree=0.2, hurry=0.6), [WRONG] * STEPS) == list(range(30, STEPS))


def test_random_takeovers_come_as_often_as_asked() -> None:
    human = person(random=0.05, hold=1, agree=1.0)
    steps = [driven(human, [RIGHT] * STEPS) for _ in range(200)]
    # with hold=1 and full agreement each takeover is one step, followed by a step in which another may begin
    rate = sum(map(len, steps)) / (200 * STEPS)
    assert rate == pytest.approx(0.05, abs=0.007)  # 3 standard deviations


def test_attention_is_the_probability_of_noticing_per_step() -> None:
    human = person(late=0.02, attention=0.25, hold=50)
    first = [driven(human, [RIGHT] * 40)[:1] for _ in range(400)]
    waits = [steps[0] - 1 for steps in first if steps]
    assert np.mean(waits) == pytest.approx(3.0, abs=0.55)  # geometric: (1 - p) / p, deviation 3.46 / sqrt(400) * 3


def test_noise_is_what_was_asked_for_and_stays_in_bounds() -> None:
    human = person(late=0.0001, noise=0.2, hold=50)
    actions = np.array([a for _ in range(40) for a in episode(human, [RIGHT] * STEPS) if a is not None])
    assert actions.shape == (40 * (STEPS - 1), 2)
    assert actions.dtype == np.float32
    assert actions.std() == pytest.approx(0.2, rel=0.05)
    assert abs(actions.mean()) < 0.012
    wild = np.array([a for a in episode(person(late=0.0001, noise=5.0), [RIGHT] * STEPS) if a is not None])
    assert np.abs(wild).max() == 1.0


def test_hands_may_be_less_able_than_the_eye() -> None:
    human = person(disagree=0.4, patience=1, skill=Skill.WEAK, insight=Skill.INFORMED, agree=0.1)
    assert driven(human, [RIGHT] * 10) == []
    actions = episode(human, [WRONG] * 3)
    np.testing.assert_array_equal(np.array(actions), np.full((3, 2), 0.5, np.float32))


def test_a_budget_is_spent_and_fades() -> None:
    human = person(late=0.5, budget=0.5)
    assert [bool(driven(human, [RIGHT] * STEPS)) for _ in range(6)] == [False, True] * 3
    fading = person(late=0.5, budget=1.0, budget_decay=0.5)
    assert [bool(driven(fading, [RIGHT] * STEPS)) for _ in range(8)] == [True] + [False] * 7
    later = scripted.build(
        Config(**(SURE | {"late": 0.5, "budget": 1.0, "budget_decay": 0.5})),
        Still(),
        np.random.default_rng(0),
        episodes=3,
    )
    assert [bool(driven(later, [RIGHT] * STEPS)) for _ in range(3)] == [True, False, False]


def test_a_new_episode_begins_with_hands_off() -> None:
    human = person(disagree=0.5, patience=1, delay=3)
    assert driven(human, [WRONG] * 2) == []
    assert driven(human, [RIGHT] * 9) == []  # what was decided is forgotten
    assert driven(human, [WRONG] * 5) == [3, 4]
    assert human.driving
    human.reset()
    assert not human.driving


def test_the_same_generator_gives_the_same_person() -> None:
    config = {"disagree": 0.5, "random": 0.05, "noise": 0.1, "attention": 0.5, "delay": 1, "agree": 0.3}
    rng = np.random.default_rng(0)
    proposals = [rng.uniform(-1.0, 1.0, 2) for _ in range(STEPS)]

    def run(seed: int) -> list[Array | None]:
        human = person(Still(chance=0.1), seed=seed, **config)
        return [action for _ in range(3) for action in episode(human, proposals)]

    one, two, other = run(1), run(1), run(2)
    assert [a is None for a in one] == [a is None for a in two]
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True) if a is not None)
    assert any(
        (a is None) != (b is None) or (a is not None and not np.array_equal(a, b))
        for a, b in zip(one, other, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(
    hold=st.integers(1, 8),
    more=st.integers(0, 6),
    limited=st.booleans(),
    delay=st.integers(0, 4),
    rest=st.integers(0, 5),
    stuck=st.integers(0, 6),
    late=st.sampled_from([0.0, 0.5, 1.0]),
    hurry=st.sampled_from([0.0, 0.3]),
    chance=st.sampled_from([0.0, 0.2]),
    attention=st.sampled_from([0.3, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_a_takeover_is_as_long_as_it_may_be(
    hold: int, more: int, limited: bool, delay: int, rest: int, stuck: int, late: float, hurry: float,
    chance: float, attention: float, seed: int,
) -> None:  # fmt: skip
    """Whatever the person is like and sees: never fewer than ``hold`` steps unless the episode ends, never more than
    ``longest``, at least ``rest`` + ``delay`` steps in between, and the counters count."""
    rng = np.random.default_rng(seed)
    human = person(
        seed=seed, disagree=0.5, patience=2, hold=hold, longest=hold + more if limited else 0, delay=delay, rest=rest,
        stuck=stuck, late=late, hurry=hurry, random=chance, attention=attention, agree=0.3, noise=0.3,
    )  # fmt: skip
    total = count = 0
    for _ in range(2):
        proposals = [WRONG if rng.random() < 0.7 else RIGHT for _ in range(STEPS)]
        raw = {"tool_pose": pose(0.0)} if rng.random() < 0.5 else None
        actions = episode(human, proposals, raw=raw)
        steps = [i for i, action in enumerate(actions) if action is not None]
        lengths = spans(steps)
        total, count = total + len(steps), count + len(lengths)
        ended = lengths[:-1] if steps and steps[-1] == STEPS - 1 else lengths
        if rest + delay:  # else two takeovers may touch
            assert all(length >= hold for length in ended)
            assert not limited or all(length <= hold + more for length in lengths)
            assert count == human.takeovers
        gaps = np.diff(steps)
        assert all(gap - 1 >= rest + delay for gap in gaps[gaps > 1])
        assert all(np.abs(action).max() <= 1.0 for action in actions if action is not None)
    assert total == human.steps


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"delay": -1}, "delay"),
        ({"noise": float("nan")}, "noise"),
        ({"random": 1.5}, "random"),
        ({"hold": 0}, "hold"),
        ({"attention": 0.0}, "attention"),
        ({"disagree": 0.2, "agree": 0.4}, "agree"),
        ({"hold": 9, "longest": 5}, "longest"),
        ({"stuck": 0, "late": 0.0}, "never takes over"),
        ({"hurry": 1.5}, "hurry"),
        ({"hurry": 0.5, "agree": 0.0}, "hurry needs"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Config(**change)


def test_a_task_without_that_expert_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no weak expert that could correct \(have: informed\)"):
        person(Still(skills=(Skill.INFORMED,)), late=0.5, skill=Skill.WEAK)
    with pytest.raises(ConfigError, match="have: none"):
        person(Still(skills=()), late=0.5)
