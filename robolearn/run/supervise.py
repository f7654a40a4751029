"""The supervisor of a run: leases what it needs, starts its processes, keeps them alive, ends it with numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from robolearn.buffer.recover import recover
from robolearn.core.errors import LeaseError, RobolearnError, RobotStoppedError, StoreError
from robolearn.core.files import write_atomic
from robolearn.run.children import Child, Children
from robolearn.run.complete import acts, remarks
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.counters import Counters, Field, Row
from robolearn.run.demos import bring_demonstrations
from robolearn.run.finish import film, final_numbers
from robolearn.run.fleet import Fleet
from robolearn.run.guard import Grant
from robolearn.run.inventory import steps_of_writer
from robolearn.run.limiter import limiter_of
from robolearn.run.metrics import TensorBoardCopy
from robolearn.run.place import Handle, Scheduler
from robolearn.run.process import Process
from robolearn.run.robots import shared
from robolearn.run.status import StatusBoard

_TICK_S, _STATUS_S = 0.1, 0.5
_MAX_QUICK, _SHARED_QUICK = 5, 2
"""Quick deaths of an actor that are forgiven; fewer where each start may move a robot that exists once."""


class View(Protocol):
    """Something that shows the state of a run."""

    def update(self, status: dict[str, Any]) -> None:
        """Show a new status."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        state: ``done``, or ``stopped`` when the user ended it early.
        results: contents of results.json (empty unless done).
    """

    run_dir: Path
    state: str
    results: dict[str, Any]


def earlier(paths: RunPaths) -> dict[str, Any]:
    """The last status of an earlier sitting of the run; empty for a new run or an unreadable file."""
    try:
        status: dict[str, Any] = json.loads(paths.status.read_bytes())
    except (OSError, ValueError):
        return {}
    return status


class Supervisor:
    """Runs the processes of one run."""

    def __init__(self, paths: RunPaths, config: TrainConfig, scheduler: Scheduler, live: View | None) -> None:
        self.paths, self.config, self.scheduler, self.live = paths, config, scheduler, live
        before = earlier(paths)
        started_ns = time.monotonic_ns() - int(1e9 * before.get("elapsed_s", 0.0))
        self.process = Process("supervisor", Row.SUPERVISOR, paths, started_ns)
        self.earlier_restarts = int(before.get("restarts", 0))
        self.counters: Counters = self.process.counters
        self.counters.reset()
        self.children = Children(paths, self.counters, self._launch, self.process.event)
        self.fleet = Fleet(
            scheduler,
            shared=shared(config),
            run=str(paths.root),
            steps=self.counters.actor_steps,
            event=self.process.event,
        )
        self.online = acts(config)
        self.board = StatusBoard(paths, config, self.counters, utd_target=limiter_of(config).ratio)
        resumed = paths.metrics.exists() and paths.metrics.stat().st_size > 0
        self.tensorboard = TensorBoardCopy(paths.metrics, paths.tensorboard, resume=resumed)
        self.interrupts = 0
        self.examining = False
        self._shown = 0.0

    def _launch(self, child: Child) -> Handle:
        return self.scheduler.start(
            child.name, child.arguments, robot_of=child.robot_of, started_ns=self.process.started_ns
        )

    @property
    def restarts(self) -> int:
        """Restarts of workers, earlier sittings of the run included."""
        return self.earlier_restarts + self.children.restarts

    def run(self) -> RunResult:
        """Demonstrations, training, evaluation, report."""
        state, message, go_on = "failed", "", f"go on with: robolearn train --resume {self.paths.root}"
        try:
            with self._signals():
                self.process.event("start", placement=[place.row() for place in self.scheduler.places()])
                for remark in remarks(self.config):
                    self.process.event(remark)
                self._recover()
                self._demonstrations()
                self._train()
                if self.interrupts:
                    state, message = "stopped", go_on
                    return RunResult(self.paths.root, state, {})
                self.examining = True
                results = self._results()
                state = "done"
                return RunResult(self.paths.root, state, results)
        except OSError as error:
            message = f"{error.strerror or error}; then {go_on}"
            raise StoreError(f"the run directory cannot be written: {message}") from error
        except KeyboardInterrupt:
            state, message = "stopped", go_on
            return RunResult(self.paths.root, state, {})
        except RobolearnError as error:
            message = str(error)
            raise
        finally:
            self.children.kill()
            with suppress(OSError):
                self._show(state, message, force=True)
                self.tensorboard.close()
                self.process.event("end", "info" if state != "failed" else "error", state=state, message=message)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def interrupt(signum: int, frame: FrameType | None) -> None:
            self.interrupts += 1
            if self.interrupts > 1 or self.examining:
                raise KeyboardInterrupt  # workers are killed on the way out: to wait for one in here could deadlock

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _recover(self) -> None:
        """Complete what workers of an earlier sitting left open, also those that will not be started again.

        Steps are counted before any actor starts: the one that is up first must not make up for the others'.
        """
        if not (self.paths.buffer / "schema.json").is_file():
            return
        for writer in recover(self.paths.buffer):
            self.process.event("recovered the log of a dead writer", writer=writer)
        for index in range(self.config.robots):
            self.counters.set(Row.ACTORS + index, Field.STEPS, steps_of_writer(self.paths.buffer, f"actor{index}"))

    def _demonstrations(self) -> None:
        if self.config.demos_from:
            self._show("recording", f"taking demonstrations from {self.config.demos_from}", force=True)
            bring_demonstrations(self.config, self.paths)
        elif self.config.demos:
            self._show("recording", "recording demonstrations", force=True)
            while not self._recorded():
                pass

    def _recorded(self) -> bool:
        """Record with the first robot there is; False when that failed and another one has to go on."""
        recorder = Child("recorder", Row.EVALUATOR, ["recorder"], robot_of=self.fleet.robots()[0].role)
        try:
            self.children.run(recorder, self._recording)
        except (RobotStoppedError, LeaseError) as error:
            self.fleet.failed(recorder, error)
            return False
        lost = self.fleet.lost()
        for role, why in lost.items():
            self.fleet.substitute(role, LeaseError(why))
        return not lost or bool(self.interrupts)

    def _recording(self) -> bool:
        self.process.beat()
        return not self.interrupts and not self.fleet.lost()

    def _train(self) -> None:
        if self.interrupts:
            return
        self._show("training", force=True)
        for child in self._workers():
            self.children.start(child)
        while not self.counters.get(Row.LEARNER, Field.DONE) and not self.interrupts:
            self._check_leases()
            self.children.watch(self._finished, self._worker_failed)
            self._show("training", "" if self.online else self._offline_progress())
            time.sleep(_TICK_S)
        self.counters.set(Row.SUPERVISOR, Field.DONE, 1)
        self._show("training", "stopping" if self.interrupts else "last updates done", force=True)
        self.children.stop()
        self.children.run(Child("sealer", Row.SEALER, ["sealer", "everything"]), lambda: True)

    def _workers(self) -> list[Child]:
        workers = [Child("learner", Row.LEARNER, ["learner"])]
        if self.online:
            for place in self.fleet.robots():
                index = int(place.role.removeprefix("actor"))
                few = _SHARED_QUICK if shared(self.config) else _MAX_QUICK
                arguments = ["actor", str(index)]
                workers.append(Child(place.role, Row.ACTORS + index, arguments, robot_of=place.role, max_quick=few))
            if any(place.role == "evaluator" for place in self.scheduler.places()):
                workers.append(Child("evaluator", Row.EVALUATOR, ["evaluator"]))
        return [*workers, Child("sealer", Row.SEALER, ["sealer"])]

    def _offline_progress(self) -> str:
        share = self.counters.get(Row.LEARNER, Field.UPDATES) / self.config.policy.updates
        return f"{10 * int(10 * share)} % of {self.config.policy.updates:,} updates"

    def _finished(self, child: Child) -> bool:
        if child.process is None or child.process.returncode != 0:
            return False
        if child.name == "learner":
            return self.counters.get(Row.LEARNER, Field.DONE) == 1
        return child.name.startswith("actor") and self.counters.actor_steps() >= self.config.steps

    def _worker_failed(self, child: Child, error: RobolearnError) -> bool:
        again = self.fleet.failed(child, error)
        if not again:
            self._recount(child)
        return again

    def _recount(self, gone: Child) -> None:
        """Count what an actor that will not come back really stored; the others make up for the step it died in."""
        recover(self.paths.buffer)
        self.counters.set(gone.row, Field.STEPS, steps_of_writer(self.paths.buffer, gone.name))
        if self.counters.actor_steps() < self.config.steps:
            for child in self.children.members:
                if child is not gone and child.robot_of and child.finished and child.robot_of in self._held():
                    child.finished, child.process, child.restart_at = False, None, 0.0

    def _held(self) -> set[str]:
        return {place.role for place in self.fleet.robots()}

    def _check_leases(self) -> None:
        for role, why in self.fleet.lost().items():
            child = next((child for child in self.children.members if child.robot_of == role), None)
            if child is not None:
                self.children.end(child)  # before anybody else may get its robot
            place = self.fleet.substitute(role, LeaseError(why))
            if child is not None:
                self.children.settle(child, place is not None)
                if place is None:
                    self._recount(child)

    def _results(self) -> dict[str, Any]:
        count = f"{self.config.eval_episodes} unseen episodes, policy only"
        self._show("evaluating", count, force=True)
        grants = [place.grant for place in self.fleet.robots() if place.grant is not None and place.grant.shared]
        status = self._status("done", "")
        results = final_numbers(
            self.process,
            self.config,
            {**status, "safety_events": self.board.safety_events},
            grants=grants,
            tick=lambda: self._evaluating(count),
            failed=self._examiner_failed,
        )
        self._media()
        return results

    def _evaluating(self, message: str) -> None:
        for role, why in self.fleet.lost().items():
            raise LeaseError(f"{role}: {why}; go on with: robolearn train --resume {self.paths.root}")
        self._show("evaluating", message)

    def _examiner_failed(self, grant: Grant, error: RobolearnError) -> Grant | None:
        if not isinstance(error, RobotStoppedError | LeaseError):
            raise error
        role = next(place.role for place in self.fleet.robots() if place.grant == grant)
        place = self.fleet.substitute(role, error)
        return None if place is None else place.grant

    def _media(self) -> None:
        """Video and report; a machine that cannot render still gets its numbers."""
        from robolearn.run.report import write_report

        if self.config.video:
            self._show("evaluating", "filming the policy", force=True)
            grants = [place.grant for place in self.fleet.robots() if place.grant is not None]
            film(self.process, self.config, grants, lambda: self._evaluating("filming the policy"))
        write_report(self.paths.root)

    def _status(self, state: str, message: str) -> dict[str, Any]:
        status = self.board.status(state, elapsed_s=self.process.elapsed_s, restarts=self.restarts, message=message)
        return {
            **status,
            "placement": [place.row() for place in self.scheduler.places()],
            "robots_lost": list(self.fleet.gone),
        }

    def _show(self, state: str, message: str = "", *, force: bool = False) -> None:
        now = time.monotonic()
        self.process.beat()
        if not force and now - self._shown < _STATUS_S:
            return
        self._shown = now
        self.tensorboard.update()
        status = self._status(state, message)
        write_atomic(self.paths.status, json.dumps({**status, "pid": os.getpid()}).encode(), durable=False)
        if self.live is not None:
            self.live.update(status)
