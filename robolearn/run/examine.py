"""Evaluation by several processes: one for each core on private robots, one for each robot where they exist once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from robolearn.core.errors import LeaseError, RobolearnError, RobotStoppedError
from robolearn.run.base import load_base, needs_base
from robolearn.run.borrow import on_robot
from robolearn.run.checkpoint import checkpoint_path, load_checkpoint, require_checkpoint
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.counters import Counters, Field, Row
from robolearn.run.evaluate import POLICY, EpisodeResult, EvalResult, evaluate, make_act, summarise
from robolearn.run.execution import executed
from robolearn.run.guard import Grant, Guard
from robolearn.run.process import LOST_EXIT, PARENT, STOPPED_EXIT, worker_environment
from robolearn.run.rundir import load_config
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import build_station, build_task

_POLL_S = 0.05

Todo = Mapping[str, Sequence[int]]
"""Who is evaluated -> numbers of the episodes."""


def examine(
    run: Path,
    out: Path,
    *,
    todo: Todo,
    seed: int,
    calls: int,
    alive: str,
    robot: str = "",
    grant: str = "",
    execution: Mapping[str, Any] | None = None,
) -> None:
    """Evaluate some episodes and write one JSON line an episode to ``out``.

    Args:
        calls: which checkpoint the learned policy is from.
        alive: counters by which the holder of the lease says that it is awake.
        robot: instead of the run's, where no robot is leased.
        grant: the leased robot (``Grant`` as JSON); empty for a private one.
        execution: how plans are executed, on top of the policy's own ``execution``.

    Raises:
        RobotStoppedError: the robot has latched a stop; what was done before is written.
        LeaseError: the robot is no longer ours.
    """
    paths, leased = RunPaths(run), Grant.from_json(grant)
    config = on_robot(load_config(paths, policy=POLICY in todo), robot)
    station = build_station(replace(config, realtime=False), leased)
    weights = load_checkpoint(checkpoint_path(paths.checkpoints, calls)).policy if POLICY in todo else None
    heartbeats = Counters(Path(alive))
    guard = Guard(leased, lambda: heartbeats.get(Row.SUPERVISOR, Field.HEARTBEAT_NS))

    def going_on() -> bool:
        guard.hold()
        return True

    with ExitStack() as policies, closing(station.robot), open(out, "w", encoding="utf-8", buffering=1) as file:

        def write(result: EpisodeResult) -> None:
            file.write(json.dumps(asdict(result)) + "\n")

        for name, numbers in todo.items():
            act, reset, close = make_act(name, config, station, seed, weights, execution)
            rngs = ((i, stream(seed, Stream.EVAL, i)) for i in numbers)
            policies.callback(close)  # after the robot: it may be planning
            evaluate(station, name, act, rngs, reset=reset, going_on=going_on, each=write)
            if station.robot.stopped:
                raise RobotStoppedError(f"{leased.robot if leased else config.robot} stopped: {station.robot.stopped}")


def evaluate_run(
    run_dir: str | Path,
    episodes: int = 100,
    seed: int = 1_000,
    *,
    who: Sequence[str] = (POLICY,),
    processes: int | None = None,
    robot: str = "",
    execution: Mapping[str, Any] | None = None,
    grants: Sequence[Grant] = (),
    tick: Callable[[], None] = lambda: None,
    failed: Callable[[Grant, RobolearnError], Grant | None] | None = None,
) -> list[EvalResult]:
    """Evaluate the newest checkpoint of a run (and, if named, the experts) with several processes.

    All of them take the same checkpoint, also while the run goes on. Episodes are split among the processes; what a
    robot that fails has left is split again among the others.

    Args:
        processes: how many, on private robots; one for each core without it.
        robot: private simulated copies of this one instead of the run's.
        execution: how plans are executed instead of as trained, e.g. ``{"mode": "realtime", "delay": 2}``.
        grants: leased robots, one process each; without any, private simulated copies.
        tick: called all the time; may raise to end the evaluation.
        failed: told of a leased robot that latched a stop or is lost; returns another one, or None to go on without.

    Raises:
        RobolearnError: a process failed; the message has its last words.
    """
    paths = RunPaths(Path(run_dir).resolve())
    config = load_config(paths, policy=bool(execution))
    if execution:
        executed(config.algo, config.policy, load_base(config) if needs_base(config) else None, execution)
    calls = require_checkpoint(paths.checkpoints).progress.calls if POLICY in who else 0
    paths.evaluation.mkdir(exist_ok=True)
    robots: list[Grant | None] = list(grants)
    if not robots:
        robots = [None] * max(1, min(processes or len(os.sched_getaffinity(0)), episodes))
    examiners = _Examiners(paths, seed, calls, robot, tick, dict(execution or {}))
    rows: list[EpisodeResult] = []
    while todo := _missing(who, episodes, rows):
        if not robots:
            raise RobotStoppedError("evaluation: no robot is left")
        found, failures = examiners.round(todo, robots)
        rows += found
        if not found and not failures:
            raise RobolearnError("evaluation failed: its processes ended without a result")
        for grant, error in failures:
            if grant is None or failed is None:
                raise type(error)(f"evaluation failed: {error}")
            robots.remove(grant)
            if (other := failed(grant, error)) is not None:
                robots.append(other)
    hz = _control_hz(config)
    return [summarise(name, [r for r in rows if r.policy == name], control_hz=hz, seed=seed) for name in who]


class _Examiners:
    """Starts processes and collects what they wrote, round after round."""

    def __init__(
        self,
        paths: RunPaths,
        seed: int,
        calls: int,
        robot: str,
        tick: Callable[[], None],
        execution: Mapping[str, Any],
    ) -> None:
        self._paths, self._seed, self._calls, self._robot, self._tick = paths, seed, calls, robot, tick
        self._execution = execution
        self._rounds = 0

    def round(
        self, todo: Todo, robots: Sequence[Grant | None]
    ) -> tuple[list[EpisodeResult], list[tuple[Grant | None, RobolearnError]]]:
        """Share ``todo`` out; return the episodes that were made, and robots that failed with why."""
        robots = robots[: max(map(len, todo.values()))]
        parts, name = len(robots), f"seed{self._seed}" + (f"-again{self._rounds}" if self._rounds else "")
        self._rounds += 1
        outs = [self._paths.evaluation / f"{name}-{part}of{parts}.jsonl" for part in range(parts)]
        for out in outs:
            out.unlink(missing_ok=True)  # of an earlier evaluation, perhaps of another checkpoint
        alive = self._paths.evaluation / f".alive-{os.getpid()}"
        heartbeats = Counters(alive)
        workers: list[subprocess.Popen[bytes]] = []
        try:
            heartbeats.set(Row.SUPERVISOR, Field.HEARTBEAT_NS, time.monotonic_ns())
            for part, (out, robot) in enumerate(zip(outs, robots, strict=True)):
                share = {who: list(numbers[part::parts]) for who, numbers in todo.items()}
                workers.append(self._start(out, share, robot, str(alive)))
            while any(worker.poll() is None for worker in workers):
                heartbeats.set(Row.SUPERVISOR, Field.HEARTBEAT_NS, time.monotonic_ns())
                self._tick()
                time.sleep(_POLL_S)
            failures: list[tuple[Grant | None, RobolearnError]] = [
                (robot, _failure(worker, out))
                for worker, out, robot in zip(workers, outs, robots, strict=True)
                if worker.returncode
            ]
        finally:
            alive.unlink(missing_ok=True)
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()
                    worker.wait()
        return [result for out in outs if out.exists() for result in _results(out)], failures

    def _start(self, out: Path, todo: Todo, robot: Grant | None, alive: str) -> subprocess.Popen[bytes]:
        grant = robot.to_json() if robot is not None else ""
        common = {"seed": self._seed, "calls": self._calls, "alive": alive, "robot": self._robot}
        common["execution"] = self._execution
        request = {"todo": todo, "grant": grant, **common}
        command = [sys.executable, "-m", "robolearn.run.worker", str(self._paths.root), "examiner", str(out)]
        with open(_log(out), "wb") as log:
            return subprocess.Popen(
                [*command, json.dumps(request)],
                env=worker_environment(**{PARENT: str(os.getpid())}),
                stderr=log,
                start_new_session=True,
            )


def _results(out: Path) -> list[EpisodeResult]:
    """Whole lines of a file; the last one of a killed process may be torn."""
    text = out.read_text()
    return [EpisodeResult(**json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


def _missing(who: Sequence[str], episodes: int, rows: Sequence[EpisodeResult]) -> dict[str, list[int]]:
    done = {(row.policy, row.index) for row in rows}
    todo = {name: [i for i in range(episodes) if (name, i) not in done] for name in who}
    return {name: numbers for name, numbers in todo.items() if numbers}


def _log(out: Path) -> Path:
    """What the process that writes ``out`` prints."""
    return out.with_suffix(".log")


def _failure(worker: subprocess.Popen[bytes], out: Path) -> RobolearnError:
    words = _log(out).read_text(errors="replace").strip().splitlines() if _log(out).exists() else []
    kind = {STOPPED_EXIT: RobotStoppedError, LOST_EXIT: LeaseError}.get(worker.returncode, RobolearnError)
    return kind(words[-1] if words else f"status {worker.returncode}")


def _control_hz(config: TrainConfig) -> float:
    return build_task(config).spec.control_hz
