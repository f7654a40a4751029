"""Plugging in: what counts as success, what the policy may know, scripted experts, the symmetry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_world import (
    Cell,
    Make,
    assert_blind_fails_gently,
    assert_fits,
    assert_pixels_show,
    assert_truth_is_hidden,
    assert_turned_is_nearly_the_same,
    assert_weak_is_slower,
    run,
    seen,
    solved,
    somebody,
)

from robolearn.core.errors import ConfigError
from robolearn.core.types import Command, Skill
from robolearn.sim import insertion, rotation
from robolearn.sim.tasks import charger
from robolearn.sim.tasks.charger import TURN_AHEAD, Config

unit = st.floats(-1, 1)
SOCKET = np.array([*charger.OPENING_M, *TURN_AHEAD])
TASK = charger


def at(x_mm: float, y_mm: float, depth_mm: float, turn: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """(7,) tip pose in the nominal socket's frame, turned by a rotation vector [deg]."""
    tip = insertion.displaced(SOCKET, 1e-3 * np.array([x_mm, y_mm, depth_mm]), 0.0)
    return np.concatenate([tip[:3], rotation.multiply(TURN_AHEAD, rotation.from_rotvec(np.radians(turn)))])


@pytest.mark.parametrize("tier", list(charger.TIERS))
def test_tiers_build_and_fit_their_robot(make: Make, tier: str) -> None:
    robot, task = make(tier)
    assert_fits(robot, charger, task)
    assert task.config.steps <= 20_000


def test_plugged_in_counts() -> None:
    task = charger.build(Config())
    for depth in (16.1, 18.0, 19.0, 19.9):
        assert solved(task, seen(at(0, 0, depth)))
    assert solved(task, seen(at(1.2, -1.2, 18)))
    assert solved(task, seen(at(0, 0, 18, (0, 0, 4)))), "the slots leave room for a few degrees of roll"
    assert solved(task, seen(at(0, 0, 18, (0, 0, 180)))), "a plug of this kind has no right way round"


@pytest.mark.parametrize(
    "tip",
    [
        at(0, 0, 15.5),
        at(0, 0, 20.5),
        at(1.7, 0, 18),
        at(0, -1.7, 18),
        at(0, 19, 18),
        at(0, 0, -5),
        at(0, 0, 0),
        at(0, 0, 17, (9, 0, 0)),
        at(0, 0, 17, (0, 9, 0)),
        at(0, 0, 18, (0, 0, 10)),
        at(0, 0, 18, (0, 0, 90)),
        at(0, 0, 17, (180, 0, 0)),
    ],
    ids=[
        "shallow", "through", "high", "beside", "one slot further", "hovering", "on the wall", "one prong out",
        "nose up", "rolled", "crosswise", "back to front",
    ],
)  # fmt: skip
def test_anything_else_does_not(tip: np.ndarray) -> None:
    assert not solved(charger.build(Config()), seen(tip))


def test_depth_is_that_of_the_prong_that_is_less_deep() -> None:
    """Yawed by 7 degrees about the wall's vertical, the prongs' ends differ in depth by 2.3 mm."""
    task = charger.build(Config())
    tip = at(0, 0, 16.5, (7, 0, 0))
    verdict = task.judge(seen(tip), np.zeros(7), seen(tip))
    assert verdict.info["depth_mm"] == pytest.approx(16.5 - 9.5 * math.sin(math.radians(7)), abs=1e-6)
    assert not verdict.success


def test_success_is_about_the_true_socket_not_the_estimate(make: Make) -> None:
    robot, task = make()
    task.place(robot, SOCKET, np.array([0.003, 0.0, 0.0]), 0.0, at(0, 0, -30))
    assert solved(task, seen(at(3, 0, 18)))
    assert not solved(task, seen(at(0, 0, 18)))


@given(st.tuples(unit, unit, unit, unit, unit, unit), unit)
def test_normalise_inverts_command(action: tuple[float, ...], rolled: float) -> None:
    task = charger.build(Config())
    task.observe(seen(at(0, 0, -20), rotation.multiply(TURN_AHEAD, rotation.about_z(0.05 * rolled))))
    command = task.command(np.array(action))
    executed = task.normalise(command)
    np.testing.assert_allclose(executed[:3], action[:3], atol=1e-6)
    turn, limits = np.linalg.norm(command[3:6]), charger.limits(Config())
    assert turn <= limits.rotation
    assert np.linalg.norm(command[:3]) <= limits.translation
    if turn < insertion.MAX_TURN * 0.999:
        np.testing.assert_allclose(executed, action, atol=1e-5)


@pytest.mark.parametrize("tier", ["default", "hard"])
def test_nothing_seen_before_touching_depends_on_the_truth(make: Make, tier: str) -> None:
    robot, task = make(tier)
    errors = ((0.0, 0.0), (3.0, -2.0), (-1.0, 3.0))

    def start(x: float, y: float) -> None:
        task.place(robot, SOCKET, 1e-3 * np.array([x, y, 0.0]), 0.02 * x, at(12, -7, -20))

    assert_truth_is_hidden(robot, task, [partial(start, *error) for error in errors])


def test_draws_cover_the_announced_ranges() -> None:
    config = charger.TIERS["hard"]
    task, robot = charger.build(config), Cell(places_bodies=True)
    errors, starts, rolls, normals = [], [], [], []
    for seed in range(400):
        task.reset(robot, np.random.default_rng(seed))
        hole = robot.scenes[-1]["socket"]
        offset, turn = insertion.relative(hole, task._estimate)
        errors.append([*offset, rotation.to_rotvec(turn)[2]])
        position, turn = insertion.relative(robot.tips[-1], task._estimate)
        starts.append(position)
        rolls.append(rotation.to_rotvec(turn))
        normals.append(rotation.matrix(hole[3:])[:, 2])
    error, start, roll = np.array(errors), np.array(starts), np.degrees(rolls)
    np.testing.assert_allclose(np.abs(error[:, :2]).max(axis=0), 0.004, rtol=0.05)
    assert np.abs(error[:, 2]).max() < 1e-12
    assert np.degrees(np.abs(error[:, 3]).max()) == pytest.approx(config.error_roll_deg, rel=0.05)
    assert -0.035 <= start[:, 2].min() < -0.034
    assert -0.013 < start[:, 2].max() <= -0.012
    assert np.abs(roll[:, :2]).max() < 1e-6
    assert np.abs(roll[:, 2]).max() == pytest.approx(5.0, rel=0.05)
    assert np.degrees(np.arccos(np.array(normals)[:, 0]).max()) == pytest.approx(10.0, rel=0.05)
    assert np.abs(np.array(normals)[:, 2]).max() < 1e-12, "the wall stays vertical"
    correlation = np.corrcoef(start[:, :2].T, error[:, :2].T)[:2, 2:]
    assert np.abs(correlation).max() < 0.15, "the start says nothing of the error"


def test_bad_history_is_refused() -> None:
    with pytest.raises(ConfigError, match="history"):
        charger.build(replace(Config(), history=(0, 3, 2)))


@pytest.mark.parametrize("tier", list(charger.TIERS))
def test_informed_expert_succeeds_gently(make: Make, tier: str) -> None:
    robot, task = make(tier)
    for seed in range(4):
        success, states, peak = run(robot, task, seed, skill=Skill.INFORMED)
        assert success
        assert 15 < len(states) - 1 < task.config.max_steps
        assert peak < 15


def test_blind_expert_fails_where_the_estimate_is_wrong_and_presses_gently(make: Make) -> None:
    assert_blind_fails_gently(*make("hard"), seeds=5, most=2)


def test_a_weak_person_is_slower_than_the_informed_one_and_another_one_every_time(make: Make) -> None:
    robot, task = make("smoke")
    assert_weak_is_slower(robot, task, seeds=4, factor=1.2)
    assert somebody(robot, task, 0).pace != somebody(robot, task, 1).pace


def test_informed_expert_frees_prongs_that_caught_on_an_edge(make: Make) -> None:
    """Pushing on, it stayed there for ninety steps."""
    robot, task = make("hard")
    assert run(robot, task, 1033, skill=Skill.INFORMED)[0]


def test_only_the_weak_expert_sees_the_socket(make: Make) -> None:
    robot, task = make()
    raw, actions = seen(at(4, 3, -10)), []
    for error in ((0.0, 0.0), (0.003, -0.003)):
        task.place(robot, SOCKET, np.array([*error, 0.0]), 0.0, at(4, 3, -10))
        skills = (Skill.BLIND, Skill.INFORMED, Skill.WEAK)
        actions.append([task.expert(raw, np.random.default_rng(0), skill=skill) for skill in skills])
    np.testing.assert_array_equal(actions[0][0], actions[1][0])
    np.testing.assert_array_equal(actions[0][1], actions[1][1])
    assert not np.array_equal(actions[0][2], actions[1][2])


def test_informed_expert_searches_one_way_round_or_the_other_and_stays_with_it(make: Make) -> None:
    robot, task = make()
    ways = set()
    for seed in range(8):
        rng, turns = np.random.default_rng(seed), []
        task.place(robot, SOCKET, np.zeros(3), 0.0, at(0, 0, -10))
        for angle in np.linspace(0.0, 6.0, 12):
            x, y = 3 * np.cos(angle), 3 * np.sin(angle)
            action = task.expert(seen(at(x, y, 0.0)), rng, skill=Skill.INFORMED)
            turns.append(float(np.sign(x * action[1] - y * action[0])))
        assert len(set(turns)) == 1
        ways.add(turns[0])
    assert ways == {-1.0, 1.0}


def test_prongs_beside_the_slots_are_held_up_and_in_front_of_them_go_in(make: Make) -> None:
    robot, task = make("hard")
    depth = {}
    for off in (0.3, 1.5):
        task.place(robot, SOCKET, np.zeros(3), 0.0, at(off, 0, -1))
        task.observe(robot.observe())
        for _ in range(45):
            robot.apply(Command(task.command(np.array([0, 0, 0.3, 0, 0, 0])), 0))
            task.observe(robot.observe())
        depth[off] = 1e3 * (robot.observe()["tool_pose"][0] - charger.OPENING_M[0])
    assert 18.5 < depth[0.3] < 20.0, "the body stops at the wall"
    assert depth[1.5] < 0.5


def test_a_half_turned_episode_is_nearly_the_same(make: Make) -> None:
    """The prongs press on the wall beside the slots and are dragged over it; half a turn about the normal."""
    robot, task = make("hard")
    (symmetry,) = task.spec.symmetries

    def start(act: Callable[[np.ndarray], np.ndarray]) -> None:
        error, tip = act(np.array([2.5, -1.0, 0, 0, 0, 0]))[:3], act(np.array([4.0, -2.5, -6.0, 0, 0, 0]))
        task.place(robot, SOCKET, 1e-3 * error, 0.03, at(*tip[:3]))

    free = (0, 1, 2, 5, 6, 7, 11, *range(18, 24))  # and the last action
    assert_turned_is_nearly_the_same(robot, task, symmetry, start, wrench=slice(12, 18), free=free)


@given(x=st.floats(-20, 20), y=st.floats(-20, 20), depth=st.floats(-30, 15), turn=st.tuples(unit, unit, unit))
def test_a_half_turned_pose_is_seen_as_the_symmetry_says_and_judged_alike(
    x: float, y: float, depth: float, turn: tuple[float, float, float]
) -> None:
    task = charger.build(Config(history=(0,)))
    (symmetry,) = task.spec.symmetries
    degrees = 8.0 * np.array(turn)
    plain, other = at(x, y, depth, tuple(degrees)), at(-x, -y, depth, tuple(degrees * (-1, -1, 1)))
    assert solved(task, seen(plain)) == solved(task, seen(other))
    turned = charger.build(Config(history=(0,))).observe(seen(other))["state"]
    assert symmetry.observation["state"](task.observe(seen(plain))["state"]) == pytest.approx(turned, abs=1e-4)


def test_a_fixed_socket_stays_and_only_the_estimate_and_the_start_move() -> None:
    config = Config(socket=(0.5, -0.1, 0.3, 30.0, 5.0), error_mm=4.0, error_roll_deg=3.0)
    task, cell, limits = charger.build(config), Cell(), charger.limits(config)
    estimates, starts = [], []
    for seed in range(100):
        task.reset(cell, np.random.default_rng(seed))
        assert cell.scenes[-1] == {}
        np.testing.assert_allclose(task._hole[:3], config.socket[:3], atol=1e-12)
        axes = rotation.matrix(task._hole[3:])
        np.testing.assert_allclose(axes[:, 2], [math.cos(math.radians(30)), 0.5, 0.0], atol=1e-9)
        assert math.degrees(math.acos(axes[2, 0])) == pytest.approx(5.0, abs=1e-6)
        estimates.append(insertion.relative(task._estimate, task._hole)[0])
        starts.append(insertion.relative(cell.tips[-1], task._estimate)[0])
        assert (limits.low <= cell.tips[-1][:3] - charger.TIP_M * axes[:, 2]).all()
    assert (np.abs(estimates).max(axis=0)[:2] > 3.5e-3).all()
    assert np.abs(np.corrcoef(np.array(starts)[:, :2].T, np.array(estimates)[:, :2].T)[:2, 2:]).max() < 0.25


def test_a_robot_that_cannot_place_the_socket_needs_to_know_where_it_is() -> None:
    with pytest.raises(ConfigError, match=r"--env\.socket X Y Z YAW ROLL"):
        charger.build(Config()).reset(Cell(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="yaw and roll"):
        Config(socket=(0.5, 0.0, 0.1, 0.0))


@pytest.mark.render
def test_pixels_show_the_socket(make: Make) -> None:
    assert_pixels_show(make, charger)
