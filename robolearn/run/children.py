"""The worker processes of a run: started, watched, restarted, stopped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from robolearn.core.errors import (
    ConfigError,
    LeaseError,
    RobolearnError,
    RobotStoppedError,
    TrainingDivergedError,
)
from robolearn.run.config import RunPaths
from robolearn.run.counters import Counters, Field
from robolearn.run.place import Handle
from robolearn.run.process import CONFIG_EXIT, DIVERGED_EXIT, LOST_EXIT, STOPPED_EXIT

_QUICK_S, _SILENT_S, _BACKOFF_S = 20.0, 120.0, (0.2, 1.0, 3.0, 6.0, 10.0)
_MAX_QUICK, _MAX_HOURLY, _HOUR_S = 5, 20, 3600.0
_FAILURES = {STOPPED_EXIT: RobotStoppedError, LOST_EXIT: LeaseError}
_FINAL = {CONFIG_EXIT: ConfigError, DIVERGED_EXIT: TrainingDivergedError}

Failed = Callable[["Child", RobolearnError], bool]
"""Told of a worker that must not simply be started again; says whether it is (True) or the run goes on without it
(False), or raises."""


@dataclass
class Child:
    """One worker: what it is, and how it has fared.

    Attributes:
        robot_of: the role whose robot it drives; empty for none.
        max_quick: deaths soon after a start that are forgiven, one after another.
    """

    name: str
    row: int
    arguments: list[str]
    robot_of: str = ""
    max_quick: int = _MAX_QUICK
    process: Handle | None = None
    started: float = 0.0
    restart_at: float = 0.0
    quick_deaths: int = 0
    deaths: deque[float] = field(default_factory=deque)
    restarts: int = 0
    finished: bool = False


def give_up(child: Child, error: RobolearnError) -> bool:
    """What to do with a failed worker where nobody knows better: the run ends."""
    raise error


@dataclass
class Children:
    """All workers of a run.

    Attributes:
        launch: starts the process of a worker.
        on_event: (event, level, values) for the run's event log.
    """

    paths: RunPaths
    counters: Counters
    launch: Callable[[Child], Handle]
    on_event: Callable[..., None]
    members: list[Child] = field(default_factory=list)

    @property
    def restarts(self) -> int:
        """Restarts of all workers together."""
        return sum(child.restarts for child in self.members)

    def start(self, child: Child) -> Handle:
        """Start a worker."""
        self.counters.set(child.row, Field.HEARTBEAT_NS, time.monotonic_ns())
        child.process = self.launch(child)
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
            RobotStoppedError: its robot has latched a stop.
            LeaseError: its robot is no longer leased.
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
            self.end(child)
        if process.returncode != 0 and not asked:
            kind = {**_FAILURES, **_FINAL}.get(process.returncode, RobolearnError)
            raise kind(f"{child.name} failed: {self.last_words(child)}")

    def watch(self, finished: Callable[[Child], bool], failed: Failed = give_up) -> None:
        """Restart the dead, kill the silent.

        Args:
            finished: whether a dead worker has done its work.
            failed: told when a restart alone will not do: a latched stop, a lost lease, deaths again and again.

        Raises:
            RobolearnError: what ``failed`` raises; a worker that cannot work as configured.
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
                self._bury(child, code, now, failed)

    def settle(self, child: Child, going_on: bool) -> None:
        """A failed worker starts anew, with a clean record, or is done with."""
        self.end(child)
        child.process, child.quick_deaths, child.restart_at = None, 0, 0.0
        child.deaths.clear()
        child.finished = not going_on
        child.restarts += going_on

    def _check_silence(self, child: Child, now: float) -> None:
        beat = self.counters.get(child.row, Field.HEARTBEAT_NS) * 1e-9
        if child.process is not None and now - beat > _SILENT_S:
            self.on_event("worker is silent, killing it", "error", worker=child.name, silent_s=round(now - beat, 1))
            child.process.kill()

    def _bury(self, child: Child, code: int, now: float, failed: Failed) -> None:
        child.quick_deaths = child.quick_deaths + 1 if now - child.started < _QUICK_S else 0
        child.deaths.append(now)
        while now - child.deaths[0] > _HOUR_S:
            child.deaths.popleft()
        words = self.last_words(child)
        self.on_event("worker died", "error", worker=child.name, code=code, words=words)
        child.process = None
        if code in _FINAL:
            raise _FINAL[code](words)
        if code in _FAILURES:
            self.settle(child, failed(child, _FAILURES[code](words)))
        elif child.quick_deaths > child.max_quick or len(child.deaths) > _MAX_HOURLY:
            often = f"{child.name} dies again and again: {words} (see {self.log(child)})"
            self.settle(child, failed(child, RobolearnError(often)))
        else:
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
                child.process.terminate()
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(c.process and c.process.poll() is None for c in self.members):
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """Kill all workers at once; what they had appended is durable."""
        for child in self.members:
            self.end(child)

    @staticmethod
    def end(child: Child) -> None:
        """Kill one worker, if it runs."""
        if child.process is not None:
            if child.process.poll() is None:
                child.process.kill()
            child.process.wait()
