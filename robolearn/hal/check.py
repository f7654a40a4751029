"""Checks of a resource: what was measured, what it should be, and what mends it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

from robolearn.core import plugins
from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import RobolearnError
from robolearn.hal.resources import Resource

_TIME_ERROR = 5
"""Answer of adjtimex(2) when nothing keeps the clock right."""
_SLEW_PPM = 500.0
"""How fast NTP turns a clock at most [parts per million]."""
_STEP_MS = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what, for example ``joint feedback``.
        ok: False when it is wrong; None when it could not be found out.
        value: what was seen, with its unit.
        expected: what would be right.
        hint: what to do; empty when there is nothing to do.
    """

    name: str
    ok: bool | None
    value: str
    expected: str = ""
    hint: str = ""


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Those that are wrong."""
    return [finding for finding in findings if finding.ok is False]


def passed(findings: Iterable[Finding]) -> bool:
    """True when something was found right and nothing wrong."""
    verdicts = [finding.ok for finding in findings]
    return True in verdicts and False not in verdicts


def check(
    resource: Resource,
    *,
    seconds: float = 2.0,
    clock: Clock | None = None,
    wall_ns: Callable[[], int] = time.time_ns,
) -> list[Finding]:
    """Look at a resource without moving or changing anything.

    Args:
        seconds: how long to watch what takes time [s].
        clock: monotonic; the wall clock is compared with it.
        wall_ns: the wall clock [ns].
    """
    clock = clock or MonotonicClock()
    started, wall = clock.now_ns(), wall_ns()
    findings = [health(resource)]
    if resource.kind == "robot":
        findings += _robot(resource, seconds)
    elif resource.kind == "camera" and not resource.unusable:
        findings += _camera(resource, seconds)
    if resource.kind in ("robot", "cpu"):
        clock.sleep_until_ns(started + int(seconds * 1e9))
        now = clock.now_ns()
        findings += [drift((now - started) * 1e-9, (wall_ns() - wall - (now - started)) * 1e-6), synchronised()]
    return findings


def health(resource: Resource) -> Finding:
    """What the probe said."""
    facts = [f"{resource.labels[key]} {unit}" for key, unit in _FACTS.items() if key in resource.labels]
    value = ", ".join([resource.health, *facts])
    return Finding("health", not resource.unusable, value, "ok", resource.unusable)


_FACTS = {"temperature_c": "°C", "used_mib": "MiB used", "memory_mib": "MiB"}


def drift(seconds: float, milliseconds: float) -> Finding:
    """Whether the wall clock ran like the monotonic one: it went ``milliseconds`` further within ``seconds``."""
    limit = _STEP_MS + seconds * _SLEW_PPM * 1e-3
    hint = "something sets the clock; let chrony or systemd-timesyncd do it alone"
    ok = abs(milliseconds) <= limit
    value = f"wall clock {milliseconds:+.1f} ms in {seconds:.1f} s"
    return Finding("clock", ok, value, f"within {limit:.1f} ms", "" if ok else hint)


def synchronised(state: Callable[[], int | None] | None = None) -> Finding:
    """Whether something keeps the wall clock right (adjtimex(2), read only). Matters with several machines only."""
    answer = (state or _adjtimex)()
    if answer is None:
        return Finding("clock source", None, "cannot be asked here", "synchronised")
    if answer == _TIME_ERROR:
        return Finding(
            "clock source", None, "not synchronised", "synchronised", "with several machines: install chrony"
        )
    return Finding("clock source", True, "synchronised", "synchronised")


def _adjtimex() -> int | None:
    try:
        call = ctypes.CDLL(None).adjtimex
    except (AttributeError, OSError):
        return None
    state = int(call(ctypes.create_string_buffer(512)))
    return None if state < 0 else state


def _robot(resource: Resource, seconds: float) -> list[Finding]:
    """What the robot's driver finds."""
    prefix, _, instance = resource.id.partition(":")
    driver = resource.labels.get("driver", prefix)
    try:
        module = plugins.load("robot", driver)
        ask = getattr(module, "check", None)
        if ask is None:
            # A simulated robot is made anew for every run, so there is nothing to look at but whether that would work.
            hint = "" if resource.simulated else "look at the robot"
            words = f"{driver} is here; it has no check of its own"
            return [Finding("driver", True if resource.simulated else None, words, "", hint)]
        more = {"seconds": seconds} if "seconds" in signature(ask).parameters else {}
        return list(ask(instance, **more))
    except (RobolearnError, ImportError, OSError) as error:
        return [Finding("robot", False, " ".join(str(error).split()), "an answer")]


def _camera(resource: Resource, seconds: float) -> list[Finding]:
    device, topic = resource.labels.get("device", ""), resource.labels.get("topic", "")
    if not device:
        hint = "the check of its robot looks at it: robolearn hal check ROBOT"
        return [Finding("frames", None, f"not looked at: images come over ROS ({topic})", "", hint)]
    from robolearn.hal.camera import check_camera

    return check_camera(Path(device), seconds)
