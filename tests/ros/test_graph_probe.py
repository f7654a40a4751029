"""What the ROS graph shows, as resources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robolearn.core.errors import MissingDependencyError
from robolearn.ros import context
from robolearn.ros.probes import graph

JOINTS, IMAGE = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image"
TOLD = {"robot": "fr3_left", "model": "fr3", "simulated": "false", "profile": "cartesian_pose", "mode": "holding"}


def test_a_hosted_robot_is_usable_and_labelled() -> None:
    (robot,) = graph.resources({"/left": TOLD}, [("/left/joint_states", JOINTS, 1, 1)])
    assert robot.id == "ros2:/left"
    assert not robot.unusable
    assert not robot.simulated
    assert robot.labels["model"] == "fr3"
    assert robot.labels["joint_states"] == "yes"


def test_only_what_the_host_says_makes_it_simulated() -> None:
    (robot,) = graph.resources({"/left": {**TOLD, "simulated": "true"}}, [])
    assert robot.simulated


def test_a_stopped_robot_waits_for_a_person() -> None:
    (robot,) = graph.resources({"/left": {**TOLD, "mode": "stopped", "reason": "force 64 N"}}, [])
    assert robot.health == "stopped"
    assert "force 64 N" in robot.unusable
    assert "robolearn host reset /left" in robot.unusable


def test_a_silent_host_is_not_usable() -> None:
    (robot,) = graph.resources({"/left": {}}, [])
    assert robot.health == "silent"


def test_an_arm_without_host_says_who_listens_and_what_to_start() -> None:
    topics = [
        ("/right/joint_states", JOINTS, 1, 0),
        ("/right/target_pose", "geometry_msgs/msg/PoseStamped", 0, 1),
        ("/right/joint_trajectory_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory", 0, 1),
        ("/right/forward_position_controller/commands", "std_msgs/msg/Float64MultiArray", 1, 0),
    ]
    (robot,) = graph.resources({}, topics)
    assert robot.id == "ros2:/right"
    assert robot.labels["commands"] == "cartesian_pose,joint_position"
    assert "robolearn host up --namespace /right" in robot.unusable


def test_joint_states_nobody_publishes_are_no_robot() -> None:
    assert graph.resources({}, [("/left/joint_states", JOINTS, 0, 1)]) == []


def test_an_arm_without_namespace_is_found() -> None:
    (robot,) = graph.resources({}, [("/joint_states", JOINTS, 1, 0), ("/target_pose", "x", 0, 1)])
    assert robot.labels["namespace"] == "/"
    assert robot.labels["commands"] == "cartesian_pose"


def test_a_camera_is_one_resource_raw_and_compressed() -> None:
    topics = [
        ("/left/wrist/image_raw", IMAGE, 1, 0),
        ("/left/wrist/image_raw/compressed", "sensor_msgs/msg/CompressedImage", 1, 0),
        ("/left/side/image_raw", IMAGE, 0, 1),
    ]
    (camera,) = graph.resources({}, topics)
    assert (camera.id, camera.kind) == ("camera:/left/wrist/image_raw", "camera")
    assert camera.labels == {"raw": "yes", "compressed": "yes"}
    assert not camera.simulated
    assert graph.resources({}, topics, {"/left"})[0].simulated


def test_without_ros_the_probe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise MissingDependencyError("rclpy is not installed: do this")

    monkeypatch.setattr(context, "require_rclpy", absent)
    found = graph.probe()
    assert found.resources == ()
    assert found.problem == "rclpy is not installed: do this"


def test_a_running_arm_is_found(start: Callable[..., Any]) -> None:
    pytest.importorskip("rclpy")
    start("robolearn.ros.sim_arm", namespace="/lonely")
    found: dict[str, Any] = {}
    for _ in range(10):  # each look is short; on a loaded machine one may be too short
        found = {resource.id: resource for resource in graph.probe().resources}
        seen = found.get("ros2:/lonely")
        if seen and seen.simulated and seen.labels.get("commands", "").count(",") == 3:
            break
    robot = found["ros2:/lonely"]
    assert robot.simulated
    assert robot.labels["joint_states"] == "yes"
    assert robot.labels["commands"] == "cartesian_pose,cartesian_twist,joint_forward,joint_position"
    assert robot.health == "no-host"
