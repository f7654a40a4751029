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
from robolearn.run.metrics import JsonlWriter

PARENT, STARTED, EPOCHS = "ROBOLEARN_PARENT", "ROBOLEARN_STARTED_NS", "ROBOLEARN_EPOCHS"
"""Environment variables by which the supervisor tells a worker who started it, when, and the epochs of its leases."""

STOPPED_EXIT = 3
"""Exit status of a worker whose robot has latched a stop: it must not be restarted into a robot that forgot it."""

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
    """

    role: str
    row: int
    paths: RunPaths
    started_ns: int
    epoch: int = 0
    stop: StopFlag = field(default_factory=StopFlag)

    def __post_init__(self) -> None:
        self.counters = Counters(self.paths.counters)
        self._metrics = JsonlWriter(self.paths.metrics)
        self._events = JsonlWriter(self.paths.events)

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
