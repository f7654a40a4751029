"""Peg insertion: frames, what counts as success, what the policy may know, scripted experts."""

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
    DOWN,
    OPENING,
    Cell,
    Make,
    assert_blind_fails_gently,
    assert_fits,
    assert_truth_is_hidden,
    assert_turned_is_nearly_the_same,
    assert_weak_is_slower,
    at,
    place,
    run,
    seen,
    solved,
    somebody,
)

from robolearn.core.errors import ConfigError
from robolearn.core.types import Command, Skill
from robolearn.sim import insertion, rotation
from robolearn.sim.insertion import MAX_TURN
from robolearn.sim.tasks import peg_insert
from robolearn.sim.tasks.peg_insert import Config

unit = st.floats(-1, 1)


def _tilted(degrees: float) -> np.ndarray:
    return rotation.multiply(DOWN, rotation.from_rotvec(np.array([math.radians(degrees), 0.0, 0.0])))


@pytest.mark.parametrize("tier", list(peg_insert.TIERS))
def test_tiers_build_and_fit_their_robot(make: Make, tier: str) -> None:
    robot, task = make(tier)
    assert_fits(robot, peg_insert, task, seeds=1)
    assert task.spec.max_steps == 100


def test_inserted_peg_counts() -> None:
    task = peg_insert.build(Config())
    for depth in (36.1, 38.0, 40.0):
        assert solved(task, seen(at(0, 0, depth)))
    assert solved(task, seen(at(1.5, -1.5, 38)))


@pytest.mark.parametrize(
    "tip",
    [
        at(0, 0, 35.5),
        at(0, 0, 46),
        at(6, 0, 38),
        at(0, -2.5, 38),
        at(0, 0, -5),
        at(0, 0, 0),
        at(0, 0, 38, _tilted(9)),
        at(0, 0, 38, _tilted(175)),
    ],
    ids=["shallow", "through the floor", "beside", "off centre", "hovering", "on top", "tilted", "upside down"],
)
def test_anything_else_does_not(tip: np.ndarray) -> None:
    assert not solved(peg_insert.build(Config()), seen(tip))


def test_success_is_about_the_true_hole_not_the_estimate(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -30), error_mm=(3.0, 0.0))
    true_x = 3.0  # the estimate's x axis is the base frame's
    assert solved(task, seen(at(true_x, 0, 38)))
    assert not solved(task, seen(at(0, 0, 38)))


@given(st.tuples(unit, unit, unit, unit, unit, unit), unit)
def test_normalise_inverts_command(action: tuple[float, ...], reference_yaw: float) -> None:
    """With any reference orientation, as long as the turn is within one step's bound; beyond, the turn is shortened."""
    task = peg_insert.build(Config())
    reference = rotation.multiply(DOWN, rotation.about_z(0.05 * reference_yaw))
    task.observe(seen(at(0, 0, -20), reference))
    wanted = np.array(action)
    command = task.command(wanted)
    executed = task.normalise(command)
    np.testing.assert_allclose(executed[:3], wanted[:3], atol=1e-6)
    turn = np.linalg.norm(command[3:6])
    assert turn <= MAX_TURN * (1 + 1e-9)
    if turn < MAX_TURN * 0.999:
        np.testing.assert_allclose(executed, wanted, atol=1e-5)
    np.testing.assert_allclose(task.normalise(task.command(executed))[:3], executed[:3], atol=1e-6)


@given(st.tuples(*[st.floats(-5, 5)] * 6))
def test_command_is_always_acceptable(action: tuple[float, ...]) -> None:
    task = peg_insert.build(Config())
    command = task.command(np.array(action))
    limits = peg_insert.limits(Config())
    assert np.linalg.norm(command[:3]) <= limits.translation
    assert np.linalg.norm(command[3:6]) <= limits.rotation
    assert command[6] == 0.0


def test_zero_turn_aligns_with_the_estimate() -> None:
    task = peg_insert.build(Config())
    ahead = rotation.multiply(DOWN, rotation.about_z(0.04))
    task.observe(seen(at(0, 0, -20), ahead))
    np.testing.assert_allclose(task.command(np.zeros(6))[3:6], [0, 0, -0.04], atol=1e-9)


@pytest.mark.parametrize("tier", ["default", "hard"])
def test_first_observation_does_not_depend_on_the_truth(make: Make, tier: str) -> None:
    robot, task = make(tier)
    errors = ((0.0, 0.0), (3.0, -2.0), (-1.0, 3.0))

    def start(x: float, y: float) -> None:
        task.place(robot, at(0, 0, 0), 1e-3 * np.array([x, y, 0.0]), 0.03 * x, at(12, -7, -20))

    assert_truth_is_hidden(robot, task, [partial(start, *error) for error in errors])


def test_observation_is_the_same_wherever_the_estimate_lies(make: Make) -> None:
    """Relative to the estimate: turning and moving estimate and start together changes (almost) nothing."""
    robot, task = make()
    views = []
    for yaw, shift in ((0.0, (0, 0)), (0.3, (20, -15))):
        about = rotation.about_z(yaw)
        estimate = np.concatenate([at(*shift, 0)[:3], rotation.multiply(about, DOWN)])
        tip = estimate.copy()
        tip[:3] += rotation.matrix(about) @ np.array([0.008, 0.004, 0.02])
        task.place(robot, estimate, np.zeros(3), 0.0, tip)
        views.append(task.observe(robot.observe())["state"])
    np.testing.assert_allclose(views[0], views[1], atol=2e-3)


def test_draws_cover_the_announced_ranges() -> None:
    task, robot = peg_insert.build(peg_insert.TIERS["hard"]), Cell(places_bodies=True)
    offsets, starts, estimates = [], [], []
    for seed in range(400):
        task.reset(robot, np.random.default_rng(seed))
        estimate = task._estimate
        offset, turn = insertion.relative(robot.scenes[-1]["socket"], estimate)
        offsets.append([*offset, rotation.to_rotvec(turn)[2]])
        starts.append(robot.tips[-1][:3])
        estimates.append(estimate[:3])
    offset = np.array(offsets)
    assert np.abs(offset[:, :2]).max() == pytest.approx(0.004, rel=0.05)
    assert np.abs(offset[:, 2]).max() < 1e-12
    assert np.degrees(np.abs(offset[:, 3]).max()) == pytest.approx(4.0, rel=0.05)
    for places in (np.array(starts), np.array(estimates)):
        spread = np.abs(places[:, :2] - np.array(peg_insert.OPENING_M)[:2]).max(axis=0)
        np.testing.assert_allclose(spread, 0.03, rtol=0.05)
    relative = np.array(starts)[:, 0] - np.array(estimates)[:, 0]
    assert abs(np.corrcoef(offset[:, 0], relative)[0, 1]) < 0.15, "the start says nothing of the error"


def test_millimetres_survive_in_the_observation(make: Make) -> None:
    task = peg_insert.build(Config())
    far = task.observe(seen(at(50, 0, -30)))["state"]
    task._frames = []
    further = task.observe(seen(at(50.5, 0, -30)))["state"]
    task._frames = []
    near = task.observe(seen(at(0.5, 0, 0)))["state"]
    task._frames = []
    centre = task.observe(seen(at(0, 0, 0)))["state"]
    assert abs(near[0] - centre[0]) > 0.1
    assert abs(far[0] - further[0]) > 1e-3
    assert np.abs(far).max() < 5


def test_history_shows_older_frames_and_ends_with_the_episode(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -20))
    frames = []
    for step in range(5):
        robot.apply(Command(task.command(np.full(6, 0.1 * step)), 0))
        frames.append(task.observe(robot.observe())["state"])
    parts = np.split(frames[-1], 3)
    np.testing.assert_array_equal(parts[0], frames[4][:24])
    np.testing.assert_array_equal(parts[1], frames[3][:24])
    np.testing.assert_array_equal(parts[2], frames[1][:24])
    np.testing.assert_allclose(parts[0][18:24], 0.4, atol=1e-5)
    task.reset(robot, np.random.default_rng(0))
    fresh = np.split(task.observe(robot.observe())["state"], 3)
    np.testing.assert_array_equal(fresh[0], fresh[1])
    np.testing.assert_array_equal(fresh[0], fresh[2])
    assert not fresh[0][18:24].any()


def test_bad_history_is_refused() -> None:
    with pytest.raises(ConfigError, match="history"):
        peg_insert.build(replace(Config(), history=(1, 2)))


@pytest.mark.parametrize("tier", list(peg_insert.TIERS))
def test_informed_expert_succeeds_gently(make: Make, tier: str) -> None:
    robot, task = make(tier)
    for seed in range(4):
        success, states, peak = run(robot, task, seed, skill=Skill.INFORMED)
        assert success
        assert 20 < len(states) < 60
        assert peak < 10


def test_blind_expert_fails_where_the_estimate_is_wrong_and_presses_gently(make: Make) -> None:
    assert_blind_fails_gently(*make("hard"), seeds=5, most=1)


def test_a_weak_person_is_slower_than_the_informed_expert_and_a_new_one_in_every_episode(make: Make) -> None:
    robot, task = make("smoke")
    assert_weak_is_slower(robot, task, seeds=4, factor=1.2)
    assert somebody(robot, task, 0) is not somebody(robot, task, 0)


def test_blind_expert_ignores_the_truth(make: Make) -> None:
    robot, task = make()
    raw = seen(at(4, 3, -10))
    actions = []
    for error in ((0.0, 0.0), (3.0, -3.0)):
        place(robot, task, at(4, 3, -10), error_mm=error)
        actions.append(
            [task.expert(raw, np.random.default_rng(0), skill=known) for known in (Skill.BLIND, Skill.INFORMED)]
        )
    np.testing.assert_array_equal(actions[0][0], actions[1][0])
    assert not np.array_equal(actions[0][1], actions[1][1])


def test_a_peg_beside_the_hole_is_held_up_by_the_rim(make: Make) -> None:
    """No chamfer: 0.3 mm off it goes in, 0.6 mm beyond the clearance of 0.5 mm it does not."""
    robot, task = make("hard")
    depth = {}
    for off in (0.3, 1.1):
        place(robot, task, at(off, 0, -1))
        for _ in range(45):
            robot.apply(Command(task.command(np.array([0, 0, 0.3, 0, 0, 0])), 0))
            task.observe(robot.observe())
        depth[off] = 1e3 * (0.05 - robot.observe()["tool_pose"][2])
    assert depth[0.3] > 30
    assert depth[1.1] < 0.5


def _turned(pose: np.ndarray, quarters: int) -> np.ndarray:
    """A pose turned about the axis of the hole at the nominal opening, whose own axes turn along."""
    turn = rotation.about_z(quarters * math.pi / 2)
    position = rotation.matrix(turn) @ (rotation.matrix(DOWN).T @ (pose[:3] - OPENING))
    inside = rotation.multiply(rotation.conjugate(DOWN), pose[3:])
    inside = rotation.multiply(rotation.multiply(turn, inside), rotation.conjugate(turn))
    return np.concatenate([OPENING + rotation.matrix(DOWN) @ position, rotation.multiply(DOWN, inside)])


@pytest.mark.parametrize("number", range(3))
@given(x=st.floats(-20, 20), y=st.floats(-20, 20), depth=st.floats(-30, 30), turn=st.tuples(unit, unit, unit))
def test_a_turned_pose_is_seen_as_the_symmetry_says(
    number: int, x: float, y: float, depth: float, turn: tuple[float, float, float]
) -> None:
    task = peg_insert.build(Config(history=(0,)))
    tip = at(x, y, depth, rotation.multiply(DOWN, rotation.from_rotvec(0.3 * np.array(turn))))
    plain = task.observe(seen(tip))["state"]
    other = peg_insert.build(Config(history=(0,))).observe(seen(_turned(tip, number + 1)))["state"]
    assert task.spec.symmetries[number].observation["state"](plain) == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("number", range(3))
def test_a_turned_episode_is_nearly_the_same(make: Make, number: int) -> None:
    """The peg comes down beside the hole, presses on the rim and is dragged over it, tilting and turning. The arm gives
    way a little differently in each direction, which moves tilts by some 0.2 degrees."""
    robot, task = make("hard")
    symmetry = task.spec.symmetries[number]

    def start(act: Callable[[np.ndarray], np.ndarray]) -> None:
        error, tip = act(np.array([2.5, -1.0, 0, 0, 0, 0]))[:3], act(np.array([4.0, -2.5, -6.0, 0, 0, 0]))
        task.place(robot, at(0, 0, 0), 1e-3 * error, 0.03, at(tip[0], -tip[1], tip[2]))

    free = (0, 1, 5, 6, 7, 11, *range(18, 24))  # x, y, yaw, their velocities, and the last action
    assert_turned_is_nearly_the_same(robot, task, symmetry, start, wrench=slice(12, 18), free=free, seed=number)


def test_images_have_no_symmetries(make: Make) -> None:
    assert len(make("smoke")[1].spec.symmetries) == 3
    assert make("smoke", obs="pixels")[1].spec.symmetries == ()


SOCKET = (0.42, -0.11, 0.08, 30.0)


def test_a_fixed_socket_stays_and_only_the_estimate_and_the_start_move() -> None:
    config = Config(socket=SOCKET, error_mm=4.0, error_yaw_deg=4.0)
    task, cell = peg_insert.build(config), Cell()
    limits = peg_insert.limits(config)
    estimates, starts = [], []
    for seed in range(200):
        task.reset(cell, np.random.default_rng(seed))
        np.testing.assert_allclose(task._hole[:3], SOCKET[:3], atol=1e-12)
        turn = rotation.to_rotvec(rotation.multiply(rotation.conjugate(task._hole[3:]), _down(math.radians(30.0))))
        np.testing.assert_allclose(turn, 0.0, atol=1e-9)
        away = rotation.matrix(task._estimate[3:]).T @ (task._estimate[:3] - task._hole[:3])
        estimates.append(away)
        starts.append(cell.tips[-1][:3] - task._estimate[:3])
        assert cell.scenes[-1] == {}
        tcp = cell.tips[-1][:3] + np.array([0.0, 0.0, peg_insert.TIP_M])
        assert (limits.low <= tcp).all()
        assert (tcp <= limits.high).all()
    spread = np.abs(estimates).max(axis=0)
    assert (spread[:2] > 3.5e-3).all()
    assert (spread[:2] <= 4e-3 + 1e-12).all()
    # what the policy sees at the start, the way to the estimate, says nothing about the error
    correlation = np.corrcoef(np.array(starts)[:, :2].T, np.array(estimates)[:, :2].T)[:2, 2:]
    assert np.abs(correlation).max() < 0.2


def _down(yaw: float) -> np.ndarray:
    return rotation.multiply(rotation.about_z(yaw), DOWN)


def test_a_robot_that_can_places_the_configured_socket_and_one_that_cannot_needs_it() -> None:
    able = Cell(places_bodies=True)
    peg_insert.build(Config(socket=SOCKET)).reset(able, np.random.default_rng(0))
    np.testing.assert_allclose(able.scenes[0]["socket"][:3], SOCKET[:3])
    with pytest.raises(ConfigError, match=r"--env\.socket X Y Z YAW"):
        peg_insert.build(Config()).reset(Cell(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="x, y, z"):
        Config(socket=(0.5, 0.0, 0.1))
