"""The episode loop on a fake robot: kinds, time-outs, takeover, safety, interruption."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import pytest

from robolearn.core.protocols import Robot
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.types import Judgement, Kind, Moment, Skill, Source, TaskSpec, Transition
from robolearn.hal.drivers import fake
from robolearn.hal.safety import SafeRobot, SafetyLimits
from robolearn.run.act import by_human, run_episode
from robolearn.run.station import Station

SCALE = 0.01
START = np.array([0.4, 0.0, 0.3, 0.0, 1.0, 0.0, 0.0])


@dataclass
class Reach:
    """Move along x until ``goal`` [m] from the start."""

    goal: float = 0.035
    max_steps: int = 10
    resets: list[float] = field(default_factory=list)

    @property
    def spec(self) -> TaskSpec:
        state = ArraySpec("state", (3,), unit="m")
        return TaskSpec("reach", {"state": state}, ArraySpec("action", (3,), low=-1, high=1), self.max_steps, 10.0)

    def reset(self, robot: Robot, rng: np.random.Generator) -> None:
        self.resets.append(rng.random())
        robot.reset(START, {})

    def observe(self, raw: Observation) -> dict[str, Array]:
        return {"state": (raw["tcp_pose"][:3] - START[:3]).astype(np.float32)}

    def command(self, action: Array) -> Array:
        return np.concatenate([SCALE * np.asarray(action, dtype=np.float64), np.zeros(4)])

    def normalise(self, robot_action: Array) -> Array:
        return (np.asarray(robot_action[:3]) / SCALE).astype(np.float32)

    def judge(self, before: Observation, action: Array, after: Observation) -> Judgement:
        done = abs(after["tcp_pose"][0] - START[0]) >= self.goal
        return Judgement(float(done), Kind.TERMINATED if done else Kind.MID, bool(done), {"peak_force_n": 1.0})

    def expert(self, raw: Observation, rng: np.random.Generator, *, skill: Skill) -> Array:
        return np.array([1.0, 0.0, 0.0], dtype=np.float32)


class Hand:
    """A human who takes over at given steps."""

    def __init__(self, actions: Mapping[int, Array]) -> None:
        self.actions, self.resets = actions, 0
        self.moments: list[Moment] = []

    def reset(self) -> None:
        self.resets += 1

    def correct(self, moment: Moment) -> Array | None:
        self.moments.append(moment)
        return self.actions.get(moment.step)


def station(task: Reach, limits: SafetyLimits | None = None) -> Station:
    box = limits or SafetyLimits(low=(0.0, -1.0, 0.0), high=(1.0, 1.0, 1.0), translation=0.05, rotation=0.3)
    return Station(SafeRobot(fake.build(fake.Config()), box, epoch=1), task)


def forward(observation: Observation, raw: Observation) -> Array:
    return np.array([1.0, 0.0, 0.0], dtype=np.float32)


def still(observation: Observation, raw: Observation) -> Array:
    return np.zeros(3, dtype=np.float32)


def test_success_is_terminal_and_rows_carry_how_they_were_reached() -> None:
    rows: list[Transition] = []
    episode = run_episode(station(Reach()), forward, np.random.default_rng(0), append=rows.append, version=lambda: 7)
    assert episode.success
    assert [row.kind for row in rows] == [Kind.FIRST, Kind.MID, Kind.MID, Kind.MID, Kind.TERMINATED]
    assert [row.index for row in rows] == list(range(5))
    assert [row.discount for row in rows] == [1, 1, 1, 1, 0]
    assert [row.reward for row in rows] == [0, 0, 0, 0, 1]
    assert {row.policy_version for row in rows} == {7}
    assert not rows[0].executed.any()
    np.testing.assert_allclose(abs(rows[1].observation["state"][0]), SCALE, atol=1e-6)
    stamps = [row.stamp_ns for row in rows]
    assert stamps == sorted(stamps)


def test_a_time_out_truncates_and_bootstraps() -> None:
    rows: list[Transition] = []
    episode = run_episode(station(Reach()), still, np.random.default_rng(0), append=rows.append)
    assert not episode.success
    assert len(rows) == 11
    assert rows[-1].kind is Kind.TRUNCATED
    assert rows[-1].discount == 1.0


def test_a_human_replaces_the_action_and_the_proposal_is_kept() -> None:
    rows: list[Transition] = []
    sideways = np.array([0.0, 0.5, 0.0], dtype=np.float32)
    episode = run_episode(
        station(Reach()),
        forward,
        np.random.default_rng(0),
        append=rows.append,
        human=Hand({1: sideways, 2: sideways}),
    )
    assert episode.interventions == 2
    assert [row.source for row in rows[1:4]] == [Source.POLICY, Source.HUMAN, Source.HUMAN]
    np.testing.assert_array_equal(rows[2].proposed, forward({}, {}))
    np.testing.assert_allclose(rows[2].executed, sideways, atol=1e-6)
    assert rows[2].human is not None
    assert rows[1].human is None


def test_what_safety_changes_is_what_is_stored() -> None:
    rows: list[Transition] = []
    limits = SafetyLimits(low=(0.0, -1.0, 0.0), high=(1.0, 1.0, 1.0), translation=0.004, rotation=0.3)
    episode = run_episode(station(Reach(), limits), forward, np.random.default_rng(0), append=rows.append)
    assert episode.safety > 0
    np.testing.assert_allclose(rows[1].executed, [0.4, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rows[1].proposed, [1, 0, 0])


def test_a_non_finite_action_is_replaced_by_holding_and_marked() -> None:
    rows: list[Transition] = []

    def broken(observation: Observation, raw: Observation) -> Array:
        return np.full(3, np.nan, dtype=np.float32)

    run_episode(station(Reach(max_steps=2)), broken, np.random.default_rng(0), append=rows.append)
    assert rows[1].source is Source.SAFETY
    np.testing.assert_array_equal(rows[1].executed, np.zeros(3))


def test_an_interrupted_episode_ends_truncated_after_the_step() -> None:
    rows: list[Transition] = []
    answers = iter([True, False])
    episode = run_episode(
        station(Reach()), still, np.random.default_rng(0), append=rows.append, before_step=lambda: next(answers)
    )
    assert episode.interrupted
    assert [row.kind for row in rows] == [Kind.FIRST, Kind.MID, Kind.TRUNCATED]


class Blame:
    """Minus one for the step before a takeover."""

    looks_ahead = True

    def reset(self) -> None:
        pass

    def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
        return replace(judgement, reward=-float(taken_over))


def test_a_reward_that_looks_ahead_blames_the_last_own_step_before_each_takeover() -> None:
    rows: list[Transition] = []
    hand = Hand({step: np.array([0.0, 0.5, 0.0], dtype=np.float32) for step in (2, 3, 6)})
    episode = run_episode(
        station(Reach(max_steps=8)), still, np.random.default_rng(0), append=rows.append, human=hand, reward=Blame()
    )
    assert [row.index for row in rows] == list(range(9))
    assert [row.reward for row in rows] == [0, 0, -1, 0, 0, 0, -1, 0, 0]
    assert episode.reward == -2
    assert (hand.resets, episode.interventions) == (1, 3)


def test_a_row_that_waits_for_the_next_step_is_stored_when_the_episode_breaks_off() -> None:
    rows: list[Transition] = []
    calls = iter([True, True])

    def breaks_off() -> bool:
        return next(calls)  # the third call raises

    with pytest.raises(StopIteration):
        run_episode(
            station(Reach()),
            still,
            np.random.default_rng(0),
            append=rows.append,
            before_step=breaks_off,
            reward=Blame(),
        )
    assert [row.index for row in rows] == [0, 1, 2]


def test_annotations_are_asked_once_a_step_and_stored_with_the_observation_the_policy_acts_on() -> None:
    rows: list[Transition] = []
    seen: list[Observation] = []
    numbers = count()

    def annotate(observation: Observation) -> Mapping[str, Array]:
        return {"base_action": np.full(3, next(numbers), dtype=np.float32)}

    def act(observation: Observation, raw: Observation) -> Array:
        seen.append(observation)
        return still(observation, raw)

    run_episode(station(Reach(max_steps=3)), act, np.random.default_rng(0), append=rows.append, annotate=annotate)
    assert [row.observation["base_action"][0] for row in rows] == [0, 1, 2, 3]
    assert [observation["base_action"][0] for observation in seen] == [0, 1, 2]
    assert set(seen[0]) == {"state", "base_action"}


def test_after_each_step_that_a_human_drove_the_policy_is_told_that_its_plan_is_void() -> None:
    told: list[int] = []
    hand = Hand({step: np.array([0.0, 0.5, 0.0], dtype=np.float32) for step in (2, 3)})
    run_episode(
        station(Reach(max_steps=6)),
        still,
        np.random.default_rng(0),
        human=hand,
        abandon=lambda: told.append(len(hand.moments)),
    )
    assert told == [3, 4]


class Doubts(Blame):
    """Sees no success in what the task takes for one, and remembers what it was told."""

    def __init__(self, *, ahead: bool) -> None:
        self.looks_ahead, self.told = ahead, list[tuple[Judgement, bool]]()

    def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
        self.told.append((judgement, taken_over))
        return Judgement(0.5, Kind.MID, False)


class ReachOnce(Reach):
    """Cannot go on where it has ended."""

    ends_for_good = True


def test_where_the_reward_sees_no_success_the_episode_goes_on_if_the_task_can_and_else_is_truncated() -> None:
    for task, steps in ((Reach(), 10), (ReachOnce(), 4)):
        rows: list[Transition] = []
        doubts = Doubts(ahead=False)
        episode = run_episode(station(task), forward, np.random.default_rng(0), append=rows.append, reward=doubts)
        assert (episode.steps, episode.success) == (steps, False)
        assert [row.kind for row in rows[1:]] == [Kind.MID] * (steps - 1) + [Kind.TRUNCATED]
        assert (rows[-1].discount, rows[-1].reward) == (1.0, 0.5)
    assert run_episode(station(ReachOnce()), forward, np.random.default_rng(0)).success


def test_a_reward_that_is_asked_again_is_told_what_the_task_said() -> None:
    doubts = Doubts(ahead=True)
    hand = Hand({2: np.zeros(3, dtype=np.float32)})
    run_episode(station(Reach(max_steps=4)), still, np.random.default_rng(0), human=hand, reward=doubts)
    assert [taken_over for _, taken_over in doubts.told] == [False, False, True, False, False]
    assert doubts.told[2][0] is doubts.told[1][0]


NAN = np.full(3, np.nan, dtype=np.float32)


def test_an_own_step_that_safety_refused_is_blamed_and_a_persons_is_not() -> None:
    rows: list[Transition] = []
    proposals = iter([still({}, {}), NAN, still({}, {}), still({}, {}), still({}, {}), still({}, {})])
    aside = np.array([0.0, 0.5, 0.0], dtype=np.float32)
    run_episode(
        station(Reach(max_steps=6)),
        lambda observation, raw: next(proposals),
        np.random.default_rng(0),
        append=rows.append,
        human=Hand({2: NAN, 3: aside, 5: aside}),
        reward=Blame(),
    )
    policy, human, safety = Source.POLICY, Source.HUMAN, Source.SAFETY
    assert [row.source for row in rows[1:]] == [policy, safety, safety, human, policy, human]
    assert [by_human(row) for row in rows[1:]] == [False, False, True, True, False, True]
    assert [row.reward for row in rows[1:]] == [0, -1, 0, 0, -1, 0]


def test_an_action_of_a_person_that_is_no_number_is_stored_as_one() -> None:
    rows: list[Transition] = []
    half = np.array([np.nan, 0.5, np.inf])
    episode = run_episode(
        station(Reach(max_steps=2)), still, np.random.default_rng(0), append=rows.append, human=Hand({0: half})
    )
    assert (episode.interventions, rows[1].source) == (1, Source.SAFETY)
    assert rows[1].human is not None
    assert rows[1].human.dtype == np.float32
    np.testing.assert_array_equal(rows[1].human, np.array([0.0, 0.5, 0.0], dtype=np.float32))
