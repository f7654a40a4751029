"""Finding rclpy, contexts, polled subscriptions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ros_world import until

from robolearn.core.errors import MissingDependencyError
from robolearn.ros import context

rclpy = pytest.importorskip("rclpy")
ASK = "from robolearn.ros import context; context.require_rclpy()"
IN_ENVIRONMENT = Path(rclpy.__file__).resolve().is_relative_to(Path(sys.prefix).resolve())


def last_words(code: str, **env: str) -> str:
    """The last line a fresh Python says when it runs ``code``; variables set to "" are absent."""
    merged = {k: v for k, v in {**os.environ, **env}.items() if v}
    done = subprocess.run([sys.executable, "-c", code], env=merged, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.skipif(not IN_ENVIRONMENT, reason="ROS is not from this environment's wheels")
def test_guard_without_library_path_says_what_to_unset() -> None:
    words = last_words(ASK, _ROS_WHEELS_BOOTSTRAP_COMPLETE="1", LD_LIBRARY_PATH="")
    assert "MissingDependencyError" in words
    assert "unset _ROS_WHEELS_BOOTSTRAP_COMPLETE, or pass both" in words


@pytest.mark.skipif(not IN_ENVIRONMENT, reason="ROS is not from this environment's wheels")
def test_libraries_of_another_ros_are_refused(tmp_path: Path) -> None:
    (tmp_path / "librcl.so").touch()
    words = last_words(ASK, LD_LIBRARY_PATH=f"{tmp_path}:{os.environ['LD_LIBRARY_PATH']}")
    assert "two ROS installations are mixed" in words
    assert str(tmp_path) in words


def test_ros_for_another_python_says_so(tmp_path: Path) -> None:
    foreign = tmp_path / "rclpy"
    shutil.copytree(Path(rclpy.__file__).parent, foreign, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    words = last_words(ASK, PYTHONPATH=str(tmp_path))
    assert f"another ROS installation ({foreign})" in words
    assert "unset PYTHONPATH" in words


def test_absent_rclpy_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rclpy")
    monkeypatch.setattr(context.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'robolearn\[ros\]'"):
        context.require_rclpy()


def test_importing_the_package_needs_no_ros() -> None:
    code = "import sys; import robolearn.ros.context; assert 'rclpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_child_of_another_environment_gets_no_ros_libraries() -> None:
    env = {"_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1", "LD_LIBRARY_PATH": f"{sys.prefix}/lib:elsewhere/lib64", "HOME": "/h"}
    assert context.clean_env(env) == {"LD_LIBRARY_PATH": "elsewhere/lib64", "HOME": "/h"}
    untouched = {"LD_LIBRARY_PATH": f"{sys.prefix}/lib"}
    assert context.clean_env(untouched) == untouched


def test_with_profile_leaves_a_profile_of_the_users() -> None:
    assert Path(context.with_profile({})["FASTDDS_DEFAULT_PROFILES_FILE"]).is_file()
    own = {"FASTDDS_DEFAULT_PROFILES_FILE": "/etc/own.xml"}
    assert context.with_profile(own) == own


def test_missing_host_names_what_is_visible_and_what_hides_others() -> None:
    env = {"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    line = context.missing_host("/fr3_1", ("/left", "/right"), env)
    assert line == "no robot host in /fr3_1 on ROS domain 7; visible there: /left, /right"
    line = context.missing_host("/fr3_1", (), env)
    assert "LOCALHOST hides other machines" in line
    assert "set ROS_DOMAIN_ID" in line


def test_newest_takes_the_last_message_once(make_node) -> None:
    from std_msgs.msg import Float64MultiArray

    node = make_node()
    sent = node.create_publisher(Float64MultiArray, "numbers", context.STATE)
    newest = context.Newest(node, Float64MultiArray, "numbers", context.STATE)
    assert newest.take() is None
    assert newest.received_ns == 0
    until("discovery", lambda: newest.publishers and sent.get_subscription_count())
    before = time.monotonic_ns()
    for value in range(3):
        sent.publish(Float64MultiArray(data=[float(value)]))
    until("arrival", lambda: newest.take() is None and newest.count == 3)
    assert newest.message.data[0] == 2.0
    assert before <= newest.received_ns <= time.monotonic_ns()
    assert newest.take() is None


def test_waiting_in_the_queue_counts_as_age(make_node) -> None:
    from std_msgs.msg import Float64MultiArray

    node = make_node()
    sent = node.create_publisher(Float64MultiArray, "numbers", context.STATE)
    newest = context.Newest(node, Float64MultiArray, "numbers")
    until("discovery", lambda: newest.publishers and sent.get_subscription_count())
    newest.take()
    sent.publish(Float64MultiArray(data=[1.0]))
    published = time.monotonic_ns()
    time.sleep(0.2)
    assert newest.take() is not None
    assert abs(newest.received_ns - published) < 100_000_000


def test_a_spun_node_leaves_polled_subscriptions_alone(make_node) -> None:
    from std_msgs.msg import Float64MultiArray
    from std_srvs.srv import Trigger

    node, other = make_node(), make_node("other")
    newest = context.Newest(node, Float64MultiArray, "numbers")
    served: list[int] = []

    def serve(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        served.append(1)
        response.success = True
        return response

    node.create_service(Trigger, "~/ask", serve)
    sent = other.create_publisher(Float64MultiArray, "numbers", context.STATE)
    client = other.create_client(Trigger, "test/ask")
    with context.SpinThread([node, other]) as thread:
        until("discovery", lambda: newest.publishers and sent.get_subscription_count())
        for value in range(5):
            sent.publish(Float64MultiArray(data=[float(value)]))
        assert client.wait_for_service(10.0)
        answer = client.call_async(Trigger.Request())
        until("answer", answer.done)
        until("arrival", lambda: newest.take() is not None and newest.message.data[0] == 4.0)
        assert thread.alive
    assert served
    assert not thread.alive


def test_the_fallback_delivers_the_same(make_node) -> None:
    from rclpy.executors import SingleThreadedExecutor
    from std_msgs.msg import Float64MultiArray

    node = make_node()
    sent = node.create_publisher(Float64MultiArray, "numbers", context.STATE)
    newest = context.Newest(node, Float64MultiArray, "numbers", context.STATE)
    newest._executor = SingleThreadedExecutor(context=node.context)
    newest._subscription.callback_group.ending_execution(newest._subscription)
    until("discovery", lambda: newest.publishers and sent.get_subscription_count())
    sent.publish(Float64MultiArray(data=[3.0]))
    until("arrival", lambda: newest.take() is not None)
    assert np.array_equal(newest.message.data, [3.0])
    assert newest.count == 1


def test_two_contexts_live_side_by_side_and_end() -> None:
    with context.context() as first, context.context() as second:
        assert first.ok()
        assert second.ok()
    assert not first.ok()
    assert not second.ok()
