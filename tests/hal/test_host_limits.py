"""What a robot host allows of an action: force, workspace, tilt, step, lead."""

import numpy as np
import pytest
from host_rig import START, bounds_broken, config, ready, tcp_of

from robolearn.hal import geometry
from robolearn.hal.host.config import Gripper, Workspace
from robolearn.hal.host.wire import Mode


def test_a_force_above_the_limit_stops_and_latches() -> None:
    rig = ready(config(force=30.0))
    rig.drive(0.5, 0.004)
    rig.wrench = np.array([18.0, 0, 25.0, 0, 0, 0])
    rig.tick()
    assert rig.host.mode is Mode.STOPPED
    assert "30.8 N" in rig.host.reason
    rig.wrench = np.zeros(6)
    rig.run(0.5)
    assert rig.host.mode is Mode.STOPPED
    assert rig.count("force") == 1
    assert bounds_broken(rig.published, rig.config) == []


def test_a_force_below_the_limit_or_none_is_no_stop() -> None:
    rig = ready(config(force=30.0))
    rig.wrench = np.array([0, 0, 29.0, 50.0, 50.0, 50.0])
    rig.drive(0.3, 0.001)
    assert rig.host.mode is Mode.DRIVING
    rig = ready(config(force=None))
    rig.wrench = np.array([0, 0, 500.0, 0, 0, 0])
    rig.drive(0.3, 0.001)
    assert rig.host.mode is Mode.DRIVING


def test_the_peak_force_of_a_period_is_shown_once() -> None:
    rig = ready()
    rig.next_report()
    rig.wrench = np.array([0, 0, 20.0, 0, 0, 0])
    rig.tick()
    rig.wrench = np.zeros(6)
    shown = rig.next_report().observation
    assert shown["peak_force"].tolist() == [20.0]
    assert abs(shown["wrench"][2]) < 1e-9, "the mean is of the last 50 ms"
    assert rig.next_report().observation["peak_force"].tolist() == [0.0]


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_tcp_goes_to_the_wall_and_not_through(axis: int, sign: int) -> None:
    rig = ready(config(workspace=Workspace((0.46, -0.04, 0.18), (0.54, 0.04, 0.26))))
    step = np.zeros(3)
    step[axis] = 0.008 * sign
    flip = np.array([1.0, -1.0, -1.0])  # the tool looks down: its y and z point against those of the base
    for _ in range(15):
        rig.next_report()
        rig.tick(rig.delta(*(step * flip)))
    goals = np.array([tcp_of(rig, setpoint.pose) for setpoint in rig.published])
    box = rig.config.workspace
    wall = (box.high if sign > 0 else box.low)[axis]
    assert (goals >= np.array(box.low) - 1e-6).all()
    assert (goals <= np.array(box.high) + 1e-6).all()
    assert abs(goals[-1][axis] - wall) < 1e-3
    assert rig.count("workspace") > 3
    assert bounds_broken(rig.published, rig.config) == []


def test_a_corner_at_full_step_makes_no_spike() -> None:
    rig = ready(tip=[0.6, 0.1, 0.3, 0, 1, 0, 0])
    rig.drive(3.0, 0.008, y=-0.008, z=-0.008, turn=(0.05, 0.05, 0.1))
    assert rig.count("workspace") > 10
    assert bounds_broken(rig.published, rig.config) == []


@pytest.mark.parametrize("turn", [(0.05, 0, 0), (0, -0.05, 0), (0.04, 0.04, 0.03)])
def test_the_reference_is_never_tilted_beyond_the_limit(turn: tuple[float, float, float]) -> None:
    rig = ready()
    rig.follows = 0.03  # what is measured trails behind: the reference itself has to be kept upright
    rig.drive(3.0, 0.0, turn=turn)
    tilts = [geometry.tilt(setpoint.pose[3:]) for setpoint in rig.published]
    assert max(tilts) <= rig.config.tilt + 1e-6
    assert max(tilts) > 0.9 * rig.config.tilt
    assert rig.count("tilt") > 3
    assert rig.report.altered


def test_the_reference_turns_at_most_lead_ahead_of_the_arm() -> None:
    rig = ready(config(tilt=None, lead=0.06))
    rig.follows = 1e-4
    rig.drive(1.0, 0.0, turn=(0.0, 0.0, 0.05))
    between = geometry.multiply(geometry.conjugate(rig.tip[3:]), rig.published[-1].pose[3:])
    assert np.linalg.norm(geometry.to_rotvec(between)) == pytest.approx(0.06, abs=1e-3)
    assert rig.count("lead") > 3
    assert rig.report.altered
    assert np.abs(rig.report.executed[3:6]).max() < 1e-3, "what was executed is what the reference turned"


def test_turns_add_up_in_the_reference_not_in_the_measured_orientation() -> None:
    rig = ready(config(tilt=None))
    rig.follows = 0.05
    for _ in range(4):
        rig.next_report()
        rig.tick(rig.delta(turn=(0.0, 0.0, 0.02)))
    turned = geometry.to_rotvec(geometry.multiply(geometry.conjugate(START[3:]), rig.host._shaper.goal[3:]))
    assert turned[2] == pytest.approx(0.08, abs=1e-6)


def test_a_displacement_is_from_where_the_arm_is() -> None:
    """So a stuck arm is never pushed further than one step."""
    rig = ready()
    rig.follows = 1e-5
    rig.drive(2.0, 0.008)
    ahead = max(np.linalg.norm(setpoint.pose[:3] - START[:3]) for setpoint in rig.published)
    assert ahead < 0.0082


def test_a_step_is_clipped_per_axis_and_counted() -> None:
    rig = ready()
    rig.tick(rig.delta(0.5, -0.5, 0.004, turn=(0.0, 0.0, 3.0)))
    report = rig.next_report()
    assert report.executed[:6].tolist() == [0.008, -0.008, 0.004, 0.0, 0.0, 0.1]
    assert rig.count("clipped") == 1


def test_a_held_gripper_is_never_opened_further() -> None:
    rig = ready(config(gripper=Gripper(held=0.2)))
    rig.tick(rig.order(values=[0, 0, 0, 0, 0, 0, 1.0]))
    assert rig.published[-1].gripper == 0.2
    assert rig.next_report().executed[6] == 0.2


def test_a_gripper_that_moves_is_commanded_and_read_back() -> None:
    rig = ready(config(gripper=Gripper(kind="forward")))
    rig.changes["gripper"] = 0.7
    rig.tick(rig.order(values=[0, 0, 0, 0, 0, 0, 1.0]))
    assert rig.published[-1].gripper == 1.0
    assert rig.next_report().observation["gripper"].tolist() == [0.7]


@pytest.mark.parametrize(
    "goal",
    [
        [0.55, 0.05, 0.30, 0.0, 1.0, 0.0, 0.0],
        [0.36, -0.14, 0.10, 0.0, 1.0, 0.0, 0.0],
    ],
)
@pytest.mark.parametrize("profile", ["cartesian_pose", "joint_position"])
def test_a_goto_in_the_workspace_arrives(profile: str, goal: list[float]) -> None:
    rig = ready(config(profile=profile))
    assert rig.go(goal, 8.0)
    assert np.linalg.norm(rig.tip[:3] - goal[:3]) < 2e-3
    for run in rig.runs:
        assert bounds_broken(run, rig.config) == []


WIDE = Workspace((-0.9, -0.9, 0.0), (0.9, 0.9, 1.2))


@pytest.mark.parametrize(
    "goal",
    {
        "far out of reach": [0.88, 0.5, 0.3, 0.0, 1.0, 0.0, 0.0],
        "above the shoulder, a singularity": [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0],
        "through its own base": [-0.5, 0.0, 0.3, 0.0, 1.0, 0.0, 0.0],
        "upside down": [0.5, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0],
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("profile", ["joint_position", "joint_forward"])
def test_what_the_arm_cannot_reach_makes_no_velocity_spike(profile: str, goal: tuple[str, list[float]]) -> None:
    rig = ready(config(profile=profile, workspace=WIDE, tilt=None, lead=0.5))
    rig.go(goal[1], 4.0)
    rig.run(0.5)
    for run in rig.runs:
        assert bounds_broken(run, rig.config) == []
    speeds = np.abs(np.diff([setpoint.joints for setpoint in rig.published], axis=0)) * 200
    assert speeds.max() > 0.1, "it did move"
