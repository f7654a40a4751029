"""What every process of a run shares: its role, the run directory, counters, metrics, and how it is told to stop."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from robolearn.run.config import RunPaths
from robolearn.run.counters import Counters, Field, Row
from robolearn.run.guard import Grant, Guard
from robolearn.run.metrics import JsonlWriter

PARENT, STARTED, GRANT = "ROBOLEARN_PARENT", "ROBOLEARN_STARTED_NS", "ROBOLEARN_GRANT"
"""Environment variables by which the supervisor tells a worker who started it, when, and which robot it may drive."""

STOPPED_EXIT = 3
"""Exit status of a worker whose robot has latched a stop: it must not be restarted into a robot that forgot it."""

LOST_EXIT = 4
"""Exit status of a worker whose robot is no longer leased to the run."""

CONFIG_EXIT = 5
"""Exit status of a worker that can never work as configured: to start it again would not help."""

DIVERGED_EXIT = 6
"""Exit status of a learner whose values have left what is possible: from the same data it would go there again."""

_PR_SET_PDEATHSIG = 1
_TRIMMED = frozenset({"clipped", "step", "tilt", "workspace", "driver"})


@dataclass
class StopFlag:
    """Set by SIGTERM, by the supervisor, or by the death of the parent."""

    set: bool = False


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent dies (Linux), and leave at once if it already has.

    Raises:
        SystemExit: the parent is gone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(1)


@dataclass
class Process:
    """Context of one process of a run.

    Attributes:
        role: ``learner``, ``actor0``, ... as in metrics and events.
        row: its row of the shared counters.
        grant: the robot it may drive.
    """

    role: str
    row: int
    paths: RunPaths
    started_ns: int
    grant: Grant | None = None
    stop: StopFlag = field(default_factory=StopFlag)

    def __post_init__(self) -> None:
        self.counters = Counters(self.paths.counters)
        self._metrics = JsonlWriter(self.paths.metrics)
        self._events = JsonlWriter(self.paths.events)
        self._guard = Guard(
            self.grant, lambda: self.counters.get(Row.SUPERVISOR, Field.HEARTBEAT_NS), on_event=self.event
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run (this sitting of it) started."""
        return (time.monotonic_ns() - self.started_ns) * 1e-9

    def beat(self) -> None:
        """Say that this process is alive."""
        self.counters.set(self.row, Field.HEARTBEAT_NS, time.monotonic_ns())

    def stopping(self) -> bool:
        """True once the run is to stop; also a heartbeat."""
        self.beat()
        return self.stop.set or self.counters.get(Row.SUPERVISOR, Field.DONE) != 0

    @property
    def epoch(self) -> int:
        """Epoch of the lease of its robot; 0 without one."""
        return self.grant.epoch if self.grant is not None else 0

    def hold(self) -> None:
        """Return when the robot may be moved: at once, unless the supervisor is silent (see ``Guard``).

        Raises:
            LeaseError: the lease is lost.
        """
        self._guard.hold(self.stopping)

    def metric(self, kind: str, **values: object) -> None:
        """Append a line to metrics.jsonl."""
        self._metrics.write({"kind": kind, "role": self.role, "time_s": round(self.elapsed_s, 3), **values})

    def event(self, event: str, level: str = "info", **values: object) -> None:
        """Append a line to events.jsonl."""
        self._events.write(
            {"time_s": round(self.elapsed_s, 3), "level": level, "role": self.role, "event": event, **values}
        )

    def safety_event(self, event: str, values: Mapping[str, object]) -> None:
        """Log what the safety layer did; what it only trimmed is no cause for alarm."""
        self.event(event, "info" if event in _TRIMMED else "warn", **values)

    def handle_signals(self) -> None:
        """SIGTERM asks for a clean end; SIGINT is the supervisor's business."""

        def terminate(signum: int, frame: FrameType | None) -> None:
            self.stop.set = True

        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def worker_environment(**extra: str) -> dict[str, str]:
    """Environment of a worker process: one thread of numerics unless the user set another number.

    Two OpenMP threads a process collapse when the cores are shared (docs/adr/0003-one-thread-per-process.md).
    """
    threads = os.environ.get("ROBOLEARN_THREADS", "1")
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, threads), **extra}


def run_paths(directory: str) -> RunPaths:
    """Paths of an existing run directory."""
    return RunPaths(Path(directory).resolve())
