"""Is an arm behind a robot host fit to be driven? Looks for half a second and moves nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from robolearn.core.errors import RobolearnError
from robolearn.hal.check import Finding
from robolearn.hal.host.wire import Mode, Report
from robolearn.ros.client import HostClient, HostSilentError

_LOOK_S = 0.4
_LEAST_RATE_HZ = 50.0
_REST_RAD_S, _REST_S = 0.02, 1.0
_JITTER_MS = 5.0
_OFFSET_S = 0.5


def check_host(namespace: str, *, domain: int | None = None, look_s: float = _LOOK_S) -> list[Finding]:
    """What is right and wrong with the arm of a namespace; the first finding says whether its host answers."""
    try:
        with HostClient(namespace, domain=domain) as client:
            states = _listen(client, look_s)
            return [
                Finding("robot host", True, f"{client.status.get('profile')} at {client.status.get('rate_hz')} Hz"),
                *_feedback(states, look_s),
                _clock(states),
                _rest(client),
                _driver(client),
                _stop(client.status),
                _jitter(client.status),
            ]
    except HostSilentError as error:
        return [Finding("robot host", False, str(error), "answers", f"robolearn host up --namespace {namespace}")]
    except RobolearnError as error:
        return [Finding("robot host", False, str(error), "answers")]


def _listen(client: HostClient, look_s: float) -> list[tuple[int, int, Any]]:
    """Joint states of a while, from where the host takes them: (arrived, monotonic ns; stamp, wall ns; velocity)."""
    from sensor_msgs.msg import JointState

    from robolearn.ros import context

    found: list[tuple[int, int, Any]] = []

    def take(message: Any) -> None:
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        found.append((time.monotonic_ns(), stamp - time.time_ns(), np.asarray(message.velocity)))

    topic = client.status.get("joint_states") or f"{client.namespace.rstrip('/')}/joint_states"
    subscription = client.node.create_subscription(JointState, topic, take, context.SENSOR)
    time.sleep(look_s)
    client.node.destroy_subscription(subscription)
    return found


def _feedback(states: list[tuple[int, int, Any]], look_s: float) -> list[Finding]:
    rate = len(states) / look_s
    hint = "" if rate >= _LEAST_RATE_HZ else "use the controller's own joint_states, not an aggregated or throttled one"
    findings = [Finding("joint feedback", rate >= _LEAST_RATE_HZ, f"{rate:.0f} Hz", f">= {_LEAST_RATE_HZ:g} Hz", hint)]
    if len(states) > 2:
        gap = float(np.diff([arrived for arrived, _, _ in states]).max()) * 1e-6
        findings.append(Finding("longest gap", gap < 100.0, f"{gap:.1f} ms", "< 100 ms", "look for load or a bad link"))
    return findings


def _clock(states: list[tuple[int, int, Any]]) -> Finding:
    if not states:
        return Finding("clock", None, "no joint states", "stamps near this machine's time")
    offset = float(np.median([offset for _, offset, _ in states])) * 1e-9
    return Finding(
        "clock",
        abs(offset) < _OFFSET_S,
        f"stamps are {1e3 * abs(offset):.1f} ms {'ahead of' if offset > 0 else 'behind'} this machine",
        f"within {_OFFSET_S:g} s",
        "synchronise the clocks (chrony, ptp); driving does not need it, logs and bags do",
    )


def _rest(client: HostClient) -> Finding:
    with suppress(HostSilentError):  # an arm that was just let go of creeps for a moment
        client.wait(lambda report: _speed(report) < _REST_RAD_S, _REST_S)
    speed = _speed(client.report)
    limit = f"< {_REST_RAD_S:g} rad/s"
    return Finding("at rest", speed < _REST_RAD_S, f"{speed:.3f} rad/s", limit, "let it come to rest")


def _speed(report: Report) -> float:
    """Largest joint speed [rad/s]."""
    return float(np.abs(report.observation.get("joint_velocity", np.zeros(1))).max())


def _driver(client: HostClient) -> Finding:
    driven = client.report.mode is Mode.DRIVING
    return Finding(
        "nobody drives it",
        not driven,
        client.report.mode.name.lower(),
        "not driving",
        f"somebody with epoch {client.report.epoch} sends commands: end that process" if driven else "",
    )


def _stop(status: Mapping[str, str]) -> Finding:
    latched = status.get("mode") == "stopped"
    return Finding(
        "no stop latched",
        not latched and not status.get("trouble"),
        status.get("reason") or status.get("trouble") or "none",
        "none",
        "look after the robot, then clear it: robolearn host reset" if latched else "",
    )


def _jitter(status: Mapping[str, str]) -> Finding:
    jitter = float(status.get("jitter_p99_ms", "nan"))
    return Finding(
        "loop jitter p99",
        None if np.isnan(jitter) else jitter < _JITTER_MS,
        f"{jitter:.2f} ms ({status.get('priority', '')})",
        f"< {_JITTER_MS:g} ms",
        "grant real-time priority (rtprio in limits.conf) or take load off this machine",
    )
