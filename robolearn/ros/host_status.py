"""What a robot host tells about itself: status ten times a second, a heartbeat twice as often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from robolearn.hal.host.core import RobotHost
from robolearn.hal.host.pace import Pace
from robolearn.hal.host.wire import Mode
from robolearn.ros import context

BEAT_HZ = 20.0
"""Rate of the heartbeat."""
_STATUS_NS, _BEAT_NS, _JITTER_NS = 100_000_000, int(1e9 / BEAT_HZ), 1_000_000_000


class StatusPublisher:
    """``~/status`` (diagnostic_msgs/DiagnosticArray, 10 Hz) and ``~/heartbeat`` (std_msgs/UInt32, 20 Hz)."""

    def __init__(self, node: Any, host: RobotHost, pace: Pace, extra: Callable[[], Mapping[str, str]] = dict) -> None:
        """Prepare; ``extra`` gives more facts for the status."""
        from diagnostic_msgs.msg import DiagnosticArray
        from std_msgs.msg import UInt32

        self._host, self._pace, self._extra, self._clock = host, pace, extra, node.get_clock()
        self._name = node.get_fully_qualified_name()
        self._status = node.create_publisher(DiagnosticArray, "~/status", context.STATE)
        self._heart = node.create_publisher(UInt32, "~/heartbeat", context.STATE)
        self._next_status = self._next_beat = self._next_jitter = 0
        self._beats = 0
        self._jitter: dict[str, str] = {}

    def update(self, now_ns: int) -> None:
        """Publish what is due."""
        if now_ns >= self._next_beat:
            from std_msgs.msg import UInt32

            self._next_beat = now_ns + _BEAT_NS
            self._beats += 1
            self._heart.publish(UInt32(data=self._beats & 0xFFFFFFFF))
        elif now_ns >= self._next_status:
            self._next_status = now_ns + _STATUS_NS
            self._publish(now_ns)

    def _publish(self, now_ns: int) -> None:
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

        host = self._host
        if now_ns >= self._next_jitter:
            self._next_jitter = now_ns + _JITTER_NS
            late = {f"jitter_p{p}_ms": f"{self._pace.lateness_ms(p):.3f}" for p in (50, 99, 100)}
            self._jitter = late | {"missed_deadlines": str(self._pace.missed), "ticks": str(self._pace.ticks)}
        level = DiagnosticStatus.OK
        if host.mode is Mode.STOPPED:
            level = DiagnosticStatus.ERROR
        elif host.trouble or host.paused or host.mode is Mode.HOLDING:
            level = DiagnosticStatus.WARN
        values = facts(host) | self._jitter | {"priority": self._pace.priority, **self._extra()}
        status = DiagnosticStatus(
            level=level,
            name=self._name,
            message=host.reason or host.trouble or host.paused or host.mode.name.lower(),
            hardware_id=host.config.robot,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._clock.now().to_msg()
        self._status.publish(message)


def facts(host: RobotHost) -> dict[str, str]:
    """Key -> text of what a host is, does and has counted."""
    config = host.config
    box = config.limits()
    known = {
        "mode": host.mode.name.lower(),
        "reason": host.reason,
        "trouble": host.trouble,
        "paused": host.paused,
        "refusal": host.refusal,
        "epoch": str(host.fence.epoch),
        "robot": config.robot,
        "model": config.model,
        "simulated": str(config.simulated).lower(),
        "profile": config.profile,
        "rate_hz": f"{config.rate_hz:g}",
        "control_hz": f"{config.control_hz:g}",
        "max_translation": repr(config.max_translation),
        "max_rotation": repr(config.max_rotation),
        "workspace_low": " ".join(map(repr, box.low)),
        "workspace_high": " ".join(map(repr, box.high)),
        "tip": " ".join(map(repr, config.tip)),
    }
    counts = {f"count/{key}": str(value) for key, value in sorted(host.counts.items())}
    return known | counts | {f"feedback/{key}": str(value) for key, value in sorted(host.feedback_counts.items())}
