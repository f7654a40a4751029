"""Every test process has a ROS domain of its own; every test a context and nodes that are gone after it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ros_world import Process, starter

from robolearn.ros import shared_memory

LOCK_PORT = 42_100
"""A test process holds port LOCK_PORT + its domain, so that no other takes the same domain."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "ros" in Path(str(item.path)).parts:
            item.add_marker(pytest.mark.ros)
            item.add_marker(pytest.mark.alone)


def _own_domain() -> tuple[int, socket.socket]:
    for attempt in range(100):
        domain = 1 + (os.getpid() + attempt) % 100
        lock = socket.socket()
        try:
            lock.bind(("127.0.0.1", LOCK_PORT + domain))
        except OSError:
            lock.close()
            continue
        return domain, lock
    raise RuntimeError("all ROS domains from 1 to 100 are in use")


@pytest.fixture(scope="session", autouse=True)
def ros_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment for nodes of this test process; also set in the process itself."""
    domain, lock = _own_domain()
    with closing(lock), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        patch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros_log")))
        patch.setenv("ROBOLEARN_STATE", str(tmp_path_factory.mktemp("state")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield dict(os.environ)
    shared_memory.sweep()


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An rclpy context with our Fast DDS profile, as robot hosts have it; skips where ROS is absent."""
    pytest.importorskip("rclpy")
    from robolearn.ros import context

    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(context.profile_path()))
    with context.context() as own:
        yield own


@pytest.fixture
def make_node(ros: Any) -> Iterator[Callable[..., Any]]:
    """Makes nodes: ``make_node(name="test", namespace="/fr3_1")``."""
    import rclpy

    nodes: list[Any] = []

    def make(name: str = "test", namespace: str = "/fr3_1") -> Any:
        nodes.append(rclpy.create_node(name, namespace=namespace, context=ros))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


@pytest.fixture
def start(ros_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts nodes as processes; see ``ros_world.starter``."""
    with starter(ros_env, tmp_path) as begin:
        yield begin
