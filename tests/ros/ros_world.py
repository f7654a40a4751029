"""Processes and waiting for tests over genuine ROS 2 messages."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def until(what: str, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Poll until ``condition`` is true; fail by name when it never is."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.002)


def collect(take: Callable[[], object], seconds: float) -> list:
    """What ``take`` returns, other than None, within a time."""
    deadline, found = time.monotonic() + seconds, []
    while time.monotonic() < deadline:
        if (one := take()) is not None:
            found.append(one)
        time.sleep(0.0005)
    return found


def _die_with_tests() -> None:
    """Even if the tests are killed, no simulated arm goes on at real-time priority."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Process:
    """A node in a process group of its own; its output goes to a file."""

    def __init__(self, command: list[str], env: Mapping[str, str], output: Path) -> None:
        self._output = output
        with output.open("wb") as stream:
            self.child = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=_die_with_tests,
            )

    @property
    def text(self) -> str:
        """Everything it has said so far."""
        return self._output.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        """Wait until it has said ``text``; fail with what it said instead."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            if not self.alive or time.monotonic() > deadline:
                raise AssertionError(f"it never said {text!r} but: {self.text}")
            time.sleep(0.01)

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 10.0) -> int:
        """Send a signal and return the exit status."""
        if self.alive:
            self.child.send_signal(number)
        return self.child.wait(timeout_s)

    def kill(self) -> None:
        """End the process and all it started, whatever state it is in; kindly first, so that it leaves no files."""
        if self.alive:
            with suppress(subprocess.TimeoutExpired):
                self.stop(signal.SIGINT, 2.0)
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(10.0)


def module_command(module: str, namespace: str, parameters: Mapping[str, object]) -> list[str]:
    """``python -m MODULE --ros-args`` in a namespace with parameters (values in YAML)."""
    command = [sys.executable, "-m", module, "--ros-args", "-r", f"__ns:={namespace}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    return command


@contextmanager
def starter(env: Mapping[str, str], folder: Path) -> Iterator[Callable[..., Process]]:
    """A function that starts nodes; whatever it started is killed at the end, with its children.

    ``start("robolearn.ros.sim_arm", namespace="/fr3_1", ready="ready", tier="smoke")``: keyword arguments beyond these
    are parameters (``fault__camera`` stands for ``fault.camera``); ``more`` adds environment variables.
    """
    processes: list[Process] = []

    def start(
        module: str,
        *,
        namespace: str = "/fr3_1",
        ready: str = "ready",
        more: Mapping[str, str] | None = None,
        **values: object,
    ) -> Process:
        named = {name.replace("__", "."): value for name, value in values.items()}
        output = folder / f"process{len(processes)}.txt"
        processes.append(Process(module_command(module, namespace, named), {**env, **(more or {})}, output))
        if ready:
            processes[-1].wait_for(ready)
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            process.kill()


def call(node: Any, kind: type, service: str, request: Any = None, timeout_s: float = 30.0) -> Any:
    """The answer of a service, as seen from ``node``, which nobody spins."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    client = node.create_client(kind, service)
    executor = SingleThreadedExecutor(context=node.context)
    try:
        assert client.wait_for_service(timeout_s), f"no service {service}"
        future = client.call_async(kind.Request() if request is None else request)
        rclpy.spin_until_future_complete(node, future, executor, timeout_s)
        assert future.done(), f"no answer from {service}"
        return future.result()
    finally:
        executor.remove_node(node)
        executor.shutdown()
        node.destroy_client(client)


def set_parameter(node: Any, target: str, name: str, value: object) -> Any:
    """Set a parameter of node ``target``; the SetParametersResult."""
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return call(node, SetParameters, f"{target}/set_parameters", request).results[0]
