"""Robots and cameras that the ROS 2 graph shows: who tells joint states, who listens for commands, who sends images."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from robolearn.core.errors import RobolearnError
from robolearn.hal.resources import Found, Resource
from robolearn.ros import context

LOOK_S = 0.8
_POLL_S = 0.02
_DRIVER = "ros2"
_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_JOINTS = "sensor_msgs/msg/JointState"
COMMANDS = {
    "target_pose": "cartesian_pose",
    "delta_twist_cmds": "cartesian_twist",
    "joint_trajectory": "joint_position",
    "commands": "joint_forward",
}
"""Last part of a command topic -> profile that uses it."""
_SIMULATOR = "sim_arm"
_TOLD = ("robot", "model", "simulated", "profile", "mode", "reason")


def probe() -> Found:
    """Robots with a host, arms without one, and camera topics of this ROS domain; takes 0.8 s.

    An arm without a host cannot be leased: nothing guards it.
    """
    try:
        rclpy = context.require_rclpy()
    except RobolearnError as error:
        return Found(problem=str(error))
    with context.context() as own:
        node = rclpy.create_node(f"robolearn_probe_{os.getpid()}", context=own, start_parameter_services=False)
        try:
            return _look(node)
        finally:
            node.destroy_node()


def _look(node: Any) -> Found:
    from diagnostic_msgs.msg import DiagnosticArray

    deadline = time.monotonic() + LOOK_S
    watched: dict[str, context.Newest] = {}
    told: dict[str, Mapping[str, str]] = {}
    while time.monotonic() < deadline:
        for space in context.robot_hosts(node):
            if space not in watched:
                watched[space] = context.Newest(
                    node, DiagnosticArray, f"{space.rstrip('/')}/{context.HOST_NODE}/status"
                )
        for space, newest in watched.items():
            message = newest.take()
            if message is not None and message.status:
                told[space] = {pair.key: pair.value for pair in message.status[0].values}
        time.sleep(_POLL_S)
    topics = [
        (name, kinds[0], node.count_publishers(name), node.count_subscribers(name))
        for name, kinds in node.get_topic_names_and_types()
    ]
    hosts = {space: told.get(space, {}) for space in watched}
    simulators = {space for name, space in node.get_node_names_and_namespaces() if name == _SIMULATOR}
    return Found(tuple(resources(hosts, topics, simulators)))


def resources(
    hosts: Mapping[str, Mapping[str, str]],
    topics: Sequence[tuple[str, str, int, int]],
    simulators: Collection[str] = (),
) -> list[Resource]:
    """What a graph shows, as resources.

    Args:
        hosts: namespace -> key and text of its robot host's last status; empty when it told none.
        topics: (name, type, publishers, subscribers).
        simulators: namespaces of simulated arms.
    """
    arms: dict[str, dict[str, str]] = defaultdict(dict)
    listened: dict[str, set[str]] = defaultdict(set)
    cameras: dict[str, dict[str, str]] = defaultdict(dict)
    for name, kind, publishers, subscribers in topics:
        space, last = name.rsplit("/", 1)
        if last == "joint_states" and kind == _JOINTS and publishers:
            arms[space or "/"]["joint_states"] = "yes"
        if last in COMMANDS and subscribers:
            listened[name].add(COMMANDS[last])
        if kind in (_IMAGE, _COMPRESSED) and publishers:
            raw = space if last == "compressed" else name
            cameras[raw]["compressed" if kind == _COMPRESSED else "raw"] = "yes"
    found = [_hosted(space, told, arms.pop(space, {})) for space, told in sorted(hosts.items())]
    for space, labels in sorted(arms.items()):
        inside = space.rstrip("/") + "/"
        profiles = sorted({p for topic, ps in listened.items() if topic.startswith(inside) for p in ps})
        found.append(_bare(space, labels | {"commands": ",".join(profiles)}, space in simulators))
    for topic, labels in sorted(cameras.items()):
        simulated = any(topic.startswith(space.rstrip("/") + "/") for space in simulators)
        found.append(Resource(f"camera:{topic}", "camera", labels, simulated=simulated))
    return found


def _hosted(space: str, told: Mapping[str, str], labels: Mapping[str, str]) -> Resource:
    """A robot with a host."""
    name = f"{_DRIVER}:{space}"
    labels = {"driver": _DRIVER, "namespace": space, **labels, **{key: told[key] for key in _TOLD if told.get(key)}}
    simulated = told.get("simulated", "").lower() in ("true", "yes", "1")
    if not told:
        reason = f"its robot host tells no status; look at it: robolearn host status {space}"
        return Resource(name, "robot", labels, health="silent", unusable=reason)
    if told.get("mode") == "stopped":
        why = told.get("reason") or "no reason given"
        reason = f"stopped: {why}; a person clears it at the robot: robolearn host reset {space}"
        return Resource(name, "robot", labels, simulated=simulated, health="stopped", unusable=reason)
    return Resource(name, "robot", labels, simulated=simulated)


def _bare(space: str, labels: Mapping[str, str], simulated: bool) -> Resource:
    """An arm nobody hosts."""
    labels = {"driver": _DRIVER, "namespace": space, **{key: value for key, value in labels.items() if value}}
    reason = f"no robot host beside it; start one: robolearn host up --namespace {space}"
    return Resource(f"{_DRIVER}:{space}", "robot", labels, simulated=simulated, health="no-host", unusable=reason)
