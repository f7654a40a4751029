"""The worker processes of a run: started, watched, restarted, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from robolearn.core.errors import RobolearnError, RobotStoppedError
from robolearn.run.config import RunPaths
from robolearn.run.counters import Counters, Field
from robolearn.run.process import EPOCHS, PARENT, STARTED, STOPPED_EXIT, worker_environment

_QUICK_S, _MAX_QUICK, _SILENT_S, _BACKOFF_S = 20.0, 5, 120.0, (0.2, 1.0, 3.0, 6.0, 10.0)


@dataclass
class Child:
    """One worker: what it is, and how it has fared."""

    name: str
    row: int
    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restart_at: float = 0.0
    quick_deaths: int = 0
    restarts: int = 0
    finished: bool = False


@dataclass
class Children:
    """All workers of a run.

    Attributes:
        on_event: (event, level, values) for the run's event log.
    """

    paths: RunPaths
    counters: Counters
    started_ns: int
    epochs: list[int]
    on_event: Callable[..., None]
    members: list[Child] = field(default_factory=list)

    @property
    def restarts(self) -> int:
        """Restarts of all workers together."""
        return sum(child.restarts for child in self.members)

    def start(self, child: Child) -> subprocess.Popen[bytes]:
        """Start a worker in a session of its own (a terminal's Ctrl-C reaches only the supervisor)."""
        command = [sys.executable, "-m", "robolearn.run.worker", str(self.paths.root), *child.arguments]
        environment = worker_environment(
            **{PARENT: str(os.getpid()), STARTED: str(self.started_ns), EPOCHS: json.dumps(self.epochs)}
        )
        self.counters.set(child.row, Field.HEARTBEAT_NS, time.monotonic_ns())
        with open(self.log(child), "ab") as log:
            child.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        child.started = time.monotonic()
        if child not in self.members:
            self.members.append(child)
        return child.process

    def log(self, child: Child) -> Path:
        """Where a worker's output goes."""
        return self.paths.logs / f"{child.name}.log"

    def run(self, child: Child, going_on: Callable[[], bool]) -> None:
        """Start a worker that ends by itself and wait for it; it is started again when somebody kills it.

        Args:
            going_on: called meanwhile; when it says False the worker is asked to end early.

        Raises:
            RobolearnError: it failed; the message has its last words.
        """
        process, asked = self.start(child), False
        try:
            while (code := process.poll()) is None or (code < 0 and not asked and child.restarts < _MAX_QUICK):
                if code is not None:
                    self.on_event("worker died", "error", worker=child.name, code=code)
                    child.restarts += 1
                    process = self.start(child)
                if not asked and not going_on():
                    asked = True
                    process.terminate()
                time.sleep(0.05)
        finally:
            self.members.remove(child)
            self._kill(child)
        if process.returncode != 0 and not asked:
            raise RobolearnError(f"{child.name} failed: {self.last_words(child)}")

    def watch(self, finished: Callable[[Child], bool]) -> None:
        """Restart the dead, kill the silent.

        Raises:
            RobolearnError: a worker dies again and again right after its start.
        RobotStoppedError: a robot has latched a stop.
        """
        now = time.monotonic()
        for child in self.members:
            if child.finished:
                continue
            if child.process is None:
                if now >= child.restart_at:
                    self.start(child)
                continue
            code = child.process.poll()
            if code is None:
                self._check_silence(child, now)
            elif finished(child):
                child.finished = True
            else:
                self._bury(child, code, now)

    def _check_silence(self, child: Child, now: float) -> None:
        beat = self.counters.get(child.row, Field.HEARTBEAT_NS) * 1e-9
        if child.process is not None and now - beat > _SILENT_S:
            self.on_event("worker is silent, killing it", "error", worker=child.name, silent_s=round(now - beat, 1))
            child.process.kill()

    def _bury(self, child: Child, code: int, now: float) -> None:
        quick = now - child.started < _QUICK_S
        child.quick_deaths = child.quick_deaths + 1 if quick else 0
        words = self.last_words(child)
        self.on_event("worker died", "error", worker=child.name, code=code, words=words)
        child.process = None
        if code == STOPPED_EXIT:
            raise RobotStoppedError(words)
        if child.quick_deaths > _MAX_QUICK:
            raise RobolearnError(f"{child.name} dies again and again: {words} (see {self.log(child)})")
        child.restart_at = now + _BACKOFF_S[min(child.quick_deaths, len(_BACKOFF_S) - 1)]
        child.restarts += 1

    def last_words(self, child: Child) -> str:
        """Last line a worker printed."""
        lines = self.log(child).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self, patience_s: float = 30.0) -> None:
        """Ask all workers to end, wait, then kill who is left."""
        for child in self.members:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(c.process and c.process.poll() is None for c in self.members):
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """Kill all workers at once; what they had appended is durable."""
        for child in self.members:
            self._kill(child)

    @staticmethod
    def _kill(child: Child) -> None:
        if child.process is not None:
            if child.process.poll() is None:
                child.process.kill()
            child.process.wait()
