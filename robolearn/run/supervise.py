"""The supervisor of a run: leases what it needs, starts its processes, keeps them alive, ends it with numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from robolearn.buffer.recover import recover
from robolearn.core import config as typed
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, ResumeError, RobolearnError, StoreError, suggest
from robolearn.core.files import write_atomic
from robolearn.hal.leases import Lease
from robolearn.run import rundir
from robolearn.run.children import Child, Children
from robolearn.run.claims import lease_for
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.counters import MAX_ACTORS, Counters, Field, Row
from robolearn.run.demos import bring_demonstrations, parse_data
from robolearn.run.evaluate import BLIND, INFORMED, POLICY, EvalResult, evaluate_run
from robolearn.run.inventory import buffer_root, steps_of_writer
from robolearn.run.limiter import limiter_of
from robolearn.run.metrics import TensorBoardCopy
from robolearn.run.process import Process
from robolearn.run.station import is_simulated
from robolearn.run.status import StatusBoard

_TICK_S, _STATUS_S = 0.1, 0.5
_EXAM_SEED = 1_000_003


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


def complete(config: TrainConfig) -> TrainConfig:
    """Fill in what the task's tier decides, and refuse what cannot work.

    Raises:
        ConfigError: unknown tier, or numbers out of range.
        StoreError: there is no buffer in ``demos_from``.
    """
    task = plugins.load("task", config.task)
    if config.tier not in task.TIERS:
        raise ConfigError(f"unknown tier '{config.tier}' of {config.task}{suggest(config.tier, task.TIERS)}")
    env = config.env if config.env is not None else task.TIERS[config.tier]
    policy = config.policy if config.policy is not None else plugins.load("policy", config.algo).Config()
    least_of = {"steps": 0, "demos": 0, "eval_episodes": 1, "eval_every": 0, "eval_curve_episodes": 1}
    for name, least in (least_of | {"publish_every": 1}).items():
        if getattr(config, name) < least:
            raise ConfigError(f"{name}: expected at least {least}, got {getattr(config, name)}")
    if not 1 <= config.robots <= MAX_ACTORS:
        raise ConfigError(f"robots: expected 1 to {MAX_ACTORS}, got {config.robots}")
    if not is_simulated(config.robot):
        raise ConfigError(
            f"{config.robot} is real hardware; runs evaluate on robots they have not leased, so they take simulated "
            f"ones only"
        )
    if config.demos_from:
        buffer_root(Path(config.demos_from))
    steps = (config.steps or env.steps) if acts(config) else 0
    parse_data(config.data)
    for name in ("ram_gb", "disk_gb"):
        if getattr(config, name) < 0.0:
            raise ConfigError(f"{name}: expected at least 0, got {getattr(config, name)}")
    if not acts(config) and not (config.demos or config.demos_from or config.data):
        raise ConfigError(
            f"{config.algo} learns from demonstrations alone; give it some with --demos, --demos-from or --data"
        )
    return dataclasses.replace(config, env=env, policy=policy, steps=steps)


def acts(config: TrainConfig) -> bool:
    """False when the run's policy family learns from stored data alone."""
    return bool(plugins.load("policy", config.algo).ONLINE)


def train(config: TrainConfig, *, argv: Sequence[str], live: View | None = None) -> RunResult:
    """Train from nothing in a new run directory."""
    config = complete(config)
    root = (Path(config.run_dir) if config.run_dir else rundir.default_run_dir(config)).resolve()
    config = dataclasses.replace(config, run_dir=str(root))
    with lease_for(config, root) as leases:
        paths = rundir.create(config, argv)
        return Supervisor(paths, config, leases, live).run()


def resume(
    run_dir: str | Path, *, overrides: Callable[[TrainConfig], TrainConfig] | None = None, live: View | None = None
) -> RunResult:
    """Go on with a run where it stopped.

    Args:
        overrides: what the user asks for on top of the stored configuration; only ``steps`` and ``headless`` may
            differ.

    Raises:
        ResumeError: the configuration would change; the message shows how.
    """
    paths = RunPaths(Path(run_dir).resolve())
    stored = rundir.load_config(paths)
    wanted = overrides(stored) if overrides is not None else stored
    kept = dataclasses.replace(stored, steps=wanted.steps, headless=wanted.headless, wait=wanted.wait)
    changed = typed.diff(kept, wanted)
    if changed:
        raise ResumeError("a resumed run keeps its configuration; refused: " + "; ".join(changed))
    if wanted.steps < stored.steps:
        raise ResumeError(f"steps: a resumed run can only be extended, got {wanted.steps} after {stored.steps}")
    wanted = dataclasses.replace(wanted, run_dir=str(paths.root))
    with lease_for(wanted, paths.root) as leases:
        rundir.save_config(paths, wanted)
        return Supervisor(paths, wanted, leases, live).run()


def earlier(paths: RunPaths) -> dict[str, Any]:
    """The last status of an earlier sitting of the run; empty for a new run or an unreadable file."""
    try:
        status: dict[str, Any] = json.loads(paths.status.read_bytes())
    except (OSError, ValueError):
        return {}
    return status


class Supervisor:
    """Runs the processes of one run."""

    def __init__(self, paths: RunPaths, config: TrainConfig, leases: Sequence[Lease], live: View | None) -> None:
        self.paths, self.config, self.live = paths, config, live
        before = earlier(paths)
        started_ns = time.monotonic_ns() - int(1e9 * before.get("elapsed_s", 0.0))
        self.process = Process("supervisor", Row.SUPERVISOR, paths, started_ns)
        self.earlier_restarts = int(before.get("restarts", 0))
        self.counters: Counters = self.process.counters
        self.counters.reset()
        self.leases = leases
        self.children = Children(
            paths, self.counters, self.process.started_ns, [lease.epoch for lease in leases], self.process.event
        )
        self.online = acts(config)
        self.board = StatusBoard(paths, config, self.counters, utd_target=limiter_of(config).ratio)
        resumed = paths.metrics.exists() and paths.metrics.stat().st_size > 0
        self.tensorboard = TensorBoardCopy(paths.metrics, paths.tensorboard, resume=resumed)
        self.interrupts = 0
        self.examining = False
        self._shown = 0.0

    @property
    def restarts(self) -> int:
        """Restarts of workers, earlier sittings of the run included."""
        return self.earlier_restarts + self.children.restarts

    def run(self) -> RunResult:
        """Demonstrations, training, evaluation, report."""
        state, message, go_on = "failed", "", f"go on with: robolearn train --resume {self.paths.root}"
        try:
            with self._signals():
                self.process.event("start", leases=[f"{lease.resource}@{lease.epoch}" for lease in self.leases])
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
            recorder = Child("recorder", Row.EVALUATOR, ["recorder"])
            self.children.run(recorder, self._going_on)

    def _going_on(self) -> bool:
        self._check_leases()
        return not self.interrupts

    def _train(self) -> None:
        if self.interrupts:
            return
        self.children.start(Child("learner", Row.LEARNER, ["learner"]))
        if self.online:
            for index in range(self.config.robots):
                self.children.start(Child(f"actor{index}", Row.ACTORS + index, ["actor", str(index)]))
            if self.config.eval_every:
                self.children.start(Child("evaluator", Row.EVALUATOR, ["evaluator"]))
        self.children.start(Child("sealer", Row.SEALER, ["sealer"]))
        while not self.counters.get(Row.LEARNER, Field.DONE) and not self.interrupts:
            self._check_leases()
            self.children.watch(self._finished)
            self._show("training", "" if self.online else self._offline_progress())
            time.sleep(_TICK_S)
        self.counters.set(Row.SUPERVISOR, Field.DONE, 1)
        self._show("training", "stopping" if self.interrupts else "last updates done", force=True)
        self.children.stop()
        self.children.run(Child("sealer", Row.SEALER, ["sealer", "everything"]), lambda: True)

    def _offline_progress(self) -> str:
        share = self.counters.get(Row.LEARNER, Field.UPDATES) / self.config.policy.updates
        return f"{10 * int(10 * share)} % of {self.config.policy.updates:,} updates"

    def _finished(self, child: Child) -> bool:
        if child.process is None or child.process.returncode != 0:
            return False
        if child.name == "learner":
            return self.counters.get(Row.LEARNER, Field.DONE) == 1
        return child.name.startswith("actor") and self.counters.actor_steps() >= self.config.steps

    def _check_leases(self) -> None:
        for lease in self.leases:
            if lease.lost:
                raise RobolearnError(f"the lease of {lease.resource} is lost: {lease.lost}; the run stops")

    def _results(self) -> dict[str, Any]:
        self._show("evaluating", f"{self.config.eval_episodes} unseen episodes, policy only", force=True)
        learned, blind, informed = evaluate_run(
            self.paths.root, self.config.eval_episodes, _EXAM_SEED, who=(POLICY, BLIND, INFORMED)
        )
        self._log_final(learned)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        name = f"{self.config.algo} (final)"
        status = self.board.status("done", elapsed_s=self.process.elapsed_s, restarts=self.restarts)
        results = {
            **{key: getattr(self.config, key) for key in ("task", "tier", "algo", "seed", "demos", "obs", "robots")},
            **{key: status[key] for key in ("steps", "robot_s", "updates", "utd", "episodes", "restarts")},
            "wall_s": round(self.process.elapsed_s, 1),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
            "safety_events": self.board.safety_events,
            "rows": [
                {**result.to_json(), "policy": label}
                for label, result in ((name, learned), ("blind expert", blind), ("informed expert", informed))
            ],
        }
        write_atomic(self.paths.results, json.dumps(results, indent=1).encode())
        self._media()
        return results

    def _log_final(self, result: EvalResult) -> None:
        line = result.to_json()
        line.pop("policy")
        steps = self.counters.get(Row.LEARNER, Field.STEPS)
        self.process.metric(
            "eval",
            steps=steps,
            robot_s=self.counters.robot_seconds(),
            policy_version=self.counters.get(Row.LEARNER, Field.VERSION),
            final=True,
            **line,
        )

    def _media(self) -> None:
        """Video and report; a machine that cannot render still gets its numbers."""
        from robolearn.run.report import write_report
        from robolearn.run.rollout import rollout

        if self.config.video:
            self._show("evaluating", "filming the policy", force=True)
            try:
                rollout(self.paths.root, video=self.paths.videos / "policy.mp4", episodes=2, seed=self.config.seed)
            except RobolearnError as error:
                self.process.event("no video", "warn", why=str(error))
        write_report(self.paths.root)

    def _show(self, state: str, message: str = "", *, force: bool = False) -> None:
        now = time.monotonic()
        self.process.beat()
        if not force and now - self._shown < _STATUS_S:
            return
        self._shown = now
        self.tensorboard.update()
        status = self.board.status(state, elapsed_s=self.process.elapsed_s, restarts=self.restarts, message=message)
        write_atomic(self.paths.status, json.dumps({**status, "pid": os.getpid()}).encode(), durable=False)
        if self.live is not None:
            self.live.update(status)
