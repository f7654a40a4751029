"""Tightening a cap: what counts as success, turning that adds up, the thread, scripted experts, the symmetry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import sim_world
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
    solved,
)

from robolearn.core.errors import ConfigError
from robolearn.core.types import Command, Skill
from robolearn.sim import insertion, rotation
from robolearn.sim.tasks import cap_tighten
from robolearn.sim.tasks.cap_tighten import STOP_RAD, TURN_DOWN, CapTighten, Config

unit = st.floats(-1, 1)
TO_GO = math.radians(45)
BOTTLE = np.array([*cap_tighten.PLACE_M, *TURN_DOWN])
TASK = cap_tighten


def cap(degrees: float) -> np.ndarray:
    """(7,) frame of the cap of a bottle at the nominal place, at an angle of its thread."""
    lift = cap_tighten.PITCH_M * degrees / 360
    return insertion.displaced(BOTTLE, np.array([0.0, 0.0, lift]), math.radians(degrees))


def at(frame: np.ndarray, x_mm: float, y_mm: float, z_mm: float, turn: tuple = (0.0, 0.0, 0.0)) -> np.ndarray:
    """(7,) tip pose in a frame, turned by a rotation vector [deg]."""
    moved = insertion.displaced(frame, 1e-3 * np.array([x_mm, y_mm, z_mm]), 0.0)
    return np.concatenate([moved[:3], rotation.multiply(moved[3:], rotation.from_rotvec(np.radians(turn)))])


def seen(tip: np.ndarray, degrees: float = 45.0, reference: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A robot observation with tip and cap somewhere and all else zero."""
    return sim_world.seen(tip, reference, **{"joint/cap": np.array([math.radians(degrees), 0.0])})


def start(robot, task: CapTighten, tip: np.ndarray, error_mm: tuple[float, float] = (0, 0), yaw: float = 0.0) -> None:
    """Start with the estimate at the nominal place, half the way to go, and the tip where it is wanted."""
    task.place(robot, cap(45), 1e-3 * np.array([*error_mm, 0.0]), yaw, TO_GO, tip)
    task.observe(robot.observe())


def step(robot, task: CapTighten, action: np.ndarray) -> dict[str, np.ndarray]:
    robot.apply(Command(task.command(action), 0))
    raw = robot.observe()
    task.observe(raw)
    return raw


@pytest.mark.parametrize("tier", list(cap_tighten.TIERS))
def test_tiers_build_and_fit_their_robot(make: Make, tier: str) -> None:
    robot, task = make(tier)
    assert_fits(robot, cap_tighten, task)
    assert task.config.steps <= 15_000
    assert task.spec.max_steps <= {"smoke": 120, "default": 140, "hard": 300}[tier], "a search takes its time"


def test_a_tight_cap_with_the_key_in_it_counts() -> None:
    task = cap_tighten.build(Config())
    for degrees in (87.5, 90.0, 90.2):
        for depth in (3.1, 5.0, 6.5):
            assert solved(task, seen(at(cap(degrees), 0, 0, depth), degrees))
    assert solved(task, seen(at(cap(90), 1.5, -1.5, 5), 90))
    assert solved(task, seen(at(cap(90), 0, 0, 5, (0, 0, 8)), 90)), "the slot leaves the key some play"
    assert solved(task, seen(at(cap(90), 0, 0, 5, (0, 0, 180)), 90)), "both ends of the blade are alike"


@pytest.mark.parametrize(
    ("tip", "degrees"),
    [
        (at(cap(30), 0, 0, 5), 30),
        (at(cap(86), 0, 0, 5), 86),
        (at(cap(94), 0, 0, 5), 94),
        (at(cap(90), 0, 0, -20), 90),
        (at(cap(90), 0, 0, 2.5), 90),
        (at(cap(90), 0, 0, 7.5), 90),
        (at(cap(90), 0, 3, 5), 90),
        (at(cap(90), 30, 0, 5), 90),
        (at(cap(90), 0, 0, 5, (0, 0, 45)), 90),
        (at(cap(30), 0, 0, 5, (0, 0, 60)), 30),
        (at(cap(90), 0, 0, 5, (9, 0, 0)), 90),
        (at(cap(90), 0, 0, 5, (180, 0, 0)), 90),
    ],
    ids=[
        "cap not turned", "not far enough", "past the stop", "lifted off", "only its end in the slot",
        "through the slot's floor", "on the edge", "key beside the cap", "key across the slot", "key turned, cap not",
        "tilted", "upside down",
    ],
)  # fmt: skip
def test_anything_else_does_not(tip: np.ndarray, degrees: float) -> None:
    assert not solved(cap_tighten.build(Config()), seen(tip, degrees))


def test_success_is_about_the_true_cap_not_the_estimate(make: Make) -> None:
    robot, task = make()
    start(robot, task, at(cap(45), 0, 0, -20), error_mm=(3.0, 0.0))
    assert solved(task, seen(at(at(cap(45), 3, 0, 0), 0, 0, 5.375, (0, 0, 45)), 90))
    assert not solved(task, seen(at(cap(45), 0, 0, 5.375, (0, 0, 45)), 90))


@given(st.tuples(unit, unit, unit, unit, unit, unit), st.floats(-170, 170))
def test_normalise_inverts_command_at_any_angle_of_the_key(action: tuple[float, ...], degrees: float) -> None:
    task = cap_tighten.build(Config())
    task.observe(seen(at(BOTTLE, 0, 0, -20, (0, 0, degrees))))
    command = task.command(np.array(action))
    np.testing.assert_allclose(task.normalise(command), action, atol=1e-5)
    limits = cap_tighten.limits(Config())
    assert np.linalg.norm(command[3:6]) <= limits.rotation
    assert np.linalg.norm(command[:3]) <= limits.translation


def test_turns_add_up_and_tilts_do_not() -> None:
    task = cap_tighten.build(Config())
    reference = TURN_DOWN
    for _ in range(50):
        task.observe(seen(BOTTLE, reference=reference))
        turn = task.command(np.array([0, 0, 0, 1, -1, 1.0]))[3:6]
        reference = rotation.multiply(reference, rotation.from_rotvec(turn))
    assert cap_tighten._yaw(reference) == pytest.approx(50 * math.radians(Config().turn_deg))
    assert insertion.tilt_deg(rotation.multiply(rotation.conjugate(TURN_DOWN), reference)) == pytest.approx(
        math.hypot(0.3, 0.3), abs=1e-3
    )
    task.observe(seen(BOTTLE, reference=reference))
    held = rotation.multiply(reference, rotation.from_rotvec(task.command(np.zeros(6))[3:6]))
    assert cap_tighten._yaw(held) == pytest.approx(cap_tighten._yaw(reference)), "a released key stays where it is"


def test_the_key_turns_the_cap_to_its_stop_and_no_further(make: Make) -> None:
    """Also against the stop: the driver's lead bounds the torque, and the key stays in the slot."""
    robot, task = make("smoke")
    start(robot, task, at(cap(45), 0, 0, 4.5))
    angles = []
    for _ in range(90):
        raw = step(robot, task, np.array([0, 0, 0.2, 0, 0, 1.0]))
        angles.append(math.degrees(raw["joint/cap"][0]))
    assert angles[0] < 50
    assert 89.5 < angles[-1] < 91.0
    assert np.abs(raw["wrench"][3:]).max() < 0.45
    assert raw["peak_force"][0] < 25
    assert task.judge(raw, np.zeros(7), raw).success
    low = task._cap(math.radians(angles[0]))[2] - task._cap(STOP_RAD)[2]
    assert low == pytest.approx(cap_tighten.PITCH_M * (90 - angles[0]) / 360, rel=0.01), "it goes down as it turns"


def test_turning_above_the_cap_or_on_its_top_does_nothing(make: Make) -> None:
    robot, task = make()
    for height, off, press in ((-5.0, 0.0, 0.0), (-0.5, 4.0, 0.15)):
        start(robot, task, at(cap(45), 0, off, height))
        for _ in range(60):
            raw = step(robot, task, np.array([0, 0, press, 0, 0, 1.0]))
            assert not task.judge(raw, np.zeros(7), raw).success
        assert (abs(raw["wrench"][2]) > 0.5) == (press > 0), "one hovers, the other one presses"
        assert math.degrees(cap_tighten._yaw(raw["tool_pose"][3:])) > 85
        assert math.degrees(raw["joint/cap"][0]) < 50


def test_a_key_beside_the_slot_is_held_up(make: Make) -> None:
    robot, task = make()
    depth = {}
    for off in (0.3, 1.8):
        start(robot, task, at(cap(45), 0, off, -1))
        for _ in range(30):
            raw = step(robot, task, np.array([0, 0, 0.3, 0, 0, 0]))
        depth[off] = 1e3 * insertion.relative(raw["tool_pose"], task._cap(float(raw["joint/cap"][0])))[0][2]
    assert 5.5 < depth[0.3] < 6.5
    assert depth[1.8] < 0.5


@pytest.mark.parametrize("tier", ["default", "hard"])
def test_nothing_seen_before_touching_depends_on_the_truth(make: Make, tier: str) -> None:
    robot, task = make(tier)
    errors = ((0.0, 0.0), (2.0, -2.0), (-1.0, 3.0))

    def begin(x: float, y: float) -> None:
        task.place(robot, cap(45), 1e-3 * np.array([x, y, 0.0]), 0.02 * x, TO_GO, at(cap(45), 12, -7, -20))

    assert_truth_is_hidden(robot, task, [partial(begin, *error) for error in errors])


def test_draws_cover_the_announced_ranges() -> None:
    config = cap_tighten.TIERS["hard"]
    task, robot = cap_tighten.build(config), Cell(places_bodies=True)
    errors, starts, yaws, to_go, tight = [], [], [], [], []
    for seed in range(400):
        task.reset(robot, np.random.default_rng(seed))
        angle = float(robot.scenes[-1]["cap"][0])
        np.testing.assert_array_equal(robot.scenes[-1]["bottle"], task._bottle)
        offset, turn = insertion.relative(task._cap(angle), task._estimate)
        errors.append([*offset, rotation.to_rotvec(turn)[2]])
        position, turn = insertion.relative(robot.tips[-1], task._estimate)
        starts.append(position)
        yaws.append(rotation.to_rotvec(turn)[2])
        to_go.append(math.degrees(STOP_RAD - angle))
        tight.append(math.degrees(cap_tighten._yaw(task._estimate[3:])) + to_go[-1])
        assert task._to_go == pytest.approx(STOP_RAD - angle)
    error = np.array(errors)
    np.testing.assert_allclose(np.abs(error[:, :2]).max(axis=0), 0.003, rtol=0.05)
    assert np.abs(error[:, 2]).max() < 1e-12
    assert np.degrees(np.abs(error[:, 3]).max()) == pytest.approx(config.error_yaw_deg, rel=0.05)
    for drawn, (low, high) in ((to_go, config.to_go_deg), (tight, config.tight_deg)):
        assert low - 1e-6 <= min(drawn) < low + 1
        assert high - 1 < max(drawn) <= high + 1e-6
    assert np.degrees(np.abs(yaws).max()) == pytest.approx(config.start_yaw_deg, rel=0.05)
    start = np.array(starts)
    assert np.abs(np.corrcoef(start[:, :2].T, error[:, :2].T)[:2, 2:]).max() < 0.15, (
        "the start says nothing of the error"
    )


def test_bad_configurations_and_robots_are_refused() -> None:
    with pytest.raises(ConfigError, match="history"):
        cap_tighten.build(replace(Config(), history=(1, 2)))
    with pytest.raises(ValueError, match="to_go_deg: expected 0 < least <= largest <= 90"):
        Config(to_go_deg=(60.0, 100.0))
    with pytest.raises(ConfigError, match=r"simulated robot.*cell does not show"):
        cap_tighten.build(Config()).reset(Cell(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("tier", "longest", "most_n"), [("smoke", 110, 10.0), ("default", 110, 10.0), ("hard", 300, 15.0)]
)
def test_informed_expert_succeeds_gently(make: Make, tier: str, longest: int, most_n: float) -> None:
    """On `hard` it has to search twice, sliding along the cap."""
    robot, task = make(tier)
    for seed in range(3):
        success, states, peak = run(robot, task, seed, skill=Skill.INFORMED)
        assert success
        assert 40 < len(states) - 1 < longest
        assert peak < most_n


def test_blind_expert_fails_where_the_estimate_is_wrong_and_presses_gently(make: Make) -> None:
    assert_blind_fails_gently(*make("hard"), seeds=4, most=1)


def test_only_the_weak_person_sees_the_slot(make: Make) -> None:
    """What the informed one does can be learned from what a policy observes."""
    robot, task = make()
    tip = at(cap(45), 4, 3, -10)
    actions = []
    for error in ((0.0, 0.0), (2.0, -2.0)):
        start(robot, task, tip, error_mm=error, yaw=0.01 * error[0])
        actions.append([task.expert(seen(tip), np.random.default_rng(0), skill=s) for s in task.spec.skills])
    for skill, one, other in zip(task.spec.skills, *actions, strict=True):
        assert np.array_equal(one, other) == (skill is not Skill.WEAK)


def test_a_key_that_came_out_is_put_in_again_where_the_slot_is_now(make: Make) -> None:
    """The informed expert feels nothing above the cap: it knows the slot's angle by the angle it has turned it to."""
    robot, task = make()
    start(robot, task, at(cap(45), 0, 0, -10))
    raw = seen(at(cap(70), 0, 0, -6), degrees=70)
    action = task.expert(raw, np.random.default_rng(0), skill=Skill.INFORMED)
    assert action[2] > 0.3, "aligned with the turned slot: down"
    assert abs(action[5]) < 0.3, "and not back to where the slot was"
    raw = seen(at(cap(45), 0, 0, -6), degrees=70)
    action = task.expert(raw, np.random.default_rng(0), skill=Skill.WEAK)
    assert action[5] > 0.3, "25 degrees behind: turn first"
    assert action[2] < 0.3


def test_a_search_that_found_nothing_goes_on_with_the_key_turned_the_other_way(make: Make) -> None:
    robot, task = make("hard")
    start(robot, task, at(cap(45), 0, 0, -10))
    turns = []
    for x in (0.0, 6.0, 5.5, 0.0):  # a spiral begins, ends outside, and the next begins
        turns.append(task.expert(seen(at(cap(45), x, 0, 0)), np.random.default_rng(0), skill=Skill.INFORMED)[5])
    assert turns[0] > 0.5
    assert turns[1] == turns[2]
    assert turns[3] < -0.5


def test_a_weak_person_is_slower_than_the_informed_one(make: Make) -> None:
    assert_weak_is_slower(*make("smoke"), seeds=3, factor=1.05)


@given(
    x=st.floats(-20, 20), y=st.floats(-20, 20), z=st.floats(-30, 5), turn=st.tuples(unit, unit), yaw=st.floats(-60, 90)
)
def test_a_half_turned_pose_is_seen_as_the_symmetry_says(
    x: float, y: float, z: float, turn: tuple[float, float], yaw: float
) -> None:
    """About the axis of the estimate, with the key's ends exchanged."""
    task = cap_tighten.build(Config(history=(0,)))
    task._estimate, task._to_go = BOTTLE, TO_GO
    (symmetry,) = task.spec.symmetries

    def state(side: float) -> np.ndarray:
        frame = at(BOTTLE, side * x, side * y, z, (0, 0, yaw))
        task._frames = []
        return task.observe(seen(at(frame, 0, 0, 0, (5 * side * turn[0], 5 * side * turn[1], 0))))["state"]

    assert symmetry.observation["state"](state(1.0)) == pytest.approx(state(-1.0), abs=1e-4)


def test_a_half_turned_episode_is_nearly_the_same(make: Make) -> None:
    """The key presses on the cap beside the slot and is dragged and turned over it."""
    robot, task = make("hard")
    (symmetry,) = task.spec.symmetries

    def begin(act: Callable[[np.ndarray], np.ndarray]) -> None:
        error, tip = act(np.array([2.0, -1.5, 0, 0, 0, 0])), act(np.array([4.0, -2.5, -6.0, 0, 0, 0]))
        start(robot, task, at(cap(45), *tip[:3]), error_mm=tuple(error[:2]), yaw=0.02)

    free = (0, 1, 2, 5, 6, 7, 8, 12, *range(19, 25))  # and the last action
    assert_turned_is_nearly_the_same(robot, task, symmetry, begin, wrench=slice(13, 19), free=free, turning=0.2)


@pytest.mark.render
def test_pixels_show_the_cap(make: Make) -> None:
    assert_pixels_show(make, cap_tighten)
