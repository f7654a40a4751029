"""The executor of action chunks, with planners whose plans say which step they are for."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.core.clock import FakeClock
from robolearn.core.errors import ConfigError, ResumeError, RobolearnError, SpecError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import TaskSpec
from robolearn.policies.parts.chunking import ChunkPolicy, Execution, Guide
from robolearn.policies.parts.realtime import guide_weights, make_guide

SCALE = 1e-3  # actions lie within [-1, 1]; steps and plans are counted in thousandths


def spec() -> TaskSpec:
    return TaskSpec(
        "test", {"step": ArraySpec("step", (1,))}, ArraySpec("action", (3,), low=-1.0, high=1.0), 1000, 10.0
    )


def seen(step: int) -> dict[str, Array]:
    return {"step": np.array([step], np.float32), "other": np.zeros(4)}


class Counting:
    """Each action says (the step it is for, the step the plan was made at, the version that made it)."""

    def __init__(self, horizon: int = 8, history: int = 2) -> None:
        self.horizon, self.history, self.version = horizon, history, 0
        self.seen: list[list[float]] = []
        self.guides: list[Guide | None] = []
        self.threads: set[int] = set()
        self.loads: set[int] = set()

    def plan(self, observation: Mapping[str, Array], count: int, *, guide: Guide | None = None) -> Array:
        assert set(observation) == {"step"}
        self.seen.append(observation["step"][:, 0].tolist())
        self.guides.append(guide)
        self.threads.add(threading.get_ident())
        made = observation["step"][-1, 0]
        plan = np.zeros((count, self.horizon, 3), np.float32)
        plan[:, :, 0] = made + np.arange(self.horizon)
        plan[:, :, 1] = made + 100 * np.arange(count)[:, None]
        plan[:, :, 2] = self.version
        return plan * np.float32(SCALE)

    def check(self, weights: Mapping[str, Array]) -> None:
        if set(weights) != {"version"}:
            raise ResumeError("policy weights do not fit")

    def load(self, weights: Mapping[str, Array]) -> None:
        self.check(weights)
        self.loads.add(threading.get_ident())
        self.version = int(weights["version"][0])


def weights(version: int) -> dict[str, Array]:
    return {"version": np.array([version])}


def drive(policy: ChunkPolicy, steps: int, first: int = 0) -> list[tuple[int, int, int]]:
    """(step meant, step the plan was made at, version) of each action."""
    actions = [policy.act(seen(first + t), explore=False) for t in range(steps)]
    assert all(action.shape == (3,) and action.dtype == np.float32 for action in actions)
    return [tuple(np.rint(action / SCALE).astype(int).tolist()) for action in actions]


def test_receding_executes_the_first_actions_of_each_plan() -> None:
    planner = Counting(horizon=8)
    done = drive(ChunkPolicy(planner, spec(), Execution(execute=3)), 10)
    assert done == [(t, t - t % 3, 0) for t in range(10)]
    assert planner.guides == [None] * 4


def test_the_first_frame_is_repeated_before_the_episode() -> None:
    planner = Counting(history=3)
    policy = ChunkPolicy(planner, spec(), Execution(execute=1))
    drive(policy, 4, first=5)
    assert planner.seen == [[5, 5, 5], [5, 5, 6], [5, 6, 7], [6, 7, 8]]
    policy.reset()
    drive(policy, 1, first=9)
    assert planner.seen[-1] == [9, 9, 9]


def test_frames_are_kept_although_the_task_reuses_its_arrays() -> None:
    planner, frame = Counting(history=2), np.zeros(1, np.float32)
    policy = ChunkPolicy(planner, spec(), Execution(execute=1))
    for t in range(3):
        frame[0] = t
        policy.act({"step": frame}, explore=False)
    assert planner.seen == [[0, 0], [0, 1], [1, 2]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_delayed_plan_is_joined_at_the_step_it_is_available(data: st.DataObject) -> None:
    delay = data.draw(st.integers(0, 4))
    execute = data.draw(st.integers(max(delay, 1), 6))
    horizon = execute + delay + data.draw(st.integers(0, 3))
    mode = data.draw(st.sampled_from(["naive", "realtime"]))
    planner = Counting(horizon)
    done = drive(ChunkPolicy(planner, spec(), Execution(mode, execute, delay)), 25)
    for t, (meant, made, _) in enumerate(done):
        assert meant == t  # nothing is repeated or skipped
        assert made == max((t - delay) // execute * execute, 0)  # the newest plan that is available
    assert [now[-1] for now in planner.seen] == list(range(0, 25, execute))
    assert (planner.guides[1] is not None) == (mode == "realtime" and execute < horizon)


def test_realtime_guides_with_what_is_left_of_the_previous_plan() -> None:
    planner = Counting(horizon=8)
    drive(ChunkPolicy(planner, spec(), Execution("realtime", execute=3, delay=2, guide_limit=7.0)), 7)
    first, second, third = planner.guides
    assert first is None
    for guide, made in ((second, 0), (third, 3)):
        assert guide is not None
        assert guide.limit == 7.0
        left = np.rint(guide.previous / SCALE)
        np.testing.assert_array_equal(left[:, 0], [made + 3, made + 4, made + 5, made + 6, made + 7, 0, 0, 0])
        np.testing.assert_array_equal(left[:5, 1], [made] * 5)
        np.testing.assert_array_equal(guide.weights, guide_weights(8, 2, 3))


def test_guide_weights_by_hand() -> None:
    """H = 8, d = 2, s = 3: one, one, then c_i = (5 - i) / 4 for i = 2, 3, 4, then zeros."""
    shares = [0.75, 0.5, 0.25]
    soft = [c * (math.exp(c) - 1.0) / (math.e - 1.0) for c in shares]
    np.testing.assert_allclose(guide_weights(8, 2, 3), [1.0, 1.0, *soft, 0.0, 0.0, 0.0], rtol=1e-6)


@given(st.integers(1, 32), st.integers(0, 40), st.integers(0, 40))
def test_guide_weights_hold_then_fall_to_nothing(horizon: int, delay: int, gone: int) -> None:
    got = guide_weights(horizon, delay, gone)
    left = max(horizon - gone, 0)
    assert got.shape == (horizon,)
    assert (got[: min(delay, left)] == 1.0).all()
    assert (got[left:] == 0.0).all()
    assert (got[min(delay, left) : left] < 1.0).all()
    assert (got[:left] > 0.0).all()
    assert (np.diff(got) <= 0.0).all()


def test_nothing_left_is_no_guide() -> None:
    plan = np.ones((4, 2), np.float32)
    assert make_guide(plan, 4, 1, 5.0) is None
    guide = make_guide(plan, 3, 2, 5.0)
    assert guide is not None
    np.testing.assert_array_equal(guide.weights, [1.0, 0.0, 0.0, 0.0])


def test_ensemble_averages_what_all_plans_say_of_the_present() -> None:
    policy, horizon, decay = ChunkPolicy(Counting(4), spec(), Execution("ensemble", ensemble_decay=0.3)), 4, 0.3
    for t in range(8):
        got = policy.act(seen(t), explore=False) / SCALE
        made = np.arange(max(t - horizon + 1, 0), t + 1)  # oldest first
        shares = np.exp(-decay * np.arange(len(made)))
        np.testing.assert_allclose(got[0], t, rtol=1e-5)
        np.testing.assert_allclose(got[1], (shares * made).sum() / shares.sum(), rtol=1e-5)


def test_an_ensemble_mixes_no_versions() -> None:
    policy = ChunkPolicy(Counting(4), spec(), Execution("ensemble"))
    drive(policy, 3)
    policy.load(weights(7))
    assert drive(policy, 1, first=3) == [(3, 3, 7)]


def test_new_weights_wait_for_the_end_of_the_chunk() -> None:
    planner = Counting()
    policy = ChunkPolicy(planner, spec(), Execution(execute=4))
    policy.load(weights(1))
    assert planner.version == 1
    boundaries = []
    versions = []
    for t in range(9):
        if t in (1, 2):
            policy.load(weights(1 + t))
        boundaries.append(policy.boundary)
        versions.append(drive(policy, 1, first=t)[0][2])
    assert versions == [1, 1, 1, 1, 3, 3, 3, 3, 3]
    assert boundaries == [t % 4 == 0 for t in range(9)]


def test_weights_loaded_in_the_last_chunk_are_there_in_the_next_episode() -> None:
    policy = ChunkPolicy(Counting(), spec(), Execution(execute=8))
    drive(policy, 2)
    policy.load(weights(5))
    policy.reset()
    assert drive(policy, 1)[0][2] == 5


def test_wrong_weights_are_refused_at_once_and_change_nothing() -> None:
    policy = ChunkPolicy(Counting(), spec(), Execution(execute=2))
    drive(policy, 1)
    with pytest.raises(ResumeError):
        policy.load({"other": np.zeros(1)})
    assert [version for _, _, version in drive(policy, 3, first=1)] == [0, 0, 0]


def test_candidates_are_sampled_once_and_given_out_one_after_the_other() -> None:
    planner = Counting()
    policy = ChunkPolicy(planner, spec(), Execution(execute=3))
    for t in range(7):
        rows = np.rint(policy.candidates(seen(t), 4) / SCALE)
        made = t - t % 3
        np.testing.assert_array_equal(rows[:, 0], [t] * 4)
        np.testing.assert_array_equal(rows[:, 1], made + 100 * np.arange(4))
    assert [now[-1] for now in planner.seen] == [0, 3, 6]
    assert policy.candidates(seen(7), 2).shape == (2, 3)
    assert [now[-1] for now in planner.seen] == [0, 3, 6, 7]


def test_candidates_take_new_weights_at_the_end_of_the_chunk() -> None:
    policy = ChunkPolicy(Counting(), spec(), Execution(execute=2))
    policy.candidates(seen(0), 2)
    policy.load(weights(3))
    versions = [np.rint(policy.candidates(seen(t), 2)[0, 2] / SCALE) for t in (1, 2)]
    assert versions == [0, 3]


def test_one_candidate_is_what_receding_does() -> None:
    one, other = (ChunkPolicy(Counting(), spec(), Execution(execute=3)) for _ in range(2))
    for t in range(8):
        np.testing.assert_array_equal(one.candidates(seen(t), 1)[0], other.act(seen(t), explore=False))


def test_an_episode_is_driven_in_one_way() -> None:
    policy = ChunkPolicy(Counting(), spec(), Execution())
    policy.act(seen(0), explore=False)
    with pytest.raises(RuntimeError, match="act"):
        policy.candidates(seen(1), 2)
    policy.reset()
    policy.candidates(seen(0), 2)
    with pytest.raises(RuntimeError, match="candidates"):
        policy.act(seen(1), explore=False)


def test_remaining_is_what_is_planned_from_the_next_step_on() -> None:
    policy = ChunkPolicy(Counting(horizon=5), spec(), Execution(execute=4))
    assert policy.remaining().shape == (0, 3)
    drive(policy, 2)
    np.testing.assert_array_equal(np.rint(policy.remaining()[:, 0] / SCALE), [2, 3, 4])


def test_actions_given_out_are_copies() -> None:
    policy = ChunkPolicy(Counting(), spec(), Execution(execute=4))
    for t in range(4):
        policy.act(seen(t), explore=False)[:] = 99.0
    np.testing.assert_array_equal(np.rint(policy.remaining()[:, 0] / SCALE), [4, 5, 6, 7])


def test_what_cannot_be_executed_is_said() -> None:
    with pytest.raises(ConfigError, match=r"execute is 9; expected at most 8, the horizon of 8"):
        ChunkPolicy(Counting(8), spec(), Execution(execute=9))
    with pytest.raises(ConfigError, match=r"execute is 7; expected at most 6, the horizon of 8 less a delay of 2"):
        ChunkPolicy(Counting(8), spec(), Execution("realtime", execute=7, delay=2))
    with pytest.raises(ConfigError, match=r"execute is 8; expected at most 7, the horizon of 8 less a delay of 1"):
        ChunkPolicy(Counting(8), spec(), Execution("naive", execute=8, threaded=True))
    with pytest.raises(ConfigError, match=r"delay is 3; expected at most execution.execute 2"):
        ChunkPolicy(Counting(8), spec(), Execution("naive", execute=2, delay=3))
    for bad in ({"execute": 0}, {"delay": -1}, {"delay": 1}, {"mode": "ensemble", "threaded": True}):
        with pytest.raises(ConfigError, match=r"execution\."):
            Execution(**bad)
    for bad in ({"guide_limit": 0.0}, {"ensemble_decay": math.nan}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Execution(**bad)


def test_a_planner_of_another_shape_is_refused() -> None:
    planner = Counting(8)
    policy = ChunkPolicy(planner, spec(), Execution())
    planner.horizon = 9
    policy.planner = Counting(8)
    policy.planner.plan = lambda observation, count, *, guide=None: np.zeros((1, 9, 3))  # type: ignore[method-assign]
    with pytest.raises(SpecError, match=r"expected plans of shape \(1, 8, 3\), got \(1, 9, 3\)"):
        policy.act(seen(0), explore=False)


def test_plans_are_timed_with_the_clock() -> None:
    clock = FakeClock()

    class Slow(Counting):
        def plan(self, observation: Mapping[str, Array], count: int, *, guide: Guide | None = None) -> Array:
            clock.advance(0.01 * (1 + len(self.seen)))
            return super().plan(observation, count, guide=guide)

    policy = ChunkPolicy(Slow(), spec(), Execution("naive", execute=2, delay=1), clock=clock)
    assert math.isnan(policy.timing()["plan_p50_ms"])
    drive(policy, 6)  # plans of 10, 20 and 30 ms
    timing = policy.timing()
    assert timing["plan_p50_ms"] == pytest.approx(20.0)
    assert timing["plan_p99_ms"] == pytest.approx(29.8)
    assert (timing["delay_steps"], timing["starved"]) == (1.0, 0.0)


class Gated(Counting):
    """Plans in a thread as soon as the test lets it; the first plan is made at once."""

    def __init__(self, horizon: int = 8) -> None:
        super().__init__(horizon)
        self.gate, self.broken = threading.Semaphore(1), False

    def plan(self, observation: Mapping[str, Array], count: int, *, guide: Guide | None = None) -> Array:
        if not self.gate.acquire(timeout=30.0):
            raise TimeoutError
        if self.broken:
            raise RobolearnError("the planner broke")
        return super().plan(observation, count, guide=guide)


def finish(policy: ChunkPolicy, planner: Gated) -> None:
    """Let the plan that is being made be finished."""
    planner.gate.release()
    assert policy._coming is not None
    policy._coming[1].exception(timeout=30.0)


THREADED = Execution("realtime", execute=2, delay=1, threaded=True)


def planners() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("planner")]


def test_a_late_plan_never_makes_the_robot_wait() -> None:
    planner = Gated(horizon=8)
    policy = ChunkPolicy(planner, spec(), THREADED)
    done, longest = [], 0.0
    for t in range(16):
        began = time.perf_counter()
        done += drive(policy, 1, first=t)
        longest = max(longest, time.perf_counter() - began)
        if t in (5, 9, 13):  # begun at 2, 6 and 10
            finish(policy, planner)
    assert [meant for meant, _, _ in done] == list(range(16))  # nothing repeated, nothing skipped
    assert [made for _, made, _ in done] == [0] * 6 + [2] * 4 + [6] * 4 + [10] * 2
    assert longest < 1.0  # a plan waits for half a minute at the gate
    assert policy.timing()["delay_steps"] == 4.0
    assert policy.timing()["starved"] == 0.0
    finish(policy, planner)
    policy.close()
    assert len(planner.threads) == 1


def test_the_delay_that_was_measured_is_expected_of_the_next_plan() -> None:
    planner = Gated(horizon=12)
    policy = ChunkPolicy(planner, spec(), THREADED)
    drive(policy, 3)  # the second plan begins at step 2
    finish(policy, planner)
    drive(policy, 1, first=3)  # available after one step
    drive(policy, 1, first=4)  # the third begins
    drive(policy, 2, first=5)
    finish(policy, planner)
    drive(policy, 1, first=7)  # after three; the fourth begins, three steps after the third
    finish(policy, planner)
    policy.close()
    weights = [guide.weights.tolist() for guide in planner.guides if guide is not None]
    assert weights == [guide_weights(12, delay, gone).tolist() for delay, gone in ((1, 2), (1, 2), (3, 3))]


def test_a_robot_without_a_plan_repeats_its_last_action_and_then_gives_up() -> None:
    planner = Gated(horizon=4)
    policy = ChunkPolicy(planner, spec(), THREADED)
    done = drive(policy, 8)
    assert [meant for meant, _, _ in done] == [0, 1, 2, 3, 3, 3, 3, 3]
    assert policy.timing()["starved"] == 4.0
    with pytest.raises(RobolearnError, match="no plan for 5 steps"):
        policy.act(seen(8), explore=False)
    planner.gate.release()
    policy.close()


def test_a_plan_later_than_its_own_end_is_used_up_at_once() -> None:
    planner = Gated(horizon=4)
    policy = ChunkPolicy(planner, spec(), THREADED)
    drive(policy, 6)  # begun at 2, for steps 2 to 5
    finish(policy, planner)
    assert drive(policy, 1, first=6) == [(5, 2, 0)]
    planner.gate.release()
    policy.close()
    assert planner.guides[-1] is None  # nothing was left to agree with


def test_weights_are_taken_by_the_thread_before_its_next_plan() -> None:
    planner = Gated()
    policy = ChunkPolicy(planner, spec(), THREADED)
    drive(policy, 3)  # the second plan is being made
    policy.load(weights(4))
    finish(policy, planner)
    assert drive(policy, 1, first=3)[0] == (3, 2, 0)
    assert drive(policy, 1, first=4)[0] == (4, 2, 0)  # the third is begun
    finish(policy, planner)
    assert drive(policy, 1, first=5)[0] == (5, 4, 4)
    policy.close()


def test_an_error_of_the_thread_is_an_error_of_act() -> None:
    planner = Gated()
    policy = ChunkPolicy(planner, spec(), THREADED)
    drive(policy, 2)
    planner.broken = True
    drive(policy, 1, first=2)
    finish(policy, planner)
    with pytest.raises(RobolearnError, match="the planner broke"):
        policy.act(seen(3), explore=False)
    policy.close()


def test_the_thread_ends_with_the_episode() -> None:
    planner = Gated()
    policy = ChunkPolicy(planner, spec(), THREADED)
    assert not planners()
    drive(policy, 3)
    assert len(planners()) == 1
    policy.load(weights(9))
    planner.gate.release(2)
    policy.reset()
    assert not planners()
    assert drive(policy, 1) == [(0, 0, 9)]  # not what was begun in the episode before
    policy.close()
    policy.close()


def test_an_abandoned_plan_of_the_thread_is_never_used_and_nobody_plans_beside_it() -> None:
    planner = Gated()
    policy = ChunkPolicy(planner, spec(), THREADED)
    drive(policy, 3)  # the second plan is being made
    policy.load(weights(6))
    policy.abandon()
    planner.gate.release(2)
    assert drive(policy, 2, first=3) == [(3, 3, 6), (4, 3, 6)]
    assert planner.loads <= planner.threads
    assert len(planner.threads) == 1
    assert threading.get_ident() not in planner.threads
    planner.gate.release()
    policy.close()


def test_giving_out_an_action_is_cheap() -> None:
    policy = ChunkPolicy(Counting(horizon=2000), spec(), Execution(execute=2000))
    policy.act(seen(0), explore=False)
    took = []
    for t in range(1, 1000):
        frame = seen(t)
        began = time.perf_counter()
        policy.act(frame, explore=False)
        took.append(time.perf_counter() - began)
    assert min(took) < 50e-6


@pytest.mark.parametrize("mode", ["receding", "naive", "realtime", "ensemble"])
def test_an_abandoned_plan_is_followed_by_one_of_the_present(mode: str) -> None:
    delay = 2 if mode in ("naive", "realtime") else 0
    policy = ChunkPolicy(Counting(), spec(), Execution(mode=mode, execute=4, delay=delay))  # type: ignore[arg-type]
    drive(policy, 6)
    policy.abandon()
    ((meant, made, _),) = drive(policy, 1, first=6)
    assert (meant, made) == (6, 6)


def test_abandoned_candidates_are_sampled_anew() -> None:
    policy = ChunkPolicy(planner := Counting(), spec(), Execution(execute=4))
    policy.candidates(seen(0), 2)
    policy.candidates(seen(1), 2)
    policy.abandon()
    policy.candidates(seen(2), 2)
    assert [frames[-1] for frames in planner.seen] == [0, 2]
